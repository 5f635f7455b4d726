"""Fixed: pieces of one length, without a look at the picture."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vidcurate import CutDetector, Duration, Splitter, VideoInfo

_ROUNDING = 1e-6  # seconds: times are sums of binary fractions


class Fixed(Splitter):
    """Split into pieces of `length` seconds of source time; the last one is what remains.

    length: of each piece, required. A piece begins at the first frame at or after each multiple
        of it, counted from the start of the video (or of the interval that is split again).
    The edges are no cuts of the film: `trim` takes nothing off there.
    """

    name: ClassVar[str] = "fixed"
    finds_cuts: ClassVar[bool] = False

    length: Annotated[Duration, Field(gt=0)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length > self.max_length:
            raise ValueError(
                f"length ({self.length:g}s) is above max_length ({self.max_length:g}s), which "
                "would chop each piece again; raise max_length too"
            )
        return self

    def detector(self, video: VideoInfo) -> CutDetector:
        """Counts seconds; needs no pixels."""
        return Pieces(self.length)


class Pieces:
    """Reports the first frame of each piece as it comes."""

    lateness = 0

    def __init__(self, length: float) -> None:
        self._length = length
        self._start: float | None = None
        self._piece = 0

    def push(self, index: int, time: float, pixels: npt.NDArray[np.uint8] | None) -> list[int]:
        if self._start is None:
            self._start = time
        piece = int((time - self._start + _ROUNDING) // self._length)
        if piece == self._piece:
            return []
        self._piece = piece
        return [index]

    def finish(self) -> list[int]:
        return []
