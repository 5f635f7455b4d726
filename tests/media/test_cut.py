"""Copied and encoded cuts, against the frames and clicks of their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vidcurate.errors import CutError
from vidcurate.media.cut import Cut, copy_clip, cut_clip, verify
from vidcurate.media.decode import Decoder
from vidcurate.media.encode import LOSSLESS
from vidcurate.media.probe import probe
from vidcurate.media.sound import SoundError, cut_sound
from vidcurate.media.video import Box, VideoInfo
from vidcurate.recipe.model import Encode

FRAMES, CLICK_EVERY = 60, 5
OPEN_GOP = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-pyramid=normal:scenecut=0"
HEVC_OPEN = "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0:log-level=none"
SOURCES = {
    "b_frames.mp4": ("libx264", {"g": "24", "preset": "veryfast"}),
    "no_b_frames.mp4": ("libx264", {"g": "24", "bf": "0", "preset": "veryfast"}),
    "open_gop.mp4": ("libx264", {"x264-params": OPEN_GOP}),
    "intra_refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}),
    "closed.mp4": ("libx265", {"x265-params": "keyint=24:log-level=none", "preset": "ultrafast"}),
    "hevc_open.mp4": ("libx265", {"x265-params": HEVC_OPEN, "preset": "ultrafast"}),
    "vp9.webm": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
    "av1.mkv": ("libsvtav1", {"g": "24", "preset": "13", "svtav1-params": "lp=1"}),
    "h264.ts": ("libx264", {"g": "24", "preset": "veryfast"}),
    "mpeg2.mkv": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "h264.avi": ("libx264", {"g": "12"}),
    "mjpeg.avi": ("mjpeg", {}),
}
SPANS = [(0, 60), (12, 30), (13, 41), (31, 32), (47, 60)]


def film(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    sound: str = "aac",
    rate: int = 48000,
    pts: list[int] | None = None,
    width: int = 96,
    height: int = 64,
    pix_fmt: str = "yuv420p",
) -> VideoInfo:
    """A panning texture at 30 fps with a click at every fifth frame; `pts` in 1/90000 s."""
    rng = np.random.default_rng(7)
    texture = cv2.resize(rng.integers(0, 255, (20, 40, 3), np.uint8), (width * 2, height * 2))
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=30, options=options or {"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        if codec == "mjpeg":
            video.codec_context.color_range = 2
        video.codec_context.thread_count = 1
        if pts is not None:
            video.codec_context.time_base = Fraction(1, 90000)
        track = container.add_stream(sound, rate=rate, layout="mono") if sound else None
        for i in range(FRAMES):
            view = texture[i % height : i % height + height, i % width : i % width + width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(view), "rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = Fraction(1, 30) if pts is None else Fraction(1, 90000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if track is not None:
            samples = np.zeros((1, FRAMES * rate // 30), np.float32)
            for i in range(0, FRAMES, CLICK_EVERY):
                samples[0, i * rate // 30 :][:32] = 0.9
            heard = av.AudioFrame.from_ndarray(samples, "flt", "mono")
            heard.sample_rate, heard.pts, heard.time_base = rate, 0, Fraction(1, rate)
            container.mux(track.encode(heard))
            container.mux(track.encode())
    return look(path)


def look(path: Path) -> VideoInfo:
    return probe(path, max_pixels=10**8, max_duration=1e5)


def table(info: VideoInfo) -> list[tuple[int, int, np.ndarray]]:
    """pts, end_pts and luma of every frame, as the score pass sees them."""
    with Decoder(info) as decoder:
        return [(s.pts, s.end_pts, luma(s.frame)) for s in decoder.frames()]


def luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width].copy()


def shown(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Time and luma of every frame of a file."""
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        return [(f.pts * base, luma(f)) for f in container.decode(video=0)]


def cut(info: VideoInfo, start: int, end: int, out: Path, **how: object) -> Cut:
    frames = table(info)
    how = {"audio": False, **how}
    return cut_clip(info, frames[start][0], frames[end - 1][1], end - start, out, **how)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., VideoInfo]:
    return lambda name, *args, **kwargs: film(tmp_path / name, *args, **kwargs)


