"""Pictures, small videos and clips for the tests of the score operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.codec.context import Flags2
from av.sidedata.sidedata import Type

from vidcurate import Clip, FrameBatch, Frames, MotionVectors, VideoInfo

Make = Callable[..., Clip]


@pytest.fixture
def video() -> VideoInfo:
    """The probe of a plain 320x180 H.264 video at 25 fps."""
    return VideoInfo(
        path=Path("made.mp4"),
        container="mov,mp4,m4a,3gp,3g2,mj2",
        codec="h264",
        profile="High",
        pix_fmt="yuv420p",
        bit_depth=8,
        coded_width=320,
        coded_height=180,
        width=320,
        height=180,
        sar=Fraction(1),
        rotation=0,
        fps=Fraction(25),
        time_base=Fraction(1, 12800),
        start_pts=0,
        container_start=0.0,
        duration=4.0,
        bitrate=200_000,
        size_bytes=100_000,
        interlaced=False,
        color_matrix="bt709",
        color_range="tv",
        color_transfer="bt709",
        color_primaries="bt709",
        has_audio=False,
        audio_codec="",
        audio_rate=0,
        audio_channels=0,
    )


@pytest.fixture
def make_clip(video: VideoInfo) -> Make:
    """A clip of pictures (N, H, W) that are `1/fps` seconds apart, as an operator is given it."""

    def make(pictures: Sequence[np.ndarray] | np.ndarray, fps: float = 2.0, **changes: object):
        pixels = np.stack(list(pictures)).astype(np.uint8)
        count, height, width = pixels.shape[:3]
        size = {"width": width, "height": height}
        clip = Clip(
            video=replace(video, coded_width=width, coded_height=height, **size),
            start=0.0,
            end=count / fps,
            n_frames=count,
            fps=fps,
            vfr=False,
            n_bytes=10_000,
            frames=FrameBatch(pixels, np.arange(count) / fps),
            **size,
        )
        return replace(clip, **changes)

    return make


@pytest.fixture(scope="session")
def texture() -> Callable[..., np.ndarray]:
    """Random pictures with the 1/f spectrum of photographs: mean 128, standard deviation 45."""

    def make(height: int, width: int, seed: int = 0, steep: float = 1.2) -> np.ndarray:
        spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((height, width)))
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        frequency[0, 0] = 1
        picture = np.fft.irfft2(spectrum / frequency**steep, (height, width))
        picture = (picture - picture.mean()) / picture.std()
        return np.clip(128 + 45 * picture, 0, 255).astype(np.uint8)

    return make


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """Write gray pictures as a video; codec, rate, container and options can be chosen."""

    def write(
        pictures: Sequence[np.ndarray],
        *,
        name: str = "made.mp4",
        codec: str = "libx264",
        fps: int = 25,
        options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(path, "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width = pictures[0].shape
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="gray")
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def decode(make_clip: Make) -> Callable[..., Clip]:
    """A whole video as a clip, with the frames and motion vectors that were requested."""

    def read(path: Path, request: Frames | None, vector_fps: float | None = None) -> Clip:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.flags2 |= Flags2.export_mvs
            rate = float(stream.average_rate)
            pictures, vectors = [], []
            for i, frame in enumerate(container.decode(stream)):
                if vector_fps is not None and i % round(rate / vector_fps) == 0:
                    vectors.append(_vectors(frame, i / rate))
                pictures.append(frame.reformat(format="gray").to_ndarray())
        whole = make_clip(pictures, fps=rate, n_bytes=path.stat().st_size)
        frames = None if request is None else _sample(pictures, rate, request)
        return replace(whole, frames=frames, motion_vectors=tuple(vectors))

    return read


def _sample(pictures: list[np.ndarray], rate: float, request: Frames) -> FrameBatch:
    count = len(pictures)
    if request.count is not None:
        chosen = [round((i + 0.5) * count / request.count - 0.5) for i in range(request.count)]
    elif request.fps is not None:
        chosen = list(range(0, count, round(rate / request.fps)))
    else:
        chosen = list(range(0, count, request.every))
    chosen = [i for i in chosen if request.head is None or i / rate < request.head]
    height, width = pictures[0].shape
    if request.short_side == "native" or request.short_side >= min(height, width):
        size = (width, height)
    else:
        scale = request.short_side / min(height, width)
        size = (round(width * scale), round(height * scale))
    pixels = [cv2.resize(pictures[i], size, interpolation=cv2.INTER_AREA) for i in chosen]
    return FrameBatch(np.stack(pixels), np.array(chosen) / rate)


def _vectors(frame: av.VideoFrame, time: float) -> MotionVectors:
    found = frame.side_data.get(Type.MOTION_VECTORS)
    rows = np.zeros(0, _EMPTY) if found is None else found.to_ndarray()
    # source < 0: the reference is in the past; a reference in the future is negated
    sign = np.where(rows["source"] < 0, 1, -1) / np.maximum(rows["motion_scale"], 1)
    values = {
        "x": rows["dst_x"],
        "y": rows["dst_y"],
        "dx": rows["motion_x"] * sign,
        "dy": rows["motion_y"] * sign,
        "area": rows["w"].astype(int) * rows["h"],
    }
    return MotionVectors(time, **{k: v.astype(np.float32) for k, v in values.items()})


_EMPTY = [
    (n, np.int32)
    for n in ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
]
