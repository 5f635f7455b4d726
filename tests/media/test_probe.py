"""The probe tells what is in the bytes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate.errors import DecodeError, RefusedMediaError, UnsupportedMediaError
from vidcurate.media.probe import display_size, probe

from .conftest import LIMITS, gray_frames, write_video

ONE = 65536


def test_plain_video(make, look):
    info = look(make("a.mp4", gray_frames(25, 66, 50), audio=True))
    assert (info.codec, info.pix_fmt, info.bit_depth) == ("h264", "yuv420p", 8)
    assert (info.coded_width, info.coded_height, info.width, info.height) == (66, 50, 66, 50)
    assert (info.fps, info.start_pts, info.duration) == (25, 0, 1.0)
    assert (info.sar, info.rotation, info.interlaced) == (1, 0, False)
    assert info.size_bytes == info.path.stat().st_size
    assert info.bitrate > 0
    assert (info.has_audio, info.audio_codec) == (True, "aac")
    assert (info.audio_rate, info.audio_channels) == (48000, 1)
    assert (info.color_matrix, info.color_range, info.is_hdr) == ("unknown", "tv", False)


def test_no_audio(make, look):
    info = look(make("a.mp4", gray_frames(3)))
    assert (info.has_audio, info.audio_codec, info.audio_rate) == (False, "", 0)


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("a.mp4", ("libx264", "yuv420p"), ("h264", 8)),
        ("a.mp4", ("libx264", "yuv420p10le"), ("h264", 10)),
        ("a.mp4", ("libx265", "yuv420p"), ("hevc", 8)),
        ("a.mp4", ("libsvtav1", "yuv420p10le"), ("av1", 10)),
        ("a.webm", ("libvpx-vp9", "yuv420p"), ("vp9", 8)),
        ("a.mpg", ("mpeg2video", "yuv420p"), ("mpeg2video", 8)),
        ("a.ts", ("libx264", "yuv420p"), ("h264", 8)),
        ("a.avi", ("mpeg4", "yuv420p"), ("mpeg4", 8)),
        ("a.avi", ("mjpeg", "yuvj420p"), ("mjpeg", 8)),
        ("a.avi", ("rawvideo", "bgr24"), ("rawvideo", 8)),
        ("a.avi", ("huffyuv", "yuv422p"), ("huffyuv", 8)),
        ("a.mkv", ("ffv1", "yuv444p16le"), ("ffv1", 16)),
    ],
)
def test_codecs(name, codec, expected, make, look):
    encoder, pix_fmt = codec
    info = look(make(name, gray_frames(5), encoder, pix_fmt=pix_fmt))
    assert (info.codec, info.bit_depth) == expected
    assert info.pix_fmt == pix_fmt
    assert (info.width, info.height) == (64, 48)


@pytest.mark.parametrize(
    ("matrix", "rotation"),
    [  # written out: x' = a x + c y, y' = b x + d y with [a b . c d .], y downwards
        ([ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], 0),
        ([0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30], 90),
        ([-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30], 180),
        ([0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30], 270),
    ],
)
def test_rotation_is_clockwise_and_swaps_sides(matrix, rotation, make, look):
    info = look(make("a.mp4", gray_frames(3), matrix=matrix))
    assert info.rotation == rotation
    assert (info.width, info.height) == ((48, 64) if rotation in (90, 270) else (64, 48))


@pytest.mark.parametrize(
    ("sar", "size"), [((16, 11), (93, 48)), ((8, 9), (64, 54)), ((1, 1), (64, 48))]
)
def test_the_longer_side_of_a_pixel_grows(sar, size, make, look):
    info = look(make("a.mp4", gray_frames(3), sar=Fraction(*sar)))
    assert info.sar == Fraction(*sar)
    assert (info.width, info.height) == size


def test_display_size_keeps_odd_sizes():
    assert display_size(1279, 719, Fraction(1), 0) == (1279, 719)
    assert display_size(720, 576, Fraction(64, 45), 90) == (576, 1024)


def test_start_is_the_first_frame(make, look):
    info = look(make("a.mkv", gray_frames(5), pts=[50, 51, 52, 53, 54]))
    assert info.start_pts * info.time_base == 2
    assert info.container_start == 2.0


def test_colour_tags(make, look):
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 16, "color_primaries": 9}
    info = look(make("a.mkv", gray_frames(3), "ffv1", pix_fmt="yuv420p10le", tags=tags))
    assert (info.color_matrix, info.color_range) == ("bt2020nc", "tv")
    assert (info.color_transfer, info.color_primaries) == ("smpte2084", "bt2020")
    assert info.is_hdr


def test_interlaced(make, look):
    options = {"flags": "+ildct+ilme", "top": "1"}
    assert look(make("a.mpg", gray_frames(9), "mpeg2video", options=options)).interlaced


def test_audio_only(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UnsupportedMediaError, match="no video stream"):
        probe(path, **LIMITS)


def test_cover_art_is_no_video_stream(tmp_path, look):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for stream in (cover, video):
            frame = av.VideoFrame.from_ndarray(
                np.zeros((stream.height, stream.width, 3), np.uint8), "rgb24"
            )
            frame.pts = 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert (look(path).codec, look(path).width) == ("h264", 64)


def test_unknown_codec_is_named(make):
    path = make("a.avi", gray_frames(3), "mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"XQZW"))
    with pytest.raises(UnsupportedMediaError, match="no decoder for the video codec 'XQZW'"):
        probe(path, **LIMITS)


def test_limits(make):
    path = make("a.mp4", gray_frames(50))
    with pytest.raises(RefusedMediaError, match="64x48 is more than"):
        probe(path, max_pixels=64 * 48 - 1, max_duration=60)
    with pytest.raises(RefusedMediaError, match="2 s long, more than"):
        probe(path, max_pixels=64 * 48, max_duration=1.5)


def test_absurd_dimensions(make):
    path = make("a.avi", gray_frames(2), "rawvideo", pix_fmt="bgr24")
    data = path.read_bytes()
    small = (64).to_bytes(4, "little") + (48).to_bytes(4, "little", signed=True)
    flipped = (64).to_bytes(4, "little") + (-48).to_bytes(4, "little", signed=True)
    huge = (16000).to_bytes(4, "little") + (16000).to_bytes(4, "little")
    assert data.count(small) + data.count(flipped) >= 2
    path.write_bytes(data.replace(small, huge).replace(flipped, huge))
    with pytest.raises(RefusedMediaError, match="16000x16000"):
        probe(path, **LIMITS)


def test_nothing_decodable(tmp_path):
    path = write_video(tmp_path / "a.mp4", gray_frames(4))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = b"\xff" * (data.index(b"moov") - 4 - start)
    path.write_bytes(data)
    with pytest.raises(DecodeError, match="not a single frame can be decoded"):
        probe(path, **LIMITS)


def test_a_rotated_video_of_one_frame(make, look):
    path: Path = make("a.mp4", gray_frames(1))
    assert look(path).start_pts == 0
