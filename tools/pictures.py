"""Moving pictures for the made footage: every one is a function from frame number to RGB.

All randomness is seeded, so that a picture is the same on each call and machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) RGB, full range."""
Moving = Callable[[int], Picture]
"""Frame number, from 0, to its picture."""

FONT = cv2.FONT_HERSHEY_SIMPLEX


def _rgb(hsv: npt.NDArray[np.uint8]) -> Picture:
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)


@functools.lru_cache(maxsize=16)
def texture(
    seed: int, width: int, height: int, *, hue: int = 100, sat: int = 120, dark: int = 50,
    bright: int = 220,
) -> Picture:  # fmt: skip
    """A picture of one hue (0..179, as OpenCV counts) with detail at many scales, as nature has.

    `dark` and `bright` bound its HSV value.
    """
    rng = np.random.default_rng(seed)
    noise = np.zeros((height, width), np.float32)
    for step in (4, 8, 16, 32, 64):
        cells = rng.standard_normal((height // step + 2, width // step + 2)).astype(np.float32)
        layer: Any = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
        noise += layer * step**0.5
    noise -= noise.min()
    value = dark + (bright - dark) * noise / noise.max()
    hsv = np.empty((height, width, 3), np.uint8)
    hsv[..., 0], hsv[..., 1], hsv[..., 2] = hue, sat, value
    return _rgb(hsv)


def still(picture: Picture) -> Moving:
    """The same picture for ever."""
    return lambda frame: picture


def pan(picture: Picture, width: int, height: int, dx: float, dy: float = 0.0) -> Moving:
    """A window over a larger picture: what it shows moves by (dx, dy) pixels a frame.

    The window starts where there is room for the way it goes, so no edge comes into view.
    """
    room_x, room_y = picture.shape[1] - width, picture.shape[0] - height
    x0, y0 = (room_x if dx > 0 else 0), (room_y if dy > 0 else 0)

    def view(frame: int) -> Picture:
        x, y = x0 - dx * frame, y0 - dy * frame
        assert min(x, y, room_x - x, room_y - y) >= 0, "the picture is too small for this pan"
        shift = np.array([[1, 0, -x], [0, 1, -y]], np.float64)
        shown: Any = cv2.warpAffine(picture, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        return np.asarray(shown, np.uint8)

    return view


def scene(number: int, width: int, height: int, frames: int) -> Moving:
    """One of a series of panned textures; neighbours in the series differ in hue, light and way."""
    hue = (10, 100, 30, 150, 60, 130, 5, 90)[number % 8]
    sat = (90, 190)[number % 2]
    dark, bright = ((90, 240), (30, 150))[number % 2]
    dx, dy = ((1.5, 0.0), (-1.0, 0.5), (0.5, 1.0), (2.0, -0.5))[number % 4]
    room = 3 * frames + 8
    large = texture(
        number + 1, width + room, height + room, hue=hue, sat=sat, dark=dark, bright=bright
    )
    return pan(large, width, height, dx, dy)


def joined(scenes: list[tuple[int, Moving]]) -> Moving:
    """Scenes of (frames, picture) one after the other, with hard cuts between them."""

    def view(frame: int) -> Picture:
        for length, shown in scenes:
            if frame < length:
                return shown(frame)
            frame -= length
        raise IndexError("past the last scene")

    return view


def dimmed(shown: Moving, light: Callable[[int], float]) -> Moving:
    """The picture times light(frame) of 0..1."""
    return lambda frame: np.rint(shown(frame) * light(frame)).astype(np.uint8)


def inside(shown: Moving, box: tuple[int, int, int, int], width: int, height: int) -> Moving:
    """The picture in a box (x, y, width, height) of a black frame: letterbox, pillarbox."""
    x, y, w, h = box

    def view(frame: int) -> Picture:
        out = np.zeros((height, width, 3), np.uint8)
        out[y : y + h, x : x + w] = shown(frame)
        return out

    return view


def write_text(picture: Picture, text: str, x: int, y: int, scale: float) -> Picture:
    """A copy with white text whose ink starts at the left x and sits on the base line y."""
    out = picture.copy()
    cv2.putText(out, text, (x, y), FONT, scale, (255, 255, 255), round(2 * scale), cv2.LINE_AA)
    return out


def text_box(text: str, x: int, y: int, scale: float) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) of the ink of write_text, in pixels."""
    ink = write_text(np.zeros((y + 100, x + 2000, 3), np.uint8), text, x, y, scale)[..., 0] > 127
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def nits_to_pq(nits: float) -> float:
    """The PQ signal (0..1) of a luminance in cd/m2, by SMPTE ST 2084."""
    y = (nits / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)
