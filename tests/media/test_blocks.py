"""Files in blocks: bytes as in the whole file, or an error; never anything else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import av
import pytest

from vidcurate.clip import content_edges
from vidcurate.errors import AcquireError, MissingSectionError, RefusedMediaError
from vidcurate.media import blocks
from vidcurate.media.blocks import BLOCK, MAGIC, file_size, open_blocks, open_bytes, write_blocks
from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder, packet_times
from vidcurate.media.open import open_container, open_video
from vidcurate.media.packet_scan import PacketScan
from vidcurate.media.probe import probe

LIMITS = {"max_pixels": 10**6, "max_duration": 60}
FILES = ("end.mp4", "start.mp4", "x.mkv")


def in_blocks(film: Path, path: Path, numbers: list[int] | None = None) -> Path:
    """A file of sections that holds those blocks of a film, in that order; by default all."""
    data = film.read_bytes()
    size = blocks.BLOCK
    pieces = {n: data[n * size : (n + 1) * size] for n in range(-(-len(data) // size))}
    chosen = pieces if numbers is None else {n: pieces[n] for n in numbers}
    write_blocks(path, len(data), chosen, "v")
    return path


def pictures(path: Path, start: float | None, end: float | None) -> list[object]:
    with Decoder(probe(path, **LIMITS)) as decoder:
        return [
            (d.pts, d.time, d.duration, hashlib.sha256(bytes(d.frame.planes[0])).digest())
            for d in decoder.frames(start, end)
        ]


def test_bytes_are_those_of_the_whole_file(tmp_path, heavy):
    film = heavy("end.mp4")
    data = film.read_bytes()
    last = len(data) // BLOCK
    path = in_blocks(film, tmp_path / "f", [0, last, 3, 2, last - 1])  # as they came
    assert file_size(path) == len(data)
    assert content_edges(path) == content_edges(film)
    with open_bytes(path) as file:
        file.seek(2 * BLOCK - 1)
        with pytest.raises(MissingSectionError, match=rf"byte {2 * BLOCK - 1} is in none"):
            file.read(1)
        file.seek(2 * BLOCK + 5)
        assert file.read(BLOCK) == data[2 * BLOCK + 5 : 3 * BLOCK + 5]  # over two blocks
        file.seek(4 * BLOCK - 3)
        with pytest.raises(MissingSectionError):
            file.read(4)
        file.seek(-2, os.SEEK_END)
        assert (file.read(9), file.read(9)) == (data[-2:], b"")


def test_small_files_and_ends_of_blocks(tmp_path):
    for size in (1, BLOCK, BLOCK + 1):
        film = tmp_path / "film"
        film.write_bytes(os.urandom(size))
        path = in_blocks(film, tmp_path / "f")
        assert open_bytes(path).read() == film.read_bytes()
        assert content_edges(path) == content_edges(film)


@pytest.mark.parametrize("name", FILES)
def test_all_readers_of_media_see_what_the_whole_file_has(name, tmp_path, heavy):
    film, path = heavy(name), in_blocks(heavy(name), tmp_path / "f")
    whole, part = probe(film, **LIMITS), probe(path, **LIMITS)
    assert {**vars(part), "path": film} == vars(whole)
    assert packet_times(part) == packet_times(whole)
    scans = [[vars_of(s) for s in PacketScan(i).shots(3.0, 5.0)] for i in (part, whole)]
    assert scans[0] == scans[1]
    assert pictures(path, 8.0, 9.5) == pictures(film, 8.0, 9.5)
    first, last = (whole.start_pts + round(t / whole.time_base) for t in (8, 10))
    for info, out in ((whole, "a.mp4"), (part, "b.mp4")):
        assert cut_clip(info, first, last, 24, tmp_path / out, audio=True).copied
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def vars_of(shot: object) -> tuple[object, ...]:
    return tuple(getattr(shot, name) for name in ("pts", "time", "duration", "bytes_before"))


@pytest.mark.parametrize("name", FILES)
def test_whichever_block_is_missing_no_frame_is_another(
    name, tmp_path, footage, monkeypatch, capfd
):
    """Each block is left out in turn: what is read of the file then is right, or an error."""
    film = remuxed(footage("cuts_sound"), tmp_path / name)
    monkeypatch.setattr(blocks, "BLOCK", film.stat().st_size // 19)
    times = (4.2, 5.0)
    wanted = pictures(film, *times)
    info = probe(film, **LIMITS)
    first, last = (info.start_pts + round(t / info.time_base) for t in times)
    count = -(-film.stat().st_size // blocks.BLOCK)
    cut_clip(info, first, last, len(wanted), tmp_path / "whole.mp4", audio=True)
    clip = (tmp_path / "whole.mp4").read_bytes()
    missed = 0
    for gone in range(count):
        path = in_blocks(film, tmp_path / "f", [n for n in range(count) if n != gone])
        try:
            assert pictures(path, *times) == wanted
            part = probe(path, **LIMITS)
            cut_clip(part, first, last, len(wanted), tmp_path / "part.mp4", audio=True)
            assert (tmp_path / "part.mp4").read_bytes() == clip
        except MissingSectionError:
            missed += 1
        with pytest.raises(MissingSectionError):
            pictures(path, None, None)
        with pytest.raises(MissingSectionError):
            packet_times(probe(path, **LIMITS))
    assert 2 <= missed < count - 2
    assert "dropped" not in capfd.readouterr().err  # as PyAV says of errors that it cannot raise


def remuxed(film: Path, path: Path) -> Path:
    options = {"movflags": "+faststart"} if path.name == "start.mp4" else {}
    with av.open(str(film)) as source, av.open(str(path), "w", options=options) as out:
        tracks = [out.add_stream_from_template(s) for s in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    return path


def test_what_knows_no_blocks_takes_it_for_no_media(tmp_path, heavy):
    for name in FILES:
        path = in_blocks(heavy(name), tmp_path / "f.mp4")
        with pytest.raises(ValueError, match="Invalid data"):  # FFmpeg's class is one
            open_container(f"file:{path}")


def test_a_damaged_one_is_refused(tmp_path, heavy):
    data = in_blocks(heavy("end.mp4"), tmp_path / "f").read_bytes()
    for broken in (
        data[:-1],
        data[: len(data) // 2],
        MAGIC,
        MAGIC + b"x" * 100,
        data[:-20] + data[-19:],
    ):
        (tmp_path / "f").write_bytes(broken)
        with pytest.raises(AcquireError, match="sections that is damaged"):
            open_blocks(tmp_path / "f")
    (tmp_path / "f").write_bytes(MAGIC[:-1])
    with pytest.raises(RefusedMediaError, match="not a video file"):
        open_video(tmp_path / "f")
