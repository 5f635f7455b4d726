"""Grouping of tar members: the real webdataset gives the same samples."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_iterator

from vidcurate.shards.tar_samples import TarFault, TarSample, tar_samples


def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(path: Path) -> list[TarSample]:
    return [found for found in tar_samples(path) if isinstance(found, TarSample)]


def faults(path: Path) -> list[TarFault]:
    return [found for found in tar_samples(path) if isinstance(found, TarFault)]


def test_groups_are_those_of_webdataset(tmp_path: Path) -> None:
    names = (
        *("__x__", "a.mp4", "a.JSON", "readme", "b.seg.mp4", "b.txt", ".hidden"),
        *("dir/c.mp4", "dir/c.txt", "dir.d/c.mp4", "./e.mp4", "__keys__/f.mp4", "Ü 1.txt"),
    )
    path = write(tmp_path / "x.tar", [(name, name.encode()) for name in names])
    with path.open("rb") as file:
        theirs = {
            sample["__key__"]: {k: v for k, v in sample.items() if k[:2] != "__"}
            for sample in group_by_keys(
                {**found, "__url__": ""} for found in tar_file_iterator(file)
            )
        }
    data = path.read_bytes()
    ours = {
        sample.key: {p.suffix: data[p.offset : p.offset + p.size] for p in sample.members}
        for sample in samples(path)
    }
    assert ours == theirs
    assert set(ours) == {"a", "b", "dir/c", "dir.d/c", "./e", "Ü 1"}
    assert faults(path) == []


def test_the_video_is_chosen_by_its_ending(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", [(f"a.{s}", b"") for s in ("txt", "mov", "mp4", "jpg")])
    (sample,) = samples(path)
    assert sample.video is not None
    assert sample.video.name == "a.mp4"
    assert samples(write(tmp_path / "y.tar", [("a.txt", b"")]))[0].video is None


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.tar",
        [(n, b"") for n in ("a.mp4", "a.mp4", "b.mp4", "a.txt", "a.json", "c.mp4", "../d.mp4")],
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("e.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert [s.key for s in samples(path)] == ["a", "b", "c"]
    assert [(f.key, f.reason) for f in faults(path)] == [
        ("a", "'a.mp4': the sample holds it twice"),
        ("a", "'a.txt': its key stood before other keys already"),
        ("../d", "'../d.mp4': the name leads out of the tar"),
        ("e", "'e.mp4': a link, a device or the like, not a regular file"),
    ]


def test_a_tar_that_is_cut_short(tmp_path: Path) -> None:
    whole = [(f"{key}.{s}", bytes(600)) for key in "abc" for s in ("mp4", "txt")]
    data = write(tmp_path / "whole.tar", whole).read_bytes()
    step = 512 + 1024
    cut = tmp_path / "cut.tar"

    cut.write_bytes(data[: 3 * step + 700])  # in b.txt
    assert [s.key for s in samples(cut)] == ["a"]
    assert [f.key for f in faults(cut)] == ["b", None]
    assert "cut short in 'b.txt'" in faults(cut)[0].reason

    cut.write_bytes(data[: 4 * step + 700])  # in c.mp4
    assert [s.key for s in samples(cut)] == ["a", "b"]
    assert [f.key for f in faults(cut)] == ["c", None]

    cut.write_bytes(data[: 4 * step])  # between two: b may lack members
    assert [s.key for s in samples(cut)] == ["a"]
    assert [(f.key, f.reason) for f in faults(cut)] == [
        ("b", "no end mark: it may be cut short: it may lack members"),
        (None, "no end mark: it may be cut short; what follows is lost"),
    ]


def test_what_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"plain text\n" * 100)
    assert samples(path) == []
    (fault,) = faults(path)
    assert "not a readable plain tar" in fault.reason
    assert faults(tmp_path / "none.tar")[0].reason.startswith("cannot be read")
