"""Encoded cuts: geometry, colour tags, codecs, losslessness."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate.errors import CutError, UserError
from vidcurate.media.convert import Converter
from vidcurate.media.decode import Decoder
from vidcurate.media.encode import LOSSLESS, check_preset, encode_clip
from vidcurate.media.probe import probe
from vidcurate.media.video import Box, VideoInfo
from vidcurate.recipe.model import Encode

FINE = Encode(crf=1)


def quadrants(width: int, height: int) -> np.ndarray:
    """Red, green, blue and gray quarters: any turn, mirror or shift shows."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (200, 40, 40)
    picture[: height // 2, width // 2 :] = (40, 180, 40)
    picture[height // 2 :, : width // 2] = (40, 40, 200)
    picture[height // 2 :, width // 2 :] = (128, 128, 128)
    return picture


def look(path: Path) -> VideoInfo:
    return probe(path, max_pixels=10**8, max_duration=1e5)


def encode(info: VideoInfo, out: Path, count: int = 4, how: Encode = FINE, **where) -> VideoInfo:
    """The first `count` frames of a file of 25 fps, encoded."""
    end = info.start_pts + int(Fraction(count, 25) / info.time_base)
    made = encode_clip(info, info.start_pts, end, out, how=how, **where)
    got = look(out)
    assert made.size == (got.width, got.height)
    assert len(made.times) == count
    return got


def rgb(info: VideoInfo, crop: Box | None = None) -> np.ndarray:
    """The first frame as displayed."""
    with Decoder(info) as decoder:
        frame = next(decoder.frames()).frame
    size = (crop.width, crop.height) if crop else (info.width, info.height)
    return Converter(info, hdr="tonemap").rgb(frame, *size, crop=crop).astype(int)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("sar", [Fraction(1), Fraction(4, 3)])
def test_display_geometry(tmp_path: Path, make, rotation: int, sar: Fraction) -> None:
    plain = make("plain.mp4", [quadrants(96, 64)] * 6, options={"qp": "1"}, sar=sar)
    info = look(turned(plain, tmp_path / "turned.mp4", rotation))
    assert info.rotation == rotation
    box = Box(8, 4, info.width - 20, info.height - 12)
    for where in ({}, {"crop": box}, {"size": (48, 48)}, {"crop": box, "size": (32, 48)}):
        got = encode(info, tmp_path / "out.mp4", **where)
        assert (got.rotation, got.sar) == (0, 1)
        kept = where.get("crop") or Box(0, 0, info.width, info.height)
        size = where.get("size")
        assert (got.width, got.height) == size if size else True
        assert abs(got.width - (size[0] if size else kept.width)) <= 2
        source = rgb(info, kept)
        ours = rgb(got)
        for y, x in ((0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)):
            a = source[int(y * source.shape[0]), int(x * source.shape[1])]
            b = ours[int(y * ours.shape[0]), int(x * ours.shape[1])]
            assert np.abs(a - b).max() <= 8, (where, y, x)


def turned(path: Path, out: Path, rotation: int) -> Path:
    with av.open(str(path)) as source, av.open(str(out), "w") as container:
        track = container.add_stream_from_template(source.streams.video[0])
        track.codec_context.sample_aspect_ratio = source.streams.video[0].sample_aspect_ratio
        if rotation:
            track.set_display_rotation(-rotation)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = track
                container.mux(packet)
    return out


def test_cropping_alone_does_not_resample(tmp_path: Path, make) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 96, 3), np.uint8)
    info = look(make("noise.mp4", [noise] * 4, options={"qp": "1"}))
    lossless = Encode(crf=0)
    # Odd edges move inwards to even ones: 9..51 becomes 10..50.
    got = encode(info, tmp_path / "out.mp4", how=lossless, crop=Box(9, 5, 42, 31))
    assert (got.width, got.height) == (40, 30)
    with Decoder(info) as source, Decoder(got) as clip:
        one = luma(next(source.frames()).frame)[6:36, 10:50]
        other = luma(next(clip.frames()).frame)
    assert np.array_equal(one, other)


def luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width].copy()


