"""The parts of a video that a pass looks at, and the stretches in which they are decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidcurate.media.sampling import Shot
from vidcurate.media.video import Box
from vidcurate.operator.base import ClipRow

_NEAR = 2.0  # seconds: decoding on over a short gap is cheaper than a seek to a key frame
_MARGIN = 0.25  # seconds around known intervals, for snapping to the nearest frame


@dataclass
class Interval:
    """A part of the video to be made into clips; without bounds the whole of it.

    start, end: seconds as a dataset gives them, met by the nearest frames. start_pts, end_pts:
    exact bounds of a clip that is known already (a backfill, a second pass for a crop). old: the
    committed row of a backfill. find_box: the editors still have to say the crop.
    """

    start: float | None = None
    end: float | None = None
    start_pts: int | None = None
    end_pts: int | None = None
    row: ClipRow = field(default_factory=ClipRow)
    old: Mapping[str, Any] | None = None
    crop: Box | None = None
    find_box: bool = False

    def holds(self, shot: Shot) -> bool:
        """True where the frame belongs to the interval."""
        if self.start_pts is not None:
            assert self.end_pts is not None
            return self.start_pts <= shot.pts < self.end_pts
        middle = shot.time + shot.duration / 2  # nearest frame edge
        return (self.start is None or middle > self.start) and (
            self.end is None or middle <= self.end
        )

    def is_past(self, shot: Shot) -> bool:
        """True once no later frame can belong to the interval."""
        if self.end_pts is not None:
            return shot.pts >= self.end_pts
        return self.end is not None and shot.time + shot.duration / 2 > self.end


@dataclass(frozen=True)
class Stretch:
    """What is decoded at one go: frames with low <= time < high, for the intervals in it.

    start: of the earliest interval. The frame that is shown then may begin before `low`.
    """

    start: float
    low: float
    high: float
    intervals: tuple[Interval, ...]

    @property
    def is_whole(self) -> bool:
        """True where it is all of the video."""
        return self.low <= 0 and self.high == math.inf


def stretches(intervals: Sequence[Interval]) -> list[Stretch]:
    """The stretches of the video that these intervals need, each to be decoded once."""
    merged: list[tuple[float, float, list[Interval]]] = []
    bounds = [
        (i.start or 0.0, math.inf if i.end is None else i.end, n) for n, i in enumerate(intervals)
    ]
    for start, end, n in sorted(bounds):
        if merged and start < merged[-1][1] + _NEAR:
            low, high, members = merged[-1]
            merged[-1] = (low, max(high, end), [*members, intervals[n]])
        else:
            merged.append((start, end, [intervals[n]]))
    return [
        Stretch(start, max(0.0, start - _MARGIN), end + _MARGIN, tuple(members))
        for start, end, members in merged
    ]
