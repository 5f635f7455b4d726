"""Made clips for the editors."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidcurate import Box, Clip, FrameBatch, VideoInfo

ClipOf = Callable[..., Clip]


def _clip_of(pixels: np.ndarray, crop: Box | None = None) -> Clip:
    n, height, width = pixels.shape
    video = VideoInfo(
        path=Path("made.mp4"),
        container="mp4",
        codec="h264",
        profile="High",
        pix_fmt="yuv420p",
        bit_depth=8,
        coded_width=width,
        coded_height=height,
        width=width,
        height=height,
        sar=Fraction(1),
        rotation=0,
        fps=Fraction(25),
        time_base=Fraction(1, 12800),
        start_pts=0,
        container_start=0.0,
        duration=2.0,
        bitrate=0,
        size_bytes=0,
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
    return Clip(
        video=video,
        start=0.0,
        end=2.0,
        n_frames=50,
        fps=25.0,
        vfr=False,
        width=crop.width if crop else width,
        height=crop.height if crop else height,
        n_bytes=0,
        crop=crop,
        frames=FrameBatch(pixels, np.linspace(0.2, 1.8, n)),
    )


@pytest.fixture
def clip_of() -> ClipOf:
    """`clip_of(pixels, crop=None)`: a clip whose source shows `pixels` (N, H, W), gray."""
    return _clip_of
