"""`brightness`: how light the clip is, how much contrast it has, how much of it is black."""

from __future__ import annotations

import cv2
import numpy as np

from vidcurate import FrameBatch, Frames, column, scorer

_UNIT = "luma, 0 to 255"
_BLACK = 25  # luma at which a pixel counts as black: FFmpeg blackdetect's pix_th of 0.10
_BLACK_AREA = 0.98  # share of such pixels in a black frame: its pic_th


@scorer(
    "brightness",
    frames=Frames(fps=2, short_side=256, color="gray"),
    columns={
        "mean": column(
            "float32", unit=_UNIT, range=(0, 255), description="mean luma of all frames"
        ),
        "p5": column(
            "float32", unit=_UNIT, range=(0, 255), description="luma that 5 % of pixels lie below"
        ),
        "p95": column(
            "float32", unit=_UNIT, range=(0, 255), description="luma that 5 % of pixels exceed"
        ),
        "contrast": column(
            "float32",
            unit=_UNIT,
            range=(0, 127.5),
            description="standard deviation of luma within a frame, mean over frames",
        ),
        "black": column(
            "float32", unit="share of frames", range=(0, 1), description="share of black frames"
        ),
    },
)
def brightness(frames: FrameBatch) -> dict[str, float]:
    """Luma of the frames of a grid of 2 a second.

    Luma is the gamma-coded Y' at full range, HDR after tone mapping. Mean and percentiles are of
    all pixels of all frames; contrast is the RMS contrast (Peli 1990, "Contrast in complex
    images") of each frame. A frame is black where 98 % of its pixels are at 25 or darker
    (the default limits of FFmpeg's blackdetect).

    Typical: means of 60 to 180; below 40 is night, above 200 is washed out; a contrast below 15
    is fog, a blank or nearly black picture. Thresholds on 0..255 luma that others publish apply.
    """
    levels = np.arange(256)
    total = np.zeros(256, dtype=np.int64)
    contrasts: list[float] = []
    black = 0
    for picture in frames.pixels:
        counts = cv2.calcHist([picture], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        total += counts
        mean = counts @ levels / picture.size
        contrasts.append(float(np.sqrt(counts @ (levels - mean) ** 2 / picture.size)))
        black += bool(counts[: _BLACK + 1].sum() >= _BLACK_AREA * picture.size)
    below = np.cumsum(total) / total.sum()
    return {
        "mean": float(total @ levels / total.sum()),
        "p5": float(np.searchsorted(below, 0.05)),
        "p95": float(np.searchsorted(below, 0.95)),
        "contrast": float(np.mean(contrasts)),
        "black": black / len(frames),
    }
