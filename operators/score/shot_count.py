"""`shot_count`: cuts that the splitter missed."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from vidcurate import FrameBatch, Frames, column, scorer

_NEAR = 4  # frames on each side that must all differ across a cut: a flash ends sooner
_AROUND = 8  # frames on each side whose movement a cut must stand out from
_PEAK = 3.0  # by this factor
_RETURN = 0.5  # pictures nearer than this share of the jump are the same scene again


@scorer(
    "shot_count",
    frames=Frames(every=1, short_side=64, color="gray"),
    columns=column(
        "int32",
        unit="shots",
        range=(1, None),
        description="shots inside the clip; more than 1 means a missed cut",
    ),
)
def shot_count(frames: FrameBatch, *, jump: float = 10.0) -> int | None:
    """Number of shots, from jumps of the luma between frames (short side 64 px, every frame).

    A cut lies between two frames where (1) the mean absolute difference of luma (0..255) is at
    least `jump`, (2) it is 3 times the median difference of the 8 frames on either side, so
    that a fast pan is no cut, and (3) each of the 4 frames before differs from each of the 4
    after by `jump` and by half of it, so that a flash, after which the old picture returns, is
    no cut. In the spirit of PySceneDetect's AdaptiveDetector, but by luma alone and independent
    of the splitter, which it checks. Null with fewer than 2 frames.

    1 is a clean clip. Fades and dissolves are not counted: their single steps are small. Cuts
    between pictures of almost equal luma are missed; very sudden camera jerks can count.
    """
    pictures = frames.pixels
    if len(pictures) < 2:
        return None
    steps = np.array([_distance(a, b) for a, b in pairwise(pictures)])
    cuts = 0
    for i in np.flatnonzero(steps >= jump):
        around = np.concatenate([steps[max(0, i - _AROUND) : i], steps[i + 1 : i + 1 + _AROUND]])
        peak = around.size == 0 or steps[i] >= _PEAK * np.median(around)
        before, after = pictures[max(0, i + 1 - _NEAR) : i + 1], pictures[i + 1 : i + 1 + _NEAR]
        apart = max(jump, _RETURN * steps[i])
        if peak and all(_distance(a, b) >= apart for a in before for b in after):
            cuts += 1
    return 1 + cuts


def _distance(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return cv2.norm(a, b, cv2.NORM_L1) / a.size
