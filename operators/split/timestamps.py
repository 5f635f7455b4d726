"""Timestamps: the dataset's own intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from vidcurate import ClipRow, Splitter, VideoInfo


class Timestamps(Splitter):
    """Split at the times that the dataset's metadata names; only those are decoded.

    Times are seconds from the video's first decodable frame and snap to the nearest frame. A row
    without times is the whole video, one without an end goes to the video's end. Overlapping
    intervals are fine.
    """

    name: ClassVar[str] = "timestamps"

    def known(self, video: VideoInfo, clips: Sequence[ClipRow]) -> list[tuple[float, float]]:
        """(start, end) of each row, in order; an end of infinity is the end of the video.

        A video without rows gives the one interval that is all of it.
        """
        if not clips:
            return [(0.0, math.inf)]
        return [
            (
                0.0 if clip.start is None else clip.start,
                math.inf if clip.end is None else clip.end,
            )
            for clip in clips
        ]
