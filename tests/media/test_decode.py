"""Frames in order, with true times, from any start, and what damage does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate.errors import DecodeError
from vidcurate.media.decode import Decoder

from .conftest import gray_frames

GOP = {"g": "10", "bf": "2", "qmin": "1", "qmax": "1"}
X264 = {"g": "10", "bf": "2"}
FILES = {
    "h264.mp4": ("libx264", "yuv420p", X264),
    "bframes.mkv": ("libx264", "yuv420p", {**X264, "x264-params": "open-gop=1:scenecut=0"}),
    "h264.ts": ("libx264", "yuv420p", X264),
    "h264.h264": ("libx264", "yuv420p", X264),
    "hevc.mp4": (
        "libx265",
        "yuv420p",
        {"x265-params": "log-level=none:keyint=10:open-gop=1:bframes=3"},
    ),
    "av1.mp4": ("libsvtav1", "yuv420p", {"g": "10", "preset": "12"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {**GOP, "sc_threshold": "1000000000"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", GOP),
    "h264.avi": ("libx264", "yuv420p", X264),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "raw.avi": ("rawvideo", "bgr24", {}),
    "huffyuv.avi": ("huffyuv", "yuv422p", {}),
}


def level(frame: av.VideoFrame) -> float:
    """The number of the frame, from gray_frames' brightness."""
    return (float(frame.to_ndarray(format="rgb24").mean()) - 16) / 4


@pytest.mark.parametrize("name", FILES)
def test_every_frame_once_and_in_order(name, make, look):
    codec, pix_fmt, options = FILES[name]
    info = look(make(name, gray_frames(45), codec, pix_fmt=pix_fmt, options=options))
    with Decoder(info) as decoder:
        shots = list(decoder.frames())
    assert [s.index for s in shots] == list(range(45))
    assert [round(level(s.frame)) for s in shots] == list(range(45))
    np.testing.assert_allclose([s.time for s in shots], np.arange(45) / 25, atol=1e-3)
    np.testing.assert_allclose([s.duration for s in shots], 1 / 25, atol=1.1e-3)
    assert [s.previous for s in shots] == [-1.0, *(s.time for s in shots[:-1])]
    assert [s.end_pts for s in shots[:-1]] == [s.pts for s in shots[1:]]
    assert decoder.errors == 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("first", "stop"), [(0, 3), (9, 12), (10, 11), (23, 45), (44, 99)])
def test_an_interval_is_the_same_part_of_the_whole(name, first, stop, make, look):
    codec, pix_fmt, options = FILES[name]
    info = look(make(name, gray_frames(45), codec, pix_fmt=pix_fmt, options=options))
    with Decoder(info) as decoder:
        whole = list(decoder.frames())
        size = decoder.packet_bytes
        ends = [s.time for s in whole] + [float("inf")]
        part = list(decoder.frames(ends[first], ends[min(stop, 45)]))
        part_size = decoder.packet_bytes
    wanted = whole[first:stop]
    assert [s.pts for s in part] == [s.pts for s in wanted]
    assert [s.end_pts for s in part] == [s.end_pts for s in wanted]
    assert [s.previous for s in part] == [s.previous for s in wanted]
    assert [s.index for s in part] == list(range(len(wanted)))
    for ours, theirs in zip(part, wanted, strict=True):
        np.testing.assert_array_equal(ours.frame.to_ndarray(), theirs.frame.to_ndarray())
    if stop < 45:
        assert part_size - part[0].bytes_before == whole[stop].bytes_before - wanted[0].bytes_before
    else:
        assert part_size - part[0].bytes_before == size - wanted[0].bytes_before


def test_packet_bytes_are_those_of_the_file(make, look):
    info = look(make("a.mp4", gray_frames(45), options=X264, audio=True))
    with av.open(str(info.path)) as container:
        video = sum(p.size for p in container.demux(video=0))
    with Decoder(info) as decoder:
        shots = list(decoder.frames())
        assert decoder.packet_bytes == video
    assert shots[0].bytes_before == 0
    assert all(a.bytes_before < b.bytes_before for a, b in pairwise(shots))


def test_variable_rate_keeps_its_times(make, look):
    pts = [0, 1, 2, 10, 11, 30, 31, 33]
    info = look(make("a.mp4", gray_frames(8), rate=25, pts=pts))
    with Decoder(info) as decoder:
        shots = list(decoder.frames())
        assert [s.time for s in shots] == [p / 25 for p in pts]
        assert [round(s.duration * 25) for s in shots[:-1]] == [1, 1, 8, 1, 19, 1, 2]
        inside = list(decoder.frames(15 / 25, 31 / 25))  # begins in a gap
    assert [s.pts for s in inside] == [shots[5].pts]
    assert inside[0].previous == 11 / 25


