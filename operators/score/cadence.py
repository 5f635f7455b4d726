"""`cadence`: frames that only repeat the one before."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from vidcurate import FrameBatch, Frames, column, scorer

_FEWEST = 8  # frames; a telecine pattern is 5 frames long
_AROUND = 6  # frames on each side that show how much the picture moves
_REPEAT = 0.2  # a repeat differs by less than this share of what a moving frame does


@scorer(
    "cadence",
    frames=Frames(every=1, short_side=128, color="gray", head="4s"),
    columns={
        "dup_frames": column(
            "float32",
            unit="share of frames",
            range=(0, 1),
            description="share of frames that repeat the one before (telecine, 15 fps sold as 30)",
        )
    },
)
def cadence(frames: FrameBatch, *, eps: float = 0.6) -> float | None:
    """Share of repeated frames in the first 4 seconds, among the frames that can be judged.

    Each frame has its mean absolute difference of luma (0..255) to the frame before. It can be
    judged where the picture moves: where the second largest difference among the 13 around it is
    at least `eps` (the largest may be a cut). It is a repeat where its own difference is below
    `eps` and below a fifth of that second largest: slow movement has small differences too, but
    they are all alike. Null with fewer than 8 judged frames: a still picture has no cadence.

    Typical: 0 for true footage, 0.04 for 24 fps sold as 25, 0.2 for film telecined to 30 fps,
    0.5 for 15 fps sold as 30 and for animation on twos, 0.6 for 24 sold as 60. One new frame
    in 7 or more is taken for a slide show and not judged.
    """
    pictures = frames.pixels
    if len(pictures) <= _FEWEST:
        return None
    sums = [cv2.norm(a, b, cv2.NORM_L1) for a, b in pairwise(pictures)]
    differences = np.array(sums) / pictures[0].size
    around = np.lib.stride_tricks.sliding_window_view(np.pad(differences, _AROUND), 2 * _AROUND + 1)
    moving = np.partition(around, -2, axis=1)[:, -2]
    judged = moving >= eps
    if judged.sum() < _FEWEST:
        return None
    return float((differences < np.minimum(eps, _REPEAT * moving))[judged].mean())
