"""Timestamps: the dataset's own intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from vidcurate import ClipRow, DataError, Splitter, VideoInfo


class Timestamps(Splitter):
    """Split at the times that the dataset's metadata names; only those are decoded.

    Times are seconds from the video's first decodable frame and snap to the nearest frame. A row
    without times is the whole video, one without an end goes to the video's end. Overlapping
    intervals are fine.

    A row that counts frames is turned into times by the file's own frame rate: frame 0 is the
    first at or after the row's start, frame n comes n / fps later. In a file of another rate than
    the dataset's, or of a varying one, these are other frames.
    """

    name: ClassVar[str] = "timestamps"

    def known(self, video: VideoInfo, clips: Sequence[ClipRow]) -> list[tuple[float, float]]:
        """(start, end) of each row, in order; an end of infinity is the end of the video.

        A video without rows gives the one interval that is all of it.

        Raises:
            DataError: a row counts frames, and the container states no frame rate.
        """
        return [_interval(video, clip) for clip in clips] or [(0.0, math.inf)]


def _interval(video: VideoInfo, clip: ClipRow) -> tuple[float, float]:
    start = 0.0 if clip.start is None else clip.start
    if clip.frames is None:
        return start, math.inf if clip.end is None else clip.end
    if not video.fps:
        raise DataError(
            "the dataset counts frames, and the file's container states no frame rate; put the "
            "stream into one that does, for example with ffmpeg -i IN -c copy OUT.mp4"
        )
    # Rounded: 2.2 s at 25 fps is frame 55, and the product 55.00000000000001.
    zero = math.ceil(round(start * float(video.fps), 6))
    first, end = clip.frames
    return float((zero + first) / video.fps), float((zero + end) / video.fps)
