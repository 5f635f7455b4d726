"""`motion_vectors`: how much the picture moves, from the codec's own motion vectors."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from vidcurate import Clip, Column, MotionVectors, Scorer, column

_MOVES = 1.0  # percent of the diagonal per second: about half a pixel a frame at 720p and 25 fps


class MotionVectorScorer(Scorer):
    """Speed of the picture as the encoder predicted it: nearly free, and rougher than `motion`.

    Read at the frames of a grid of 3 a second. Each frame gives the mean length of its vectors,
    weighted by the area of their blocks; the clip gets the mean over its frames that have
    vectors (key frames have none). Null where the codec exports none (FFmpeg exports H.264,
    MPEG-1/2/4 and relatives; not HEVC, VP9 or AV1).

    Vectors serve compression, not truth: flat areas and noise get any vector, and with B-frames
    a vector can span 2 to 4 frames without saying so, so that the speed is read too high by as
    much. So it ranks the clips of one kind of encoding (its order agrees with `motion`'s), and
    its thresholds are its own. In a cropped clip only blocks whose centre lies in the crop count.
    """

    name: ClassVar[str] = "motion_vectors"
    columns: ClassVar[dict[str, Column]] = {
        "mean": column(
            "float32",
            unit="percent of the diagonal per second",
            range=(0, None),
            description="mean speed of the codec's blocks",
        ),
        "area": column(
            "float32",
            unit="share of area",
            range=(0, 1),
            description="share of the predicted area that moves by 1 % of the diagonal a second",
        ),
    }

    def motion_vector_fps(self) -> float | None:
        """Three frames a second: two would meet nothing but key frames where a group of pictures
        is half a second long (12 at 25 fps, 15 at 30: the usual of MPEG-2 and MPEG-4)."""
        return 3.0

    def score(self, clip: Clip) -> dict[str, float] | None:
        """Mean speed and moving share of `clip.motion_vectors`; None where there are none."""
        means: list[float] = []
        moving: list[float] = []
        for vectors in clip.motion_vectors:
            speed, area = _speeds(clip, vectors)
            total = float(area.sum())
            if total > 0:
                means.append(float((speed * area).sum()) / total)
                moving.append(float(area[speed >= _MOVES].sum()) / total)
        if not means or clip.fps <= 0:
            return None
        return {"mean": float(np.mean(means)), "area": float(np.mean(moving))}


def _speeds(
    clip: Clip, vectors: MotionVectors
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Speed (percent of the clip's diagonal per second) and area of each block in the crop."""
    video = clip.video
    turned = video.rotation in (90, 270)
    upright = (video.height, video.width) if turned else (video.width, video.height)
    x_scale = upright[0] / video.coded_width  # not square pixels: one of the two is not 1
    y_scale = upright[1] / video.coded_height
    speed = np.hypot(vectors.dx * x_scale, vectors.dy * y_scale)
    speed *= 100 * clip.fps / np.hypot(clip.width, clip.height)
    if clip.crop is None:
        return speed, vectors.area
    x, y = vectors.x * x_scale, vectors.y * y_scale
    if video.rotation == 90:
        x, y = video.width - y, x
    elif video.rotation == 180:
        x, y = video.width - x, video.height - y
    elif video.rotation == 270:
        x, y = y, video.height - x
    box = clip.crop
    inside = (x >= box.x) & (x < box.x + box.width) & (y >= box.y) & (y < box.y + box.height)
    return speed[inside], vectors.area[inside]