def test_odd_sizes_lose_one_line(tmp_path: Path, make) -> None:
    info = look(make("odd.mkv", [quadrants(95, 63)] * 4, "ffv1", pix_fmt="yuv444p"))
    got = encode(info, tmp_path / "out.mp4")
    assert (got.width, got.height, got.pix_fmt) == (94, 62, "yuv420p")


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "unknown"])
@pytest.mark.parametrize("full", [False, True])
def test_colours_and_tags_stay(tmp_path: Path, make, matrix: str, full: bool) -> None:
    code = {"bt709": 1, "smpte170m": 6, "unknown": 2}[matrix]
    tags = {"colorspace": code, "color_range": 2 if full else 1}
    info = look(make("tagged.mp4", [quadrants(96, 64)] * 4, options={"qp": "1"}, tags=tags))
    got = encode(info, tmp_path / "out.mp4", size=(48, 32))
    # Said aloud where the source is silent: small pictures are taken for BT.601.
    assert got.color_matrix == ("smpte170m" if matrix == "unknown" else matrix)
    assert got.color_range == ("pc" if full else "tv")
    small = rgb(got)[4:-4:8, 4:-4:8]
    large = rgb(info)[8:-8:16, 8:-8:16]
    assert np.abs(small - large).max() <= 6


def test_rgb_becomes_bt709(tmp_path: Path, make) -> None:
    picture = quadrants(96, 64)
    info = look(make("rgb.avi", [picture] * 4, "rawvideo", pix_fmt="bgr24"))
    got = encode(info, tmp_path / "out.mp4")
    assert (got.color_matrix, got.color_range, got.pix_fmt) == ("bt709", "tv", "yuv420p")
    assert np.abs(rgb(got)[8::16, 8::16] - picture[8::16, 8::16]).max() <= 4


def test_hdr_stays_hdr(tmp_path: Path, make) -> None:
    tags = {"colorspace": 9, "color_trc": 16, "color_primaries": 9, "color_range": 1}
    info = look(
        make(
            "hdr.mp4",
            [quadrants(96, 64)] * 4,
            "libx265",
            pix_fmt="yuv420p10le",
            tags=tags,
            options={"x265-params": "log-level=none:colormatrix=bt2020nc:transfer=smpte2084"},
        )
    )
    assert info.is_hdr
    got = encode(info, tmp_path / "out.mp4", crop=Box(0, 0, 48, 64))
    assert got.is_hdr
    assert (got.bit_depth, got.color_matrix, got.color_primaries) == (10, "bt2020nc", "bt2020")


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9"])
def test_codecs_keep_time_and_are_repeatable(
    tmp_path: Path, make: Callable[..., Path], codec: str
) -> None:
    shades = [np.full((64, 96, 3), 20 + 20 * i, np.uint8) for i in range(10)]
    info = look(make("shades.mp4", shades, pts=[0, 1, 3, 4, 5, 9, 10, 11, 12, 13]))
    base = info.time_base
    span = [int(Fraction(n, 25) / base) for n in (3, 12)]
    how = Encode(codec=codec, crf=10)
    for name in ("one.mp4", "two.mp4"):
        encode_clip(info, *span, tmp_path / name, how=how, size=(64, 64))
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    got = look(tmp_path / "one.mp4")
    assert got.codec == codec
    with av.open(str(tmp_path / "one.mp4")) as container:
        assert container.duration == pytest.approx(9 / 25 * av.time_base, abs=100)
    with Decoder(got) as decoder:
        frames = list(decoder.frames())
        assert [s.time for s in frames] == pytest.approx([n / 25 for n in (0, 1, 2, 6, 7, 8)])
        means = [luma(s.frame).mean() for s in frames]
    assert np.diff(means).min() > 10


