"""Videos made with PyAV for the tests of the media room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate.media.probe import probe
from vidcurate.media.video import VideoInfo

LIMITS = {"max_pixels": 8192 * 8192, "max_duration": 86400.0}
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": ""}}


def gray_frames(count: int, width: int = 64, height: int = 48, step: int = 4) -> list[np.ndarray]:
    """Flat pictures, each `step` brighter than the one before: their mean tells the frame."""
    return [np.full((height, width, 3), 16 + i * step, np.uint8) for i in range(count)]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray | av.VideoFrame],
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    options: dict[str, str] | None = None,
    format: str | None = None,
    pts: Sequence[int] | None = None,
    tags: dict[str, int] | None = None,
    sar: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    audio: bool = False,
) -> Path:
    """Encode pictures (RGB arrays, or frames as they are); `pts` is in units of 1/rate."""
    with av.open(str(path), "w", format=format) as container:
        stream = None
        sound = None
        for i, picture in enumerate(frames):
            frame = (
                av.VideoFrame.from_ndarray(picture, "rgb24")
                if isinstance(picture, np.ndarray)
                else picture
            )
            if stream is None:
                stream = container.add_stream(
                    codec, rate=rate, options={**QUIET.get(codec, {}), **(options or {})}
                )
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                stream.codec_context.thread_count = 1
                for name, value in (tags or {}).items():
                    setattr(stream.codec_context, name, value)
                if sar is not None:
                    stream.codec_context.sample_aspect_ratio = sar
                if matrix is not None:
                    stream.set_display_matrix(matrix)
                if audio:
                    sound = container.add_stream("aac", rate=48000, layout="mono")
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts = i if pts is None else pts[i]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            for i in range(20):
                beep = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                beep.sample_rate, beep.pts = 48000, i * 1024
                container.mux(sound.encode(beep))
            container.mux(sound.encode())
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """write_video below tmp_path: make(name, frames, ...)."""
    return lambda name, frames, *args, **kwargs: write_video(
        tmp_path / name, frames, *args, **kwargs
    )


@pytest.fixture
def look() -> Callable[[Path], VideoInfo]:
    """Probe with the usual limits."""
    return lambda path: probe(path, **LIMITS)
