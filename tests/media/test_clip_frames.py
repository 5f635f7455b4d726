"""A clip's frames from its bytes, against the decoding of its whole file; both back ends."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidcurate.errors import (
    DataError,
    DecodeError,
    MissingExtraError,
    RefusedMediaError,
    UnsupportedMediaError,
)
from vidcurate.media.clip_frames import read_frames
from vidcurate.media.clip_request import ClipRequest, window
from vidcurate.media.convert import Converter
from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder, packet_times
from vidcurate.media.video import Box, VideoInfo

from .conftest import gray_frames

BACKENDS = ("av", "decord")
SIZE = (96, 64)
SPANS = ((0, 12, 1), (7, 5, 2), (21, 3, 3), (40, 8, 1))  # first, count, step
# Mean difference of decord's pictures, of 255: its own scaling (bicubic), its own conversion, and
# BT.601 where the file does not say its matrix.
CLOSE = 5.0


@pytest.fixture
def whole(look) -> Any:
    """Times and pixels of all frames of a file by the decode loop of scoring."""

    def get(path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
        info = look(path)
        size = size or (info.width, info.height)
        box = window(info.width, info.height, size, (0.5, 0.5))
        converter = Converter(info, hdr="tonemap")
        with Decoder(info) as decoder:
            found = [(d.time, converter.rgb(d.frame, *size, box)) for d in decoder.frames()]
            assert decoder.errors == 0
        return np.array([time for time, _ in found]), np.stack([p for _, p in found])

    return get


def ask(first: int, count: int, step: int, n_frames: int, **more: Any) -> ClipRequest:
    return ClipRequest(first, count, step, n_frames, **{"fps": Fraction(24), "size": SIZE, **more})


def check(path: Path, request: ClipRequest, backend: str, times: Any, pixels: Any) -> None:
    """The frames that are asked for are those of the whole file, exactly (decord: nearly)."""
    numbers = range(request.first, request.last + 1, request.step)
    got, when = read_frames(path.read_bytes(), request, backend=backend, name="s.mp4")
    assert got.dtype == np.uint8
    assert got.shape == (request.count, *pixels.shape[1:])
    np.testing.assert_allclose(when, times[numbers], atol=1e-6)
    for picture, number in zip(got, numbers, strict=True):
        if backend == "av":
            assert np.array_equal(picture, pixels[number])
        else:
            near = pixels[max(number - 1, 0) : number + 2].astype(int)
            off = np.abs(near - picture).mean((1, 2, 3))
            assert off.min() < CLOSE
            assert off.argmin() == min(number, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["cuts_gop48", "hevc", "rotated", "sar"])
def test_frames_are_those_of_the_whole_file(footage, whole, name, backend):
    times, pixels = whole(footage(name), None)
    for first, count, step in SPANS:
        request = ask(first, count, step, len(times), size=None)
        check(footage(name), request, backend, times, pixels)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["hevc", "rotated", "sar"])
def test_scaled_and_cut(footage, whole, name, backend):
    _, pixels = whole(footage(name), SIZE)
    data = footage(name).read_bytes()
    got, _ = read_frames(data, ask(9, 4, 2, 48), backend=backend, name="s")
    off = np.abs(got.astype(int) - pixels[9:16:2]).mean((1, 2, 3))
    assert off.max() <= (0 if backend == "av" else CLOSE)


@pytest.mark.parametrize("name", ["av1", "vp9", "mpeg2", "mpeg4", "interlaced", "odd_size"])
def test_other_codecs_and_containers(footage, whole, name):
    times, pixels = whole(footage(name), SIZE)
    for first, count, step in SPANS:
        check(footage(name), ask(first, count, step, len(times)), "av", times, pixels)


def test_ten_bits_and_hdr(footage, whole):
    times, pixels = whole(footage("hdr_pq"), SIZE)
    check(footage("hdr_pq"), ask(3, 4, 2, 24), "av", times, pixels)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("film", ["bbb", "bikes"])
def test_real_footage_with_b_frames(request, whole, film, backend):
    path = request.getfixturevalue(film)
    times, pixels = whole(path, (128, 80))
    for first, count, step in ((0, 9, 4), (60, 10, 1), (99, 5, 6)):
        size = ask(first, count, step, len(times), size=(128, 80))
        check(path, size, backend, times, pixels)


@pytest.fixture(scope="session")
def cuts(footage, bikes, tmp_path_factory) -> Any:
    """Clips that were cut by copying: a pre-roll before the first shown frame."""
    from vidcurate.media.probe import probe

    folder = tmp_path_factory.mktemp("clips")

    def get(name: str, start: int, end: int) -> Any:
        path = bikes if name == "bikes" else footage(name)
        info: VideoInfo = probe(path, max_pixels=10**8, max_duration=1e5)
        pts = packet_times(info)
        out = folder / f"{name}-{start}.mp4"
        cut = cut_clip(info, pts[start], pts[end], end - start, out, audio=False)
        assert cut.copied
        assert cut.preroll_frames > 0
        return cut

    return get


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "start"), [("cuts_gop48", 70), ("hevc", 9), ("bikes", 45)])
def test_a_copied_clip_begins_at_its_first_shown_frame(cuts, whole, name, start, backend):
    cut = cuts(name, start, start + 35)
    times, pixels = whole(cut.path, (160, 68) if name == "bikes" else None)
    assert len(times) == 35
    size = pixels.shape[2], pixels.shape[1]
    for first, count, step in ((0, 35, 1), (0, 9, 2), (20, 5, 3)):
        request = ask(first, count, step, 35, preroll=cut.preroll_frames, size=size)
        check(cut.path, request, backend, times, pixels)


@pytest.mark.parametrize("options", ["open-gop=1:bframes=3:keyint=12", "intra-refresh=1:keyint=12"])
def test_frames_behind_a_key_frame_that_resets_nothing(make, whole, options):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (48 + 60, 64 + 60, 3), np.uint8)
    shown = (noise[i : i + 48, i : i + 64] for i in range(60))
    path = make("x.mp4", shown, options={"x264-params": options + ":scenecut=0"})
    times, pixels = whole(path, (64, 48))
    for first in range(20, 40, 3):
        check(path, ask(first, 4, 2, 60, size=(64, 48)), "av", times, pixels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_variable_rate_gives_the_frames_nearest_to_an_even_grid(footage, whole, truth, backend):
    path, known = footage("vfr"), np.array(truth("vfr")["times"])
    fps = Fraction(59) / Fraction(int(known[-1] * 1000), 1000)
    _, pixels = whole(path, SIZE)
    for first, count, step in ((0, 60, 1), (7, 8, 2), (40, 20, 1)):
        request = ask(first, count, step, 60, fps=fps, vfr=True)
        got, times = read_frames(path.read_bytes(), request, backend=backend, name="s.mp4")
        begin = min(known[first], known[-1] - (count - 1) * step / fps)
        grid = begin + np.arange(count) * float(step / fps)
        nearest = np.abs(known[None] - grid[:, None]).argmin(1)
        np.testing.assert_allclose(times, known[nearest], atol=0.0011)
        off = np.abs(got.astype(int) - pixels[nearest]).mean((1, 2, 3))
        assert off.max() <= (0 if backend == "av" else CLOSE)


@pytest.mark.parametrize("suffix", ["mpg", "avi"])
def test_variable_rate_where_packets_do_not_tell_frames(make, whole, suffix):
    # Every third frame is left out: 0, 1, 3, 4, 6, ... at 25 a second, whose mean is 16.7.
    pts = [i * 3 // 2 for i in range(24)]
    codec = "mpeg2video" if suffix == "mpg" else "mpeg4"
    path = make(f"x.{suffix}", gray_frames(24, step=9), codec, pts=pts)
    times, pixels = whole(path, (64, 48))
    request = ask(2, 5, 3, 24, fps=Fraction(50, 3), vfr=True, size=(64, 48))
    got, when = read_frames(path.read_bytes(), request, name="s")
    grid = min(times[2], times[-1] - 4 * 0.18) + np.arange(5) * 0.18
    nearest = np.abs(times[None] - grid[:, None]).argmin(1)
    np.testing.assert_allclose(when, times[nearest], atol=1e-6)
    np.testing.assert_array_equal(got, pixels[nearest])


def test_crop_takes_the_part_that_is_asked_for():
    whole = (0.5, 0.5)
    assert window(1280, 720, (320, 180), whole) is None
    assert window(1280, 720, (480, 272), whole) == Box(4, 0, 1270, 720)
    assert window(1280, 720, (256, 256), (0.0, 0.5)) == Box(0, 0, 720, 720)
    assert window(1280, 720, (256, 256), (1.0, 0.5)) == Box(560, 0, 720, 720)
    assert window(180, 320, (160, 160), (0.5, 1.0)) == Box(0, 140, 180, 180)


@pytest.mark.parametrize("backend", BACKENDS)
def test_crop_of_pixels(make, backend):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, :64] = 255
    path = make("x.mp4", [picture] * 8, options={"qp": "4"})
    for x, light in ((0.0, 255), (1.0, 0), (0.5, 127)):
        request = ask(1, 4, 1, 8, size=(32, 32), crop=(x, 0.5))
        got, _ = read_frames(path.read_bytes(), request, backend=backend, name="s")
        assert got.mean() == pytest.approx(light, abs=4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_frames_than_wanted(footage, backend):
    data = footage("cuts").read_bytes()
    with pytest.raises(DecodeError, match=r"one\.mp4: frame 230 is wanted.* only 230"):
        read_frames(data, ask(200, 31, 1, 230), backend=backend, name="one.mp4")
    with pytest.raises(
        DecodeError, match=r"one\.mp4: frame 244 is wanted.* only 230; by the index"
    ):
        read_frames(data, ask(200, 45, 1, 250), backend=backend, name="one.mp4")


@pytest.mark.parametrize("name", ["mpeg2", "mpeg4"])
def test_fewer_frames_than_wanted_in_other_containers(footage, name):
    with pytest.raises(DecodeError, match=r"one: 2 of 10 wanted frames are missing, frame 48"):
        read_frames(footage(name).read_bytes(), ask(40, 10, 1, 60), name="one")


def test_nothing_asked_for(footage):
    with pytest.raises(ValueError, match="asks for no frames"):
        read_frames(footage("hevc").read_bytes(), ask(0, 0, 1, 48), name="x")


def test_an_mp4_cut_short_behind_its_index(heavy):
    data = heavy("start.mp4").read_bytes()
    request = ask(400, 20, 1, 480, fps=Fraction(12))
    assert len(read_frames(data, request, name="x")[0]) == 20
    with pytest.raises(DecodeError, match=r"one\.mp4: .*(only|damaged)"):
        read_frames(data[: len(data) * 2 // 3], request, name="one.mp4")
    early = ask(100, 20, 1, 480, fps=Fraction(12))
    assert len(read_frames(data[: len(data) * 2 // 3], early, name="x")[0]) == 20


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"", RefusedMediaError, "empty"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", RefusedMediaError, "a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", RefusedMediaError, "a playlist"),
        (b"some words " * 40, RefusedMediaError, "not a video file"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", DecodeError, "moov"),
    ],
)
def test_what_is_no_video(data, error, reason, backend):
    with pytest.raises(error, match=rf"one\.mp4: .*{reason}"):
        read_frames(data, ask(0, 4, 1, 9), backend=backend, name="one.mp4")


@pytest.mark.parametrize("backend", BACKENDS)
def test_sound_alone_and_too_large_a_picture(footage, tmp_path, backend):
    import av

    path = tmp_path / "x.mp4"
    with av.open(str(footage("tone"))) as source, av.open(str(path), "w") as out:
        track = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                out.mux(packet)
    with pytest.raises(UnsupportedMediaError, match=r"one\.mp4: no video stream"):
        read_frames(path.read_bytes(), ask(0, 4, 1, 9), backend=backend, name="one.mp4")
    with pytest.raises(RefusedMediaError, match=r"one\.mp4: a picture of 320x180 is more than 999"):
        read_frames(
            footage("hevc").read_bytes(), ask(0, 4, 1, 48), backend=backend, name="one.mp4",
            max_pixels=999,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["cuts", "av1", "mpeg2", "mpeg4"])
def test_flipped_bytes_raise_or_are_harmless(footage, truth, name):
    data, count = footage(name).read_bytes(), truth(name)["frames"]
    request = ask(0, count, 1, count, size=(32, 16))
    rng = np.random.default_rng(1)
    faults = []
    for at in rng.integers(len(data) // 10, len(data) * 9 // 10, 8):
        broken = bytearray(data)
        broken[at : at + 40] = bytes(40)
        try:
            got, times = read_frames(bytes(broken), request, name="one.mp4")
        except DataError as error:
            faults.append(str(error))
        else:
            assert len(got) == len(set(times)) == count
    assert len(faults) >= 4
    assert all(fault.startswith("one.mp4: ") for fault in faults)


def test_what_decord_would_read_wrongly_is_refused(footage, make, bikes, cuts):
    for name, reason in (
        ("vp9", "it is not H.264, HEVC or VP9 in MP4"),
        ("av1", "its codec is av1"),
        ("hdr_pq", "it is HDR"),
        ("interlaced", "it is interlaced"),
    ):
        data = footage(name).read_bytes()
        with pytest.raises(UnsupportedMediaError, match=rf"one: {reason}.*; use the back end av"):
            read_frames(data, ask(0, 4, 1, 20), backend="decord", name="one")
    options = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:scenecut=0"}
    path = make("x.mp4", gray_frames(50), options=options)
    with pytest.raises(UnsupportedMediaError, match="groups of pictures are open"):
        read_frames(path.read_bytes(), ask(0, 4, 1, 50), backend="decord", name="one")
    cut = cuts("cuts_gop48", 70, 105)
    with pytest.raises(DecodeError, match=r"22 frames stand before .* and by the index 0"):
        read_frames(cut.path.read_bytes(), ask(0, 4, 1, 35), backend="decord", name="one")


def test_decord_tells_of_damage_in_its_own_words(footage):
    data = bytearray(footage("cuts").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20000] = bytes(20000)
    with pytest.raises(DecodeError, match="one: decord cannot decode it: "):
        read_frames(bytes(data), ask(0, 230, 1, 230), backend="decord", name="one")


def test_without_decord(footage, monkeypatch):
    assert importlib.util.find_spec("decord")
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingExtraError, match=r"vidcurate\[decord\]"):
        read_frames(footage("hevc").read_bytes(), ask(0, 4, 1, 48), backend="decord", name="x")
