"""What the order of samples is computed from: how large each sample is once it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
"""Row numbers of an index: places among the samples that are read."""


@dataclass(frozen=True)
class Shapes:
    """N samples as they are read: the bucket's frames and size, or their own in bucket `native`.

    frames, height, width: int32 (N,), frames and pixels of the tensor that is trained on.
    seconds: float64 (N,), of video in those frames. bucket: int16 (N,), places in `buckets`.
    buckets: names of the index's buckets, sorted.
    """

    frames: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    seconds: npt.NDArray[np.float64]
    bucket: npt.NDArray[np.int16]
    buckets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, places: npt.NDArray[Any]) -> Shapes:
        """The samples at some places, in their order."""
        return Shapes(
            self.frames[places],
            self.height[places],
            self.width[places],
            self.seconds[places],
            self.bucket[places],
            self.buckets,
        )


class Fit(Protocol):
    """Fewer frames and smaller pictures than clips' buckets have: nothing else is decoded.

    It travels to worker processes.
    """

    def shapes(self, shapes: Shapes) -> Shapes:
        """What is read of clips of some shapes; no side and no number of frames grows."""
        ...

    def step(self, frames: int) -> int:
        """Which of so many frames are read: every step-th from the first on."""
        ...


class Table(Protocol):
    """The samples that an order is made of, numbered from 0.

    digest: of the index; the order is drawn from it, and a state of another one is refused.
    """

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def shapes(self, rows: Rows) -> Shapes:
        """The shapes of some rows, in their order."""
        ...
