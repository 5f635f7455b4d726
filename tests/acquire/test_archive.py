import io
import os
import tarfile
from pathlib import Path

import pytest

from vidcurate.acquire.archive import extract, member, tar_members
from vidcurate.errors import AcquireError

MIB = 2**20


def tar(path: Path, files: dict[str, bytes], **how: object) -> Path:
    with tarfile.open(path, "w", **how) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def names(path: Path) -> list[str]:
    return [info.name for info in tar_members(path)]


def test_a_location_is_split_at_an_existing_tar(tmp_path: Path) -> None:
    odd = tmp_path / "day #1"
    odd.mkdir()
    path = tar(odd / "a.tar", {"x": b""})
    assert member(f"{path}#s/clip#2.mp4") == (path, "s/clip#2.mp4")
    assert member(str(path)) is None
    assert member(f"{tmp_path}/gone.tar#x") is None
    assert member(f"https://x.org/{path}#x") is None
    assert member(f"{path}\0#x") is None


def test_a_file_of_that_very_name_is_no_member(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"x": b""})
    (tmp_path / "a.tar#x").write_bytes(b"a file")
    assert member(f"{path}#x") is None


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_every_format(tmp_path: Path, kind: int) -> None:
    long = "folder/" * 12 + "clip.mp4" if kind == tarfile.USTAR_FORMAT else "n" * 300 + "é.mp4"
    path = tar(tmp_path / "a.tar", {"a.mp4": b"1" * 700, long: b"2", "c.txt": b""}, format=kind)
    assert [(m.name, m.size) for m in tar_members(path)] == [
        ("a.mp4", 700),
        (long, 1),
        ("c.txt", 0),
    ]


def test_extract_writes_the_first_member_of_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for content in (os.urandom(3 * MIB), b"second"):
            info = tarfile.TarInfo("a.mp4")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    first = next(tar_members(path))
    whole = path.read_bytes()
    extract(path, "a.mp4", tmp_path / "out", max_size=3 * MIB)
    assert (tmp_path / "out").read_bytes() == whole[first.offset_data :][: 3 * MIB]
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "out"]


def test_a_tar_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.mp4": b"old"})
    extract(path, "a.mp4", tmp_path / "out", max_size=10)
    tar(tmp_path / "new.tar", {"first": b"", "a.mp4": b"new"}).replace(path)
    os.utime(path, ns=(1, 1))
    extract(path, "a.mp4", tmp_path / "out", max_size=10)
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b.mp4", "no member 'b.mp4'"),
        ("big.mp4", "'big.mp4' has 11 bytes, more than the 10 allowed"),
        ("link.mp4", "'link.mp4' is no regular file"),
        ("hard.mp4", "'hard.mp4' is no regular file"),
        ("pipe.mp4", "'pipe.mp4' is no regular file"),
        ("folder", "'folder' is no regular file"),
    ],
)
def test_what_is_not_extracted(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "a.tar"
    (tmp_path / "secret").write_text("x")
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("big.mp4")
        info.size = 11
        archive.addfile(info, io.BytesIO(b"x" * 11))
        for other, kind in (
            ("link.mp4", tarfile.SYMTYPE),
            ("hard.mp4", tarfile.LNKTYPE),
            ("pipe.mp4", tarfile.FIFOTYPE),
            ("folder", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(other)
            info.type, info.linkname = kind, str(tmp_path / "secret")
            archive.addfile(info)
    with pytest.raises(AcquireError, match=message):
        extract(path, name, tmp_path / "out", max_size=10)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "secret"]


def test_a_tar_cut_short_gives_its_whole_members_first(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.mp4": b"1" * 600, "b.mp4": b"2" * 5000})
    whole = path.read_bytes()
    path.write_bytes(whole[:4000])  # inside b.mp4
    found = []
    with pytest.raises(AcquireError, match=r"cut short in 'b.mp4', which has 5000 bytes"):
        found.extend(info.name for info in tar_members(path))
    extract(path, "a.mp4", tmp_path / "out", max_size=600)
    assert (tmp_path / "out").read_bytes() == b"1" * 600
    with pytest.raises(AcquireError, match="cut short"):
        extract(path, "b.mp4", tmp_path / "out2", max_size=MIB)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: 3 * 512], "no end mark"),  # after a.mp4 (header, 2 blocks)
        (lambda data: data[: 3 * 512 + 100], "broken header at byte 1536"),
        (lambda data: data[: 3 * 512] + b"junk" * 256 + data[5 * 512 :], "broken header at byte"),
    ],
)
def test_a_break_between_members_is_told(tmp_path: Path, change, message: str) -> None:
    path = tar(tmp_path / "a.tar", {"a.mp4": b"1" * 600, "b.mp4": b"2" * 600})
    path.write_bytes(change(path.read_bytes()))
    members = tar_members(path)
    assert next(members).name == "a.mp4"
    with pytest.raises(AcquireError, match=message):
        next(members)


@pytest.mark.parametrize("content", [b"", b"<html>" * 200, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_tar(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(AcquireError, match=r"a\.tar: not a readable plain tar"):
        names(path)


def test_a_missing_tar(tmp_path: Path) -> None:
    with pytest.raises(AcquireError, match="cannot be read: No such file"):
        names(tmp_path / "gone.tar")


def test_a_negative_size_does_not_loop(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.mp4": b"", "b.mp4": b""})
    data = bytearray(path.read_bytes())
    data[512 + 124 : 512 + 136] = (b"\xff" * 10) + (-1024).to_bytes(2, "big", signed=True)
    data[512 + 148 : 512 + 156] = b" " * 8
    data[512 + 148 : 512 + 156] = b"%06o\0 " % sum(data[512:1024])
    path.write_bytes(bytes(data))
    members = tar_members(path)
    assert next(members).name == "a.mp4"
    with pytest.raises(AcquireError, match="broken header at byte 512"):
        next(members)