@pytest.mark.parametrize("name", SOURCES)
def test_a_clip_decodes_to_exactly_the_sources_frames(tmp_path: Path, made, name: str) -> None:
    codec, options = SOURCES[name]
    fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    info = made(name, codec, options, sound="", pix_fmt=fmt)
    frames = table(info)
    for start, end in SPANS:
        out = tmp_path / f"{start}.mp4"
        clip = cut_clip(
            info,
            frames[start][0],
            frames[end - 1][1],
            end - start,
            out,
            audio=False,
            fallback=LOSSLESS,
        )
        wanted = [
            ((pts - frames[start][0]) * info.time_base, pixels)
            for pts, _, pixels in frames[start:end]
        ]
        ours = shown(out)
        assert [t for t, _ in ours] == [t for t, _ in wanted]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(ours, wanted, strict=True))
        assert clip.n_frames == end - start
        if name != "intra_refresh.mp4":  # only some of its cuts decode from their key frame
            assert clip.copied == (name not in ("h264.avi", "mjpeg.avi")), clip.note


@pytest.mark.parametrize("name", ["b_frames.mp4", "hevc_open.mp4", "vp9.webm"])
def test_opencv_reads_the_same_frames(tmp_path: Path, made, name: str) -> None:
    codec, options = SOURCES[name]
    info = made(name, codec, options, sound="")
    assert cut(info, 13, 41, tmp_path / "clip.mp4").copied

    def read(path: Path) -> list[np.ndarray]:
        capture, pictures = cv2.VideoCapture(str(path)), []
        while (got := capture.read())[0]:
            pictures.append(got[1])
        return pictures

    ours, theirs = read(tmp_path / "clip.mp4"), read(info.path)
    assert len(ours) == 28
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs[13:41], strict=True))


def test_preroll_counts_the_hidden_frames(tmp_path: Path, made) -> None:
    info = made("a.mp4", *SOURCES["no_b_frames.mp4"])
    clip = cut(info, 31, 40, tmp_path / "clip.mp4")
    assert clip.preroll_frames == 7
    with av.open(str(tmp_path / "clip.mp4"), options={"ignore_editlist": "1"}) as container:
        everything = [luma(f) for f in container.decode(video=0)]
    wanted = [pixels for _, pixels in shown(tmp_path / "clip.mp4")]
    assert all(np.array_equal(a, b) for a, b in zip(everything[7:16], wanted, strict=True))


def test_variable_rate_keeps_its_times(tmp_path: Path, made) -> None:
    pts = np.cumsum([0, *([3003, 3003, 6006, 1500] * 20)])[:FRAMES].tolist()
    info = made("vfr.mp4", "libx264", {"g": "24", "preset": "veryfast"}, pts=pts, sound="")
    for encode, name in ((None, "copy.mp4"), (Box(0, 0, 48, 64), "crop.mp4")):
        clip = cut(info, 13, 41, tmp_path / name, crop=encode)
        assert clip.vfr
        assert clip.copied == (encode is None)
        assert [t for t, _ in shown(tmp_path / name)] == [
            Fraction(p - pts[13], 90000) for p in pts[13:41]
        ]
        assert clip.duration_s == pytest.approx((pts[41] - pts[13]) / 90000)
    assert not cut(made("cfr.mp4"), 3, 9, tmp_path / "cfr_clip.mp4").vfr


