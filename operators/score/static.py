"""`static`: the share of a clip in which the picture stands still."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from vidcurate import FrameBatch, Frames, column, scorer


@scorer(
    "static",
    frames=Frames(fps=2, short_side=256, color="gray"),
    columns=column(
        "float32",
        unit="share of time",
        range=(0, 1),
        description="share of the clip in which nothing moves: stills, title cards, slide shows",
    ),
)
def static(frames: FrameBatch, *, eps: float = 0.5) -> float | None:
    """Share of time between grid frames (2 a second) whose pictures are the same.

    Two successive frames are the same where the mean absolute difference of their luma (0..255),
    averaged over blocks of 4x4 px, is below `eps`. The blocks even out noise and what
    compression does to a still (0.2 to 0.4 in usual H.264). Null with fewer than 2 frames.

    Typical: 0 for most footage, 1 for a photograph or a title card. A slide show reads nearly 1
    as well: only the half-seconds in which the slide changes count as movement. A person who
    only moves the lips in a wide shot can read as still; `motion`'s p95 sees that better. Badly
    compressed stills with a key frame every half second can exceed the default of 0.5.
    """
    if len(frames) < 2:
        return None
    height, width = frames.pixels.shape[1:]
    size = (max(1, width // 4), max(1, height // 4))
    small = [
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        for picture in frames.pixels
    ]
    still = np.array([cv2.norm(a, b, cv2.NORM_L1) / a.size < eps for a, b in pairwise(small)])
    gaps = np.diff(frames.times)
    return float(gaps[still].sum() / gaps.sum())
