"""The tar writer against Python's tarfile."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from vidcurate.shards.writer import TarWriter

CONTENT = {"a.mp4": b"x" * 1000, "a.json": b"{}", "a.txt": b"", "b.mp4": bytes(range(256)) * 9000}


def write(path: Path, source: Path) -> TarWriter:
    with TarWriter(path) as tar:
        for name, content in CONTENT.items():
            (source / name).write_bytes(content)
            given = source / name if name.endswith("mp4") else content
            member = tar.add(name, given)
            assert member.sha256 == hashlib.sha256(content).hexdigest()
    return tar


def test_tarfile_reads_it_and_offsets_are_true(tmp_path: Path) -> None:
    path = tmp_path / "one.tar"
    with TarWriter(path) as tar:
        members = [tar.add(name, content) for name, content in CONTENT.items()]
    data = path.read_bytes()
    assert tar.size == len(data)
    assert tar.sha256 == hashlib.sha256(data).hexdigest()
    for member in members:
        assert data[member.offset : member.offset + member.size] == CONTENT[member.name]
    with tarfile.open(path) as archive:
        assert archive.getnames() == list(CONTENT)
        for info, member in zip(archive.getmembers(), members, strict=True):
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
            assert info.offset_data == member.offset
            assert archive.extractfile(info).read() == CONTENT[info.name]


def test_same_members_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.tar", tmp_path), write(tmp_path / "two.tar", tmp_path)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert one.sha256 == two.sha256
    assert one.size % tarfile.RECORDSIZE == 0


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        TarWriter(tmp_path / "one.tar") as tar,
    ):
        tar.add("a.mp4", tmp_path / "gone.mp4")
