"""`motion`: how much the picture moves, by dense optical flow, with and without the camera."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vidcurate import FrameBatch, Frames, column, scorer

_UNIT = "percent of the diagonal per second"
_SMALLEST = 32  # px; below it OpenCV's DIS picks its scales by itself and can crash the process
_CERTAIN = 0.3  # response of a true shift by up to 40 % of the picture; cuts and noise stay below
_FOUND_ALONE = 12  # px
_STEP = 12  # px between the points at which the flow is read


@scorer(
    "motion",
    frames=Frames(fps=2, short_side=256, color="gray"),
    columns={
        "mean": column(
            "float32", unit=_UNIT, range=(0, None), description="mean speed of the picture's points"
        ),
        "p95": column(
            "float32",
            unit=_UNIT,
            range=(0, None),
            description="speed that 5 % of the picture's points exceed",
        ),
        "residual": column(
            "float32",
            unit=_UNIT,
            range=(0, None),
            description="mean speed that remains when the camera's movement is taken out",
        ),
    },
)
def motion(frames: FrameBatch) -> dict[str, float] | None:
    """Speed of the picture between frames half a second apart.

    Dense inverse search flow (Kroeger et al., "Fast Optical Flow using Dense Inverse Search",
    ECCV 2016; OpenCV's DISOpticalFlow), started from the shift of the whole picture by phase
    correlation where that is certain, is read on a grid of points 12 px apart. Points whose
    match lies outside the next picture are left out: there is nothing to match them with. Each
    pair of frames gives the mean and the 95th percentile of the points' speed, and the mean of
    what remains after the camera's movement (shift, turn and zoom, fitted by RANSAC to the same
    points); the clip gets the mean of each over its pairs. Null with fewer than 2 frames, or
    where the picture's short side is below 32 px.

    Typical: a still tripod shot reads a p95 below 0.5, a talking head 1 to 5, a slow pan a mean
    of 2 to 8 with a residual near 0, handheld sport 10 and more. Pans are read up to 50 % of the
    diagonal per second. An object that moves on its own by more than about a fifth of its width
    between two frames reads too low, and a cut inside the clip reads as a high speed.

    Thresholds published for other methods (Farneback, RAFT, UniMatch) or other frame sizes and
    distances do not apply.
    """
    height, width = frames.pixels.shape[1:3]
    if len(frames) < 2 or min(height, width) < _SMALLEST:
        return None
    points = np.s_[_STEP // 2 : height : _STEP, _STEP // 2 : width : _STEP]
    ys, xs = np.mgrid[points]
    grid = np.stack([xs, ys], axis=-1).astype(np.float32)
    method = _flow_method()
    percent = 100 / float(np.hypot(height, width))

    sums = np.zeros(3)
    before = _Picture(frames.pixels[0])
    window = cv2.createHanningWindow(before.small.shape[::-1], cv2.CV_32F)
    for (t0, t1), pixels in zip(pairwise(frames.times), frames.pixels[1:], strict=True):
        after = _Picture(pixels)
        # Without a start (None, which OpenCV's types do not know) the flow begins at rest.
        start = before.shift(after, window)
        flow = method.calc(before.smooth, after.smooth, start)  # type: ignore[arg-type]
        sums += _speeds(grid, flow[points], width, height) * percent / (t1 - t0)
        before = after
    mean, p95, residual = sums / (len(frames) - 1)
    return {"mean": float(mean), "p95": float(p95), "residual": float(residual)}


def _flow_method() -> cv2.DenseOpticalFlow:
    # The ultrafast preset, but down to half instead of quarter resolution (a quarter reads 1 px
    # up to 25 % too high), with patches 8 instead of 4 px apart to pay for it.
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    method.setFinestScale(1)
    method.setPatchStride(8)
    return method


class _Picture:
    """One frame as the flow needs it."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        height, width = pixels.shape
        # DIS halves the picture without a filter of its own: aliasing would bias small shifts.
        self.smooth = cv2.GaussianBlur(pixels, (3, 3), 0)
        small = cv2.resize(pixels, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        self.small = small.astype(np.float32)

    def shift(self, after: _Picture, window: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
        """The shift of the whole picture as a start for the flow, which loses pans past 30 px.

        None where it is not certain, or so small that the flow finds it by itself.
        """
        (x, y), certainty = cv2.phaseCorrelate(self.small, after.small, window)
        if not (certainty > _CERTAIN and np.hypot(x, y) * 4 > _FOUND_ALONE):
            return None
        start = np.empty((*self.smooth.shape, 2), np.float32)
        start[..., 0], start[..., 1] = x * 4, y * 4
        return start


def _speeds(
    grid: npt.NDArray[np.float32], flow: npt.NDArray[Any], width: int, height: int
) -> npt.NDArray[np.float64]:
    """Mean, 95th percentile and residual mean of the flow at the grid's points, in pixels."""
    target = grid + flow
    x, y = target[..., 0], target[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if np.count_nonzero(inside) < 3:  # everything flew out: no point can be left out
        inside = np.ones_like(inside)
    start, end = grid[inside], target[inside]
    length = np.linalg.norm(end - start, axis=1)
    camera, _ = cv2.estimateAffinePartial2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=1.0
    )
    # No camera found (no two points agree): nothing can be taken out.
    still = start if camera is None else start @ camera[:, :2].T + camera[:, 2]
    rest = end - still
    return np.array([length.mean(), np.percentile(length, 95), np.linalg.norm(rest, axis=1).mean()])