def test_interlaced_becomes_progressive(tmp_path: Path, make) -> None:
    # It brightens from field to field, so that frames show a comb.
    combs = [np.full((64, 96, 3), 20 + 30 * i, np.uint8) for i in range(6)]
    for comb in combs:
        comb[1::2] += 15
    info = look(
        make(
            "fields.mp4",
            combs,
            options={"qp": "1", "x264-params": "tff=1"},
        )
    )
    assert info.interlaced
    got = encode(info, tmp_path / "out.mp4", crop=Box(0, 0, 64, 64))
    assert not got.interlaced
    with Decoder(got) as decoder:
        rows = luma(list(decoder.frames())[2].frame).astype(int).mean(axis=1)[8:-8]
    assert np.abs(np.diff(rows)).max() <= 3  # 13 in the source
    # Every second frame is made from the same fields as without a step.
    end = info.start_pts + int(Fraction(6, 25) / info.time_base)
    means = []
    for step in (1, 2):
        out = tmp_path / f"{step}.mp4"
        made = encode_clip(info, info.start_pts, end, out, how=FINE, frame_step=step)
        assert made.n_source == 6
        with Decoder(look(out)) as decoder:
            means.append([luma(s.frame)[8:-8].mean() for s in decoder.frames()])
    assert len(means[1]) == 3
    assert means[1] == pytest.approx(means[0][::2], abs=0.6)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [
        ("ffv1", "yuv420p", "a.mkv"),
        ("ffv1", "yuv444p10le", "b.mkv"),
        ("mjpeg", "yuvj422p", "c.avi"),
        ("rawvideo", "bgr24", "d.avi"),
    ],
)
def test_lossless_changes_no_sample(
    tmp_path: Path, make, codec: str, pix_fmt: str, name: str
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(4)]
    tags = {"color_range": 2} if codec == "mjpeg" else {}
    info = look(make(name, noise, codec, pix_fmt=pix_fmt, tags=tags))
    got = encode(info, tmp_path / "out.mp4", how=LOSSLESS)
    assert got.color_range == info.color_range
    same_format = pix_fmt if pix_fmt == "bgr24" else got.pix_fmt
    with Decoder(info) as source, Decoder(got) as clip:
        for one, other in zip(source.frames(), clip.frames(), strict=True):
            a, b = one.frame, other.frame
            if same_format == "bgr24":
                b = b.reformat(format="bgr24")
            pairs = zip(a.planes, b.planes, strict=True)
            for p, q in pairs:
                wide = 3 if same_format == "bgr24" else 1 + (got.bit_depth > 8)
                assert np.array_equal(samples(p, wide), samples(q, wide))


def samples(plane, wide: int) -> np.ndarray:
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width * wide]


def test_lossless_keeps_rotation_and_shape_as_tags(tmp_path: Path, make) -> None:
    plain = make("plain.mp4", [quadrants(96, 64)] * 6, sar=Fraction(4, 3))
    info = look(turned(plain, tmp_path / "turned.mp4", 90))
    end = info.start_pts + int(Fraction(4, 25) / info.time_base)
    made = encode_clip(info, info.start_pts, end, tmp_path / "out.mp4", how=LOSSLESS)
    got = look(tmp_path / "out.mp4")
    for name in ("rotation", "sar", "width", "height", "coded_width"):
        assert getattr(got, name) == getattr(info, name), name
    assert made.size == (info.width, info.height)


def test_refusals(tmp_path: Path, make) -> None:
    info = look(make("a.mp4", [quadrants(96, 64)] * 4))
    with pytest.raises(UserError, match="preset 'warp' is not one of ultrafast, "):
        check_preset(Encode(preset="warp"))
    with pytest.raises(CutError, match="leaves no picture of 96x64"):
        encode(info, tmp_path / "out.mp4", crop=Box(3, 3, 2, 2))
    with pytest.raises(CutError, match="no frame in the interval"):
        encode_clip(info, 10**8, 10**8 + 1, tmp_path / "out.mp4", how=FINE)
