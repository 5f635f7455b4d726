"""Cutting clips into the work folder of pack: sound of its own, frame steps, smaller pictures."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from tests.shards.conftest import as_table, clip_row, film
from vidcurate.media.sound import heard
from vidcurate.recipe.model import Encode, Fit, Limits, Pack
from vidcurate.shards.cuts import ClipTask, SourceTask, cut_all, cut_job, read_cut
from vidcurate.shards.index import read_index
from vidcurate.shards.pack import pack_selection

LIMITS = Limits()


def task(path: Path, folder: Path, *spans: tuple[int, int], **changes: Any) -> SourceTask:
    """Frames start..end of a film of 30 fps; clips are named by them."""
    folder.mkdir(exist_ok=True)
    clips = tuple(
        ClipTask(f"{a}-{b}", a * 512, b * 512, duration=(b - a) / 30, n_frames=b - a)
        for a, b in spans
    )
    given = SourceTask(
        path=path,
        clips=clips,
        folder=folder,
        audio=True,
        encode=None,
        max_pixels=LIMITS.max_pixels,
        max_duration=LIMITS.max_duration,
    )
    return replace(given, **changes)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def kinds(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [s.type for s in container.streams]


def test_sound_as_a_member(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 0)
    given = task(path, tmp_path / "a", (5, 31), (31, 60), audio="member")
    assert list(cut_job(given)) == [("5-31", None), ("31-60", None)]
    assert names(given.folder) == sorted(
        f"{clip}.{suffix}" for clip in ("5-31", "31-60") for suffix in ("json", "m4a", "mp4")
    )
    for name, seconds in (("5-31", 26 / 30), ("31-60", 29 / 30)):
        assert kinds(given.folder / f"{name}.mp4") == ["video"]
        assert kinds(given.folder / f"{name}.m4a") == ["audio"]
        begin, end = heard(given.folder / f"{name}.m4a")
        assert abs(begin) <= 0.02
        assert abs(end - Fraction(seconds)) <= 0.02
        cut = read_cut(given.folder, name)
        assert cut is not None
        assert (cut.has_audio, cut.copied, cut.note) == (True, True, "")
    again = replace(given, folder=tmp_path / "b")
    again.folder.mkdir()
    assert cut_all([again], workers=1, limits=LIMITS, done=lambda n: None) == {}
    for name in names(given.folder):
        assert (again.folder / name).read_bytes() == (given.folder / name).read_bytes()


def test_a_cut_whose_sound_is_not_whole_is_not_used(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 0)
    given = task(path, tmp_path / "a", (5, 31), audio="member")
    sound = given.folder / "5-31.m4a"
    for damage in (lambda: sound.write_bytes(sound.read_bytes()[:-1]), sound.unlink):
        assert list(cut_job(given)) == [("5-31", None)]
        assert read_cut(given.folder, "5-31") is not None
        damage()
        assert read_cut(given.folder, "5-31") is None


def test_no_sound_no_member(tmp_path: Path, bikes: Path) -> None:
    """Neither where the source has none nor where the interval has none."""
    silent = task(bikes, tmp_path / "a", (0, 10), audio="member")
    assert [error for _, error in cut_job(silent)] == [None]
    assert names(silent.folder) == ["0-10.json", "0-10.mp4"]
    cut = read_cut(silent.folder, "0-10")
    assert cut is not None
    assert (cut.has_audio, cut.note) == (False, "")

    path = film(tmp_path / "film.mp4", 0)
    with av.open(str(path)) as source, av.open(str(tmp_path / "short.mp4"), "w") as out:
        tracks = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            late = packet.stream.type == "audio" and (packet.pts or 0) > 24000
            if packet.dts is not None and not late:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    ended = task(tmp_path / "short.mp4", tmp_path / "b", (40, 60), audio="member")
    assert list(cut_job(ended)) == [("40-60", None)]
    assert names(ended.folder) == ["40-60.json", "40-60.mp4"]
    cut = read_cut(ended.folder, "40-60")
    assert cut is not None
    assert cut.has_audio is False
    assert cut.note == "without sound: none in this interval"


def test_half_the_rate(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 0)
    given = task(path, tmp_path / "a", (5, 32), audio="member", encode=Encode())
    given = replace(given, clips=(replace(given.clips[0], frame_step=2),))
    assert list(cut_job(given)) == [("5-32", None)]
    cut = read_cut(given.folder, "5-32")
    assert cut is not None
    assert (cut.n_frames, cut.fps_num, cut.fps_den, cut.vfr) == (14, 15, 1, False)
    assert (cut.copied, cut.has_audio) == (False, True)
    assert cut.duration_s == pytest.approx(27 / 30)
    with av.open(str(cut.path)) as container:
        times = [f.time for f in container.decode(video=0)]
    assert times == pytest.approx([2 * i / 30 for i in range(14)])


def test_only_larger_pictures_are_scaled_down(tmp_path: Path) -> None:
    """240x150 becomes 102x64 (even sides), encoded once; 96x64 is copied."""
    large = film(tmp_path / "large.mp4", 0, (240, 150))
    small = film(tmp_path / "small.mp4", 1)
    rows = [clip_row(large, 5, 31, width=240, height=150), clip_row(small, 5, 31)]
    report = pack_selection(
        as_table(rows),
        Pack(fit=Fit(max_short_side=64)),
        tmp_path / "out",
        workers=1,
        limits=LIMITS,
    )
    assert (report.samples, report.copied, report.encoded) == (2, 1, 1)
    sizes, copied = {}, {}
    index = read_index(tmp_path / "out")
    assert index is not None
    for shard in index["shards"]:
        with tarfile.open(tmp_path / "out" / shard["path"]) as tar:
            tar.extractall(tmp_path / "x", filter="data")
    for row in rows:
        about = json.loads((tmp_path / "x" / f"{row['clip_id']}.json").read_text("utf-8"))
        copied[row["width"]] = about["copied"]
        with av.open(str(tmp_path / "x" / f"{row['clip_id']}.mp4")) as container:
            video = container.streams.video[0]
            sizes[row["width"]] = (video.width, video.height)
    assert sizes == {240: (102, 64), 96: (96, 64)}
    assert copied == {240: False, 96: True}
