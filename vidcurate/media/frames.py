"""What an operator asks of a video's frames, and what it is given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidcurate.errors import OperatorError
from vidcurate.units import parse_duration

SAMPLING_VERSION = 1
"""Part of every fingerprint: raised when the sampling or scaling rules give other pixels."""

Pixels = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frames:
    """A request for frames of a clip. Exactly one of `fps`, `every` and `count` is given.

    fps: the frames on a grid of that many a second, anchored to the video's time 0: the first
        frame at or after each k/fps. A clip gets the grid frames inside it, at least its first.
    every: 1 is every decoded frame of the clip; n the grid of 1/n of the video's nominal rate.
    count: that many frames spread evenly over the clip, each the nearest to
        start + (i + 0.5) * duration / count among the clip's frames on a fine grid.
    short_side: scale to this length of the shorter side in pixels, never up; "native" keeps the
        source's size (for a few frames only: it is costly).
    color: "gray" (luma, 0..255 full range) or "rgb" (sRGB-like BT.709, full range).
    head: only frames in this first part of the clip, as "4s" or in seconds.
    quick: shrink by sampling 4 source pixels for each pixel instead of averaging all of them, and
        colour at half the size: half the cost on large pictures, with aliasing and grain. For
        what looks at every frame and needs no fine detail.

    Raises:
        OperatorError: not exactly one of fps, every, count, or a value out of range.
    """

    fps: float | None = None
    every: int | None = None
    count: int | None = None
    short_side: int | Literal["native"] = 256
    color: Literal["gray", "rgb"] = "gray"
    head: float | str | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        given = [n for n in ("fps", "every", "count") if getattr(self, n) is not None]
        if len(given) != 1:
            raise OperatorError(
                "Frames takes exactly one of fps, every, count "
                f"(given: {', '.join(given) or 'none'})"
            )
        if getattr(self, given[0]) <= 0:
            raise OperatorError(f"Frames({given[0]}=...) must be above 0")
        if self.short_side != "native" and self.short_side < 16:
            raise OperatorError("Frames(short_side=...) must be at least 16 pixels")
        if isinstance(self.head, str):
            object.__setattr__(self, "head", parse_duration(self.head))

    def describe(self) -> dict[str, Any]:
        """The request as plain values: for fingerprints, `plan` and `ops show`."""
        return {
            k: v for k, v in dataclasses.asdict(self).items() if v is not None and v is not False
        }


@dataclass(frozen=True)
class FrameBatch:
    """Frames of one clip.

    pixels: uint8, (N, H, W) for gray and (N, H, W, 3) for rgb. N is at least 1.
    times: float64 (N,), seconds of source time (0 is the video's first decodable frame).
    """

    pixels: Pixels
    times: Times

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class MotionVectors:
    """The codec's own motion vectors of one decoded frame, as FFmpeg exports them.

    Each row is one block: its centre (pixels of the coded picture), the shift to its reference
    in pixels a frame towards the past (a reference in the future is negated), and its area.
    """

    time: float
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    dx: npt.NDArray[np.float32]
    dy: npt.NDArray[np.float32]
    area: npt.NDArray[np.float32]