@pytest.mark.parametrize(
    ("name", "codec", "rate", "copied"),
    [
        ("aac.mp4", "aac", 44100, True),
        ("mp3.mp4", "libmp3lame", 44100, True),
        ("opus.mkv", "libopus", 48000, True),
        ("ac3.mp4", "ac3", 48000, True),
        ("slow.mp4", "aac", 22050, False),  # packets of 46 ms
        ("flac.mkv", "flac", 44100, False),  # packets of 104 ms
        ("pcm.avi", "pcm_s16le", 44100, False),  # nothing for MP4
    ],
)
@pytest.mark.parametrize("crop", [None, Box(0, 0, 48, 64)])
def test_sound_within_20_ms(
    tmp_path: Path, made, name: str, codec: str, rate: int, copied: bool, crop: Box | None
) -> None:
    video = ("mpeg4", {"g": "12"}) if name.endswith("avi") else ("libx264", {"g": "24"})
    info = made(name, *video, sound=codec, rate=rate)
    for start, end in ((13, 41), (24, 33)):
        clip = cut(info, start, end, tmp_path / "clip.mp4", audio=True, crop=crop)
        assert clip.has_audio
        assert clip.copied == (crop is None)
        assert ("sound not copied" in clip.note) != copied
        heard, begin, finish = clicks(tmp_path / "clip.mp4")
        wanted = [(i - start) / 30 for i in range(0, FRAMES, CLICK_EVERY) if start <= i < end]
        assert heard == pytest.approx(wanted, abs=0.005)
        assert abs(begin) <= 0.02
        assert abs(finish - (end - start) / 30) <= 0.02


def clicks(path: Path) -> tuple[list[float], float, float]:
    """Times of the clicks, and where the sound begins and ends."""
    with av.open(str(path)) as container:
        to_float = av.AudioResampler(format="fltp")
        frames = [
            (float(f.pts * f.time_base), f.sample_rate, g.to_ndarray()[0])
            for f in container.decode(audio=0)
            for g in to_float.resample(f)
        ]
    found: list[float] = []
    for at, rate, samples in frames:
        for i in np.flatnonzero(np.abs(samples) > 0.4):
            time = at + float(i) / rate
            if not found or time - found[-1] > 0.02:
                found.append(time)
    return found, frames[0][0], frames[-1][0] + len(frames[-1][2]) / frames[-1][1]


def test_sound_shorter_than_the_picture(tmp_path: Path) -> None:
    """The clip lies where the source has no more sound: a clip without sound, not a failure."""
    path = tmp_path / "short.mp4"
    info = film(path, sound="")
    with av.open(str(path)) as source, av.open(str(tmp_path / "s.mp4"), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        track = container.add_stream("aac", rate=48000, layout="mono")
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.float32), "flt", "mono")
        quiet.sample_rate, quiet.pts = 48000, 0
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        container.mux(track.encode(quiet))
        container.mux(track.encode())
    info = look(tmp_path / "s.mp4")
    clip = cut(info, 30, 50, tmp_path / "clip.mp4", audio=True)
    assert (clip.copied, clip.has_audio) == (True, False)
    assert "without sound: none in this interval" in clip.note
    assert cut(info, 5, 50, tmp_path / "clip.mp4", audio=True).has_audio