def test_times_are_exact(make, look):
    info = look(make("a.mp4", gray_frames(40), rate=30, pts=list(range(1000, 1040))))
    with Decoder(info) as decoder:
        shots = list(decoder.frames())
    assert [s.time for s in shots] == [i / 30 for i in range(40)]


def test_time_zero_is_the_first_frame(make, look):
    info = look(make("a.mkv", gray_frames(5), pts=[50, 51, 52, 53, 54]))
    with Decoder(info) as decoder:
        assert [s.time for s in decoder.frames()] == [0, 0.04, 0.08, 0.12, 0.16]


def test_early_end_and_again(make, look):
    info = look(make("a.mp4", gray_frames(30), options=X264))
    with Decoder(info) as decoder:
        for shot in decoder.frames():
            if shot.index == 4:
                break
        assert [round(level(s.frame)) for s in decoder.frames(0.8)] == list(range(20, 30))
        assert [round(level(s.frame)) for s in decoder.frames(None, 0.1)] == [0, 1, 2]
        assert list(decoder.frames(5.0)) == []


def test_truncated_file_gives_what_it_has(make, look):
    path: Path = make("a.mkv", gray_frames(60), "mpeg2video", options=GOP)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with Decoder(look(path)) as decoder:
        shots = list(decoder.frames())
    assert 20 <= len(shots) <= 40
    assert [round(level(s.frame)) for s in shots[:-2]] == list(range(len(shots) - 2))


def noisy(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(count)]


def test_damaged_packets_are_counted(make, look):
    path: Path = make("a.avi", noisy(20), "ffv1")
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[5:8]:
        data[position + 8 : position + size] = b"\xff" * (size - 8)
    path.write_bytes(data)
    with Decoder(look(path)) as decoder:
        shots = list(decoder.frames())
        assert decoder.errors >= 1
        assert decoder.last_error
    assert len(shots) >= 17
    times = [s.time for s in shots]
    assert times == sorted(set(times))


def test_nothing_decodable(make, look):
    path = make("a.mp4", gray_frames(4))
    info = look(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    stop = data.index(b"moov") - 4
    data[start:stop] = b"\xff" * (stop - start)
    path.write_bytes(data)
    with Decoder(info) as decoder, pytest.raises(DecodeError, match="not a single frame"):
        list(decoder.frames())
    assert decoder.errors >= 4


def moving(count: int, step: int) -> list[np.ndarray]:
    base = np.random.default_rng(1).integers(0, 255, (15, 60), np.uint8)
    wide = np.repeat(np.repeat(base, 16, 0), 16, 1)
    return [np.repeat(wide[:, i * step : i * step + 320, None], 3, 2) for i in range(count)]


def test_motion_vectors_tell_the_shift(make, look):
    options = {"bf": "0", "refs": "1", "me_range": "32"}
    info = look(make("a.mp4", moving(8, 6), options=options))
    with Decoder(info, motion_vectors=True) as decoder:
        shots = list(decoder.frames())
        first, third = (decoder.motion_vectors(shots[i].frame, shots[i].time) for i in (0, 3))
    assert len(first.dx) == 0
    assert third.time == 3 / 25
    assert third.area.min() > 0
    inner = (third.x > 32) & (third.x < 280)
    # The picture moves left by 6: the block's source lies 6 to its right.
    assert np.median(third.dx[inner]) == pytest.approx(6, abs=0.3)
    assert np.median(third.dy[inner]) == pytest.approx(0, abs=0.3)


def test_no_motion_vectors_unless_asked_or_exported(make, look):
    info = look(make("a.mp4", gray_frames(5)))
    with Decoder(info) as decoder:
        assert all(len(decoder.motion_vectors(s.frame, 0).x) == 0 for s in decoder.frames())


def test_fast_skips_frames_and_keeps_times(make, look):
    info = look(make("a.mp4", gray_frames(45), options=X264))
    with Decoder(info) as exact, Decoder(info, fast=True) as fast:
        times = [s.time for s in exact.frames()]
        quick = list(fast.frames())
    assert 10 < len(quick) < 45
    assert {s.time for s in quick} <= set(times)
    assert [s.end_pts for s in quick[:-1]] == [s.pts for s in quick[1:]]
