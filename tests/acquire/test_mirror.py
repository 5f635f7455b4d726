import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from vidcurate.acquire.limits import Stopped
from vidcurate.acquire.mirror import Place, copy, local_file, names_of, place_of
from vidcurate.errors import (
    AcquireError,
    MissingExtraError,
    StorageError,
    TransferError,
    UserError,
)
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire

ID = "-a_bcdefghi"  # YouTube ids may begin with a dash
ROW = VideoRow(
    f"https://www.youtube.com/watch?v={ID}",
    key=f"youtube:{ID}",
    dataset_id="row7",
    fields={"page_dir": "001_051", "part": 3, "odd": "x[1]*?", "none": None, "tags": ["a"]},
)


def place(pattern: str, row: VideoRow = ROW) -> Place:
    found = place_of(pattern, row)
    assert found is not None
    return found


def local(pattern: str, row: VideoRow = ROW) -> Path | None:
    found = place(pattern, row)
    assert not found.is_remote
    return local_file(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


# ------------------------------------------------------------------ names


def test_the_video_id_is_youtubes_else_the_datasets() -> None:
    assert place("/m/{video_id}.mp4").url == f"/m/{ID}.mp4"
    plain = VideoRow(f"https://youtu.be/{ID}", dataset_id="row7")
    assert place("/m/{video_id}.mp4", plain).url == f"/m/{ID}.mp4"
    other = VideoRow("https://x.example/a.mp4", dataset_id="row7")
    assert place("/m/{video_id}.mp4", other).url == "/m/row7.mp4"
    assert place_of("/m/{video_id}.mp4", VideoRow("https://x.example/a.mp4")) is None


def test_other_names_are_columns() -> None:
    assert place("/m/{page_dir}/{part}/{video_id}.mp4").url == f"/m/001_051/3/{ID}.mp4"
    assert place_of("/m/{none}/{video_id}.mp4", ROW) is None


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no column 'videoid'.*video_id, none, odd, page_dir"):
        place_of("/m/{videoid}.mp4", ROW)
    with pytest.raises(UserError, match="'tags' holds no text"):
        place_of("/m/{tags}.mp4", ROW)


@pytest.mark.parametrize("pattern", ["/m/{}.mp4", "/m/{a", "/m/a}", "/m/{a!r}", "/m/{a:>9}"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(UserError, match=r"acquire\.mirror"):
        names_of(pattern)


def test_attributes_are_not_looked_up() -> None:
    with pytest.raises(UserError, match=r"no column 'page_dir\.__class__'"):
        place_of("/m/{page_dir.__class__}", ROW)


@pytest.mark.parametrize(
    "value", ["../x", "a/../b", "..", "/etc/passwd", "~root", "zip://x", "a::b", "a\0b", "a\nb"]
)
def test_values_that_lead_elsewhere_are_refused(value: str) -> None:
    row = VideoRow("https://x.example/a.mp4", dataset_id=value)
    with pytest.raises(AcquireError, match="must not be in a path") as caught:
        place_of("/m/{video_id}", row)
    assert not caught.value.is_transient


# ------------------------------------------------------------------ folders


def test_a_file_of_a_folder_is_used_in_place(folder: Path) -> None:
    film = folder / f"{ID}.mp4"
    film.write_bytes(b"x")
    for pattern in (f"{folder}/{{video_id}}.mp4", f"{folder}/{{video_id}}.*", f"file://{film}"):
        assert local(pattern) == film
    assert local(f"{folder}/{{video_id}}.webm") is None
    assert local(f"{folder}/{{page_dir}}/{{video_id}}.*") is None


def test_a_relative_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{ID}.mp4").write_bytes(b"x")
    monkeypatch.chdir(folder)
    for pattern in ("{video_id}.mp4", "./{video_id}.*", "*.mp4"):
        assert local(pattern) == folder / f"{ID}.mp4"


def test_a_video_goes_before_other_files(folder: Path) -> None:
    for suffix in (".info.json", ".jpg", ".mp4.part"):
        (folder / f"{ID}{suffix}").write_bytes(b"x")
    (folder / f"{ID}.d").mkdir()
    assert local(f"{folder}/{{video_id}}.*") is None
    for suffix in (".bin", ".aaa"):
        (folder / f"{ID}{suffix}").write_bytes(b"x")
    assert local(f"{folder}/{{video_id}}.*") == folder / f"{ID}.aaa"
    for suffix in (".webm", ".MP4"):
        (folder / f"{ID}{suffix}").write_bytes(b"x")
    assert local(f"{folder}/{{video_id}}.*") == folder / f"{ID}.webm"
    assert local(f"{folder}/*{{video_id}}.*") == folder / f"{ID}.MP4"


def test_values_are_no_wildcards(folder: Path) -> None:
    (folder / "x1.mp4").write_bytes(b"x")
    (folder / "x[1]ab.mp4").write_bytes(b"x")
    assert local(f"{folder}/{{odd}}.*") is None
    (folder / "x[1]*?.mp4").write_bytes(b"x")
    assert local(f"{folder}/{{odd}}.*") == folder / "x[1]*?.mp4"
    assert local(f"{folder}/{{odd}}.mp4") == folder / "x[1]*?.mp4"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=f"there is no folder {tmp_path}/gone") as caught:
        local(f"{tmp_path}/gone/{{video_id}}.mp4")
    assert caught.value.is_transient


# ------------------------------------------------------------------ stores


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


def fetched(pattern: str, part: Path, row: VideoRow = ROW, **more: object) -> str | None:
    found = place(pattern, row)
    assert found.is_remote
    return copy(found, part, Acquire.model_validate(more), threading.Event())


def test_a_file_of_a_store_is_copied(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than a block
    store.pipe_file(f"/m/{ID}.webm", data)
    store.pipe_file(f"/m/{ID}.json", b"{}")
    store.pipe_file("/m/x[1]*?.mp4", b"odd")
    part = tmp_path / "part"
    assert fetched("memory://m/{video_id}.webm", part) == f"memory:///m/{ID}.webm"
    assert part.read_bytes() == data
    assert fetched("memory://m/{video_id}.*", part) == f"memory:///m/{ID}.webm"
    assert fetched("memory://m/{odd}.mp4", part) == "memory:///m/x[1]*?.mp4"
    assert part.read_bytes() == b"odd"
    part.unlink()
    for pattern in ("memory://m/{video_id}.mp4", "memory://other/{video_id}.*"):
        assert fetched(pattern, part) is None
    assert not part.exists()


def test_an_archive_is_a_store(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"clips/{ID}.mp4", b"film")
    pattern = f"zip://clips/{{video_id}}.*::{tmp_path}/a.zip"
    assert fetched(pattern, tmp_path / "part") is not None
    assert (tmp_path / "part").read_bytes() == b"film"
    (tmp_path / "b.zip").write_bytes(b"no archive")
    with pytest.raises(TransferError, match="cannot be"):
        fetched(f"zip://{{video_id}}.*::{tmp_path}/b.zip", tmp_path / "part")


def test_limits_hold_for_stores(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    store.pipe_file(f"/m/{ID}.mp4", bytes(3_000_000))
    store.pipe_file("/m/row.mp4", b"")
    part = tmp_path / "part"
    with pytest.raises(AcquireError, match=r"larger than acquire\.max_size") as caught:
        fetched("memory://m/{video_id}.mp4", part, max_size=2_000_000)
    assert not caught.value.is_transient
    with pytest.raises(TransferError, match=r"took longer than acquire\.timeout"):
        fetched("memory://m/{video_id}.mp4", part, timeout=0)
    with pytest.raises(StorageError, match=r"acquire\.min_free"):
        fetched("memory://m/{video_id}.mp4", part, min_free=10**18)
    with pytest.raises(AcquireError, match="the file is empty"):
        fetched("memory://m/row.mp4", part)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        copy(place("memory://m/{video_id}.mp4"), part, Acquire(), stop)
    assert not part.exists()


def test_a_store_that_cannot_be_reached_is_transient(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    pattern = f"ftp://me:secret@127.0.0.1:{port}/{{video_id}}.mp4"
    with pytest.raises(TransferError, match="cannot be read") as caught:
        fetched(pattern, tmp_path / "part")
    assert caught.value.is_transient
    assert "secret" not in str(caught.value)


def test_a_store_that_goes_away_has_not_lost_the_video(
    tmp_path: Path, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    store.pipe_file(f"/m/{ID}.mp4", b"film")
    part = tmp_path / "part"
    for method in ("open", "info", "glob"):
        with monkeypatch.context() as patch:
            patch.setattr(type(store), method, broken)
            pattern = "memory://m/{video_id}.mp4" if method != "glob" else "memory://m/{video_id}.*"
            with pytest.raises(TransferError, match=r"cannot be read: .*Connection reset"):
                fetched(pattern, part)
    assert not part.exists()


def test_a_store_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match="s3:// needs s3fs: pip install s3fs"):
        fetched("s3://mine/{video_id}.*", tmp_path / "part")
    with pytest.raises(UserError, match="nothing://mine"):
        fetched("nothing://mine/{video_id}.*", tmp_path / "part")