def test_damaged_sound_does_not_lose_the_clip(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"})
    data = bytearray(info.path.read_bytes())
    with av.open(str(info.path)) as container:
        for packet in container.demux(audio=0):
            if packet.size > 8 and packet.pos is not None:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    info.path.write_bytes(data)
    clip = cut(info, 13, 41, tmp_path / "clip.mp4", audio=True)
    assert clip.copied
    assert not clip.has_audio
    assert "without sound: damaged" in clip.note
    assert clip.n_frames == len(shown(tmp_path / "clip.mp4")) == 28


def test_rotation_shape_and_colour_tags_are_kept(tmp_path: Path, made) -> None:
    plain = made("plain.mp4", "libx264", {"g": "24"}, sound="")
    tagged = tmp_path / "tagged.mp4"
    with av.open(str(plain.path)) as source, av.open(str(tagged), "w") as container:
        track = container.add_stream_from_template(source.streams.video[0])
        track.set_display_rotation(-90)
        track.codec_context.sample_aspect_ratio = track.sample_aspect_ratio = Fraction(4, 3)
        track.codec_context.colorspace = track.codec_context.color_primaries = 9
        track.codec_context.color_trc = 16
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = track
                container.mux(packet)
    info = look(tagged)
    assert info.rotation == 90
    cut(info, 13, 41, tmp_path / "clip.mp4")
    got = look(tmp_path / "clip.mp4")
    for name in ("rotation", "sar", "width", "height", "color_matrix", "color_transfer"):
        assert getattr(got, name) == getattr(info, name), name


def test_verify_tells_what_is_wrong(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"}, sound="")
    frames = table(info)
    span = frames[13][0], frames[40][1]
    clip = copy_clip(info, *span, tmp_path / "clip.mp4")
    verify(clip, info, *span, 28)
    with pytest.raises(CutError, match="decodes to 28 frames there, not 27"):
        verify(clip, info, *span, 27)
    with pytest.raises(CutError, match="frame 0 of the copy differs"):
        verify(clip, info, frames[14][0], frames[41][1], 28)
    with pytest.raises(CutError, match="fewer frames"):
        verify(clip, info, frames[13][0], frames[45][1], 33)
    with pytest.raises(CutError, match="more frames"):
        verify(clip, info, frames[13][0], frames[30][1], 18)


def test_a_clip_table_that_does_not_fit_the_file(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"}, sound="")
    frames = table(info)
    with pytest.raises(CutError, match="has 12 frames by the clip table, but 10 decode"):
        cut_clip(info, frames[0][0], frames[9][1], 12, tmp_path / "clip.mp4", audio=False)
    assert not (tmp_path / "clip.mp4").exists()
    with pytest.raises(CutError, match="no frame in the interval"):
        cut_clip(info, 10**9, 10**9 + 512, 1, tmp_path / "clip.mp4", audio=False)


def test_the_same_clip_is_the_same_bytes(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"})
    for how in ({}, {"crop": Box(0, 0, 48, 64)}):
        cut(info, 13, 41, tmp_path / "one.mp4", audio=True, **how)
        cut(info, 13, 41, tmp_path / "two.mp4", audio=True, **how)
        assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_no_codec_change_is_no_encode(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"}, sound="")
    assert cut(info, 13, 41, tmp_path / "a_clip.mp4", encode=Encode(), size=(96, 64)).copied
    assert not cut(info, 13, 41, tmp_path / "b_clip.mp4", encode=Encode(codec="hevc")).copied
    assert look(tmp_path / "b_clip.mp4").codec == "hevc"
    # A copy would have the size in its header only.
    wide = replace(info, sar=Fraction(2), width=192)
    assert not cut(wide, 13, 41, tmp_path / "c_clip.mp4", encode=Encode(), size=(192, 64)).copied


@pytest.mark.parametrize(("step", "pts"), [(2, None), (4, None), (2, "vfr")])
def test_every_nth_frame_at_its_own_time(tmp_path: Path, made, step: int, pts) -> None:
    if pts is not None:
        pts = np.cumsum([0, *([3003, 3003, 6006, 1500] * 20)])[:FRAMES].tolist()
    info = made("a.mp4", "libx264", {"g": "24"}, pts=pts)
    frames = table(info)
    for start, end in ((13, 41), (14, 41), (31, 32), (31, 33)):
        out = tmp_path / f"{start}-{end}.mp4"
        clip = cut(
            info, start, end, out, frame_step=step, encode=Encode(crf=1), audio=True, size=(96, 64)
        )
        wanted = frames[start:end:step]
        ours = shown(out)
        assert not clip.copied
        assert clip.n_frames == len(ours) == -(-(end - start) // step)
        assert [t for t, _ in ours] == [
            (at - frames[start][0]) * info.time_base for at, _, _ in wanted
        ]
        for (_, a), (_, _, b) in zip(ours, wanted, strict=True):
            assert np.abs(a.astype(int) - b).mean() < 1
        length = float((frames[end - 1][1] - frames[start][0]) * info.time_base)
        assert clip.duration_s == pytest.approx(length, abs=1e-9)
        with av.open(str(out)) as container:  # the last frame stays up to the clip's end
            video = container.streams.video[0]
            assert float(video.duration * video.time_base) == pytest.approx(length, abs=1e-4)
        assert clip.has_audio
        assert abs(clicks(out)[2] - length) <= 0.02
        if pts is None:
            assert (clip.fps_num, clip.fps_den, clip.vfr) == (
                *Fraction(30, step).as_integer_ratio(),
                False,
            )


def test_half_of_an_ntsc_rate_is_exact(tmp_path: Path, make) -> None:
    pictures = [np.full((48, 64, 3), i * 8, np.uint8) for i in range(20)]
    info = look(make("fast.mp4", pictures, rate=Fraction(60000, 1001)))
    for end, count in ((20, 10), (19, 10), (2, 1)):
        clip = cut(info, 0, end, tmp_path / "clip.mp4", frame_step=2)
        assert (clip.fps_num, clip.fps_den, clip.n_frames) == (30000, 1001, count)
        assert look(tmp_path / "clip.mp4").fps == Fraction(30000, 1001)


def test_frame_step_counts_the_sources_frames(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"}, sound="")
    frames = table(info)
    with pytest.raises(CutError, match="has 11 frames by the clip table, but 12 decode"):
        cut_clip(
            info, frames[0][0], frames[11][1], 11, tmp_path / "c.mp4", audio=False, frame_step=2
        )
    assert not (tmp_path / "c.mp4").exists()


@pytest.mark.parametrize(
    ("name", "codec", "rate", "copied"),
    [
        ("aac.mp4", "aac", 44100, True),
        ("opus.mkv", "libopus", 48000, True),
        ("mp3.mp4", "libmp3lame", 44100, True),
        ("flac.mkv", "flac", 44100, False),
        ("pcm.avi", "pcm_s16le", 44100, False),
    ],
)
def test_sound_of_its_own_within_20_ms(
    tmp_path: Path, made, name: str, codec: str, rate: int, copied: bool
) -> None:
    video = ("mpeg4", {"g": "12"}) if name.endswith("avi") else ("libx264", {"g": "24"})
    info = made(name, *video, sound=codec, rate=rate)
    frames, base = table(info), info.time_base
    for start, end in ((13, 41), (24, 33)):
        span = frames[start][0] * base, frames[end - 1][1] * base
        out = tmp_path / f"{start}.m4a"
        note = cut_sound(info.path, *span, out, base)
        assert (note == "") == copied
        with av.open(str(out)) as container:
            assert [s.type for s in container.streams] == ["audio"]
            if copied:
                assert container.streams[0].codec_context.name in (codec, "mp3float", "opus")
            assert container.duration / 1e6 <= (end - start) / 30 + 0.001
        heard, begin, finish = clicks(out)
        wanted = [(i - start) / 30 for i in range(0, FRAMES, CLICK_EVERY) if start <= i < end]
        assert heard == pytest.approx(wanted, abs=0.005)
        assert abs(begin) <= 0.02
        assert abs(finish - (end - start) / 30) <= 0.02
        cut_sound(info.path, *span, tmp_path / "again.m4a", base)
        assert (tmp_path / "again.m4a").read_bytes() == out.read_bytes()


def test_sound_that_starts_late_keeps_its_time(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"})
    late = tmp_path / "late.mkv"
    with av.open(str(info.path)) as source, av.open(str(late), "w") as container:
        tracks = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                packet.pts += 24000
                packet.dts = packet.pts
            packet.stream = tracks[packet.stream.index]
            container.mux(packet)
    note = cut_sound(late, Fraction(0), Fraction(1), tmp_path / "s.m4a", Fraction(1, 1000))
    heard, begin, finish = clicks(tmp_path / "s.m4a")
    assert note == ""
    assert begin == pytest.approx(0.5, abs=0.03)
    assert heard == pytest.approx([0.5, 0.5 + 1 / 6, 0.5 + 2 / 6], abs=0.005)
    assert abs(finish - 1) <= 0.02


def test_no_sound_leaves_no_file(tmp_path: Path, made) -> None:
    info = made("a.mp4", "libx264", {"g": "24"})
    with pytest.raises(SoundError, match="none in this interval"):
        cut_sound(info.path, Fraction(5), Fraction(6), tmp_path / "s.m4a", info.time_base)
    assert not (tmp_path / "s.m4a").exists()
