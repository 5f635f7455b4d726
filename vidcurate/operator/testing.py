"""Clips made by hand, for the tests of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate.media.frames import FrameBatch
from vidcurate.media.video import VideoInfo
from vidcurate.operator.base import Clip


def make_clip(
    pixels: npt.ArrayLike,
    *,
    times: Sequence[float] | None = None,
    fps: float = 25.0,
    fields: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Clip:
    """A clip whose frames are the given pictures, as an operator's `score` takes it.

    Args:
        pixels: uint8, (N, H, W) gray or (N, H, W, 3) RGB.
        times: seconds of each picture; half a second apart by default.
        fps: the rate of the video that the pictures are said to come from.
        fields: the dataset's own columns. scores: columns of earlier steps.
    """
    array = np.asarray(pixels, dtype=np.uint8)
    seconds = np.asarray(times if times is not None else np.arange(len(array)) / 2, np.float64)
    end = float(seconds[-1]) + 1 / fps
    height, width = array.shape[1:3]
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
        fps=Fraction(fps).limit_denominator(1001),
        time_base=Fraction(1, 90000),
        start_pts=0,
        container_start=0.0,
        duration=end,
        bitrate=1_000_000,
        size_bytes=round(end * 125_000),
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
        start=float(seconds[0]),
        end=end,
        n_frames=max(1, round((end - float(seconds[0])) * fps)),
        fps=fps,
        vfr=False,
        width=width,
        height=height,
        n_bytes=video.size_bytes,
        fields=fields or {},
        scores=scores or {},
        frames=FrameBatch(array, seconds),
    )
