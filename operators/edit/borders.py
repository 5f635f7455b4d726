"""Borders: the box inside letterbox and pillarbox bars."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from vidcurate import Box, Clip, Editor, Frames

_STRAY = 0.005  # share of a line that may be bright (noise) while the line is still a bar
_EDGE = 0.25  # share of a line that must be bright just inside: pictures end in straight lines
_DEPTH = 8  # lines that count as just inside: strong compression smears an edge over as many
_SMALLEST = 0.25  # share of the side that must remain: less is a dark picture, not a box


class Borders(Editor):
    """Cut away black bars: one box per clip, from the brightest that each pixel gets.

    threshold: luma (0..255, full range) up to which a pixel counts as black, default 16: bars of
        encoded video are at 0 to 4, noisy ones reach 10.
    count: frames looked at, spread over the clip, at source size: the box is true to 2 pixels.

    A side is cut only where the bar ends in a straight, steep edge: within 8 lines inside it, a
    quarter of a line is brighter than the threshold in some frame, and four times as bright as
    the bar on average. So a dark scene, a vignette or a black clip keeps its whole picture; and
    bars that hold a logo or subtitles stay. Sides of the box are even, rounded inwards. The idea
    is that of FFmpeg's cropdetect filter.
    """

    name: ClassVar[str] = "borders"

    threshold: Annotated[int, Field(ge=0, le=128)] = 16
    count: Annotated[int, Field(ge=1, le=32)] = 5

    def request(self) -> Frames:
        """A few gray frames at source size."""
        return Frames(count=self.count, short_side="native", color="gray")

    def box(self, clip: Clip) -> Box | None:
        """The box without bars, inside `clip.crop`; `clip.crop` itself where there are none.

        The frames show the whole picture: `clip.crop` is applied here.
        """
        outer = clip.crop or Box(0, 0, clip.video.width, clip.video.height)
        luma = clip.pixels.max(axis=0)
        assert luma.shape == (clip.video.height, clip.video.width)
        luma = luma[outer.y : outer.y + outer.height, outer.x : outer.x + outer.width]
        # Rows first: columns are then judged by the picture's rows only, not by the bars'.
        top, bottom = _inside(luma, self.threshold)
        left, right = _inside(luma[top:bottom].T, self.threshold)
        if (top, bottom, left, right) == (0, outer.height, 0, outer.width):
            return clip.crop
        x, y = -(-(outer.x + left) // 2) * 2, -(-(outer.y + top) // 2) * 2
        width = (outer.x + right - x) // 2 * 2
        height = (outer.y + bottom - y) // 2 * 2
        return Box(x, y, width, height)


def _inside(luma: npt.NDArray[np.uint8], threshold: int) -> tuple[int, int]:
    """First line of the picture and the line after its last, by the lines of `luma` (N, M)."""
    n = len(luma)
    share = (luma > threshold).mean(axis=1)
    level = luma.mean(axis=1)
    first, last = _bar(share, level), n - _bar(share[::-1], level[::-1])
    return (first, last) if last - first >= _SMALLEST * n else (0, n)


def _bar(share: npt.NDArray[np.float64], level: npt.NDArray[np.float64]) -> int:
    """How many lines at the start are a bar, by each line's bright share and mean luma."""
    lines = np.flatnonzero(share > _STRAY)
    if len(lines) == 0 or lines[0] == 0:
        return 0
    start = int(lines[0])
    inside = float(level[start : start + _DEPTH].max())
    # Ringing lights up the lines next to the edge: the edge itself is at half the picture's level.
    edge = start + int(np.argmax(level[start:] >= inside / 2))
    steep = inside >= 4 * level[max(edge - _DEPTH // 2, 0)]
    return edge if steep and share[start : start + _DEPTH].max() >= _EDGE else 0
