"""Decoded frames to small pictures: scaled first, converted after.

The planes of a frame are scaled as they are, without a copy, straight to the size that is
asked; range, matrix, tone mapping and rotation then work on the small picture. Luma alone is
touched for gray. This costs a fraction of swscale's conversion at full size.

What is done about colour: the matrix and range of each frame are honoured; where no matrix is
given, it is bt2020nc for PQ and HLG, else bt709 from 720 coded lines on and smpte170m below
(as players do). PQ and HLG are tone-mapped to SDR BT.709 (see `tone_map`). Primaries of SDR
video are left as they are: BT.2020 SDR keeps its wider gamut's numbers. Chroma is scaled about
its own centre (at most a quarter of a chroma sample off).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from vidcurate.errors import UnsupportedMediaError
from vidcurate.media.frames import Pixels
from vidcurate.media.tone_map import HLG, PQ, tone_map, tone_map_luma
from vidcurate.media.video import Box, VideoInfo

Plane = npt.NDArray[Any]  # uint8 or uint16

_GRAY = re.compile(r"gray(?:(9|10|12|14|16)le)?")
_PLANAR = re.compile(r"yuv[ja]?4(?:20|22|40|44|11|10)p(?:(9|10|12|14|16)le)?")
_TWO_PLANES = re.compile(r"nv(?:12|21|16|24|42)|p[024](?:10|12|16)le")
# Packed, big-endian and odd YUV: swscale lays out their planes anew, of 8 or of 16 bits.
_PACKED_8 = re.compile(r"yuyv422|yvyu422|uyvy422|uyyvyy411|ayuv|uyva|vuy[ax]|vyu444")
_PACKED_16 = re.compile(r"yuva?4\d\dp\d+.*|p[024]1\d.*|nv20.*|ayuv64.*|y21[026].*|xv.*|v30.*")
_SWAPPED = ("nv21", "nv42")
# The luma weights of red and blue, by H.273 code point of the matrix.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),  # constant luminance, taken as its common sibling
}
_GBR, _BT709, _UNKNOWN, _SMPTE170M, _YCGCO, _BT2020 = 0, 1, 2, 6, 8, 9
_FULL = 2  # code point of the full range
_ROTATE = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_LUMA_709 = np.array([[0.2126, 0.7152, 0.0722]], np.float32)


@functools.lru_cache(maxsize=256)  # asked for every frame, always with the same few arguments
def target_size(width: int, height: int, short_side: int | Literal["native"]) -> tuple[int, int]:
    """The size that a picture is scaled to so that its shorter side has `short_side` pixels.

    Never larger than the picture; the aspect is kept as nearly as whole pixels allow; both
    sides are at least 1 and need not be even.
    """
    short = min(width, height)
    if short_side == "native" or short_side >= short:
        return width, height
    ratio = Fraction(short_side, short)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


@functools.lru_cache(maxsize=256)  # as above
def _part(
    crop: Box, shown_width: int, shown_height: int, rotation: int, height: int, width: int
) -> tuple[slice, slice]:
    """Rows and columns that a box of the displayed picture has in a plane of that size."""
    left, top = Fraction(crop.x, shown_width), Fraction(crop.y, shown_height)
    right = Fraction(crop.x + crop.width, shown_width)
    bottom = Fraction(crop.y + crop.height, shown_height)
    if rotation == 90:
        left, top, right, bottom = top, 1 - right, bottom, 1 - left
    elif rotation == 180:
        left, top, right, bottom = 1 - right, 1 - bottom, 1 - left, 1 - top
    elif rotation == 270:
        left, top, right, bottom = 1 - bottom, left, 1 - top, right
    x, y = min(width - 1, round(left * width)), min(height - 1, round(top * height))
    return (
        slice(y, max(y + 1, round(bottom * height))),
        slice(x, max(x + 1, round(right * width))),
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """How frames of one kind are read: everything that follows from `_key`."""

    reader: Literal["gray", "planar", "two_planes", "rgb", "yuv444"]
    swapped: bool
    depth: int
    gray: Pixels | None  # table: luma code -> 8 bit full range; None where they are the same
    matrix: npt.NDArray[np.float32]  # 3x4: YUV codes to RGB in 0..255


@dataclass(frozen=True, slots=True)
class _Target:
    """What is made of each plane of a frame; `size` is (width, height) as coded."""

    size: tuple[int, int]
    crop: Box | None
    one_field: bool
    quick: bool

    @property
    def half(self) -> _Target:
        """The same at half the size, rounded up."""
        width, height = self.size
        size = ((width + 1) // 2, (height + 1) // 2)
        return _Target(size, self.crop, self.one_field, self.quick)


class Converter:
    """Makes pictures of one video's frames: display-oriented, progressive, 8 bit full range.

    Rotation and sample aspect ratio are applied. Of interlaced frames one field (the top one)
    is used. Frames that differ in size or format from the probe are converted by what they are.

    Args:
        info: the video's probe.
        hdr: what PQ and HLG frames become: tone-mapped SDR, or an error.

    Raises:
        UnsupportedMediaError: from `gray` and `rgb`: an HDR frame with `hdr="refuse"`, or a
            colour matrix that is not handled (ICtCp and its like).
    """

    def __init__(self, info: VideoInfo, *, hdr: Literal["tonemap", "refuse"]) -> None:
        self.info = info
        self._hdr = hdr
        self._turned = info.rotation in (90, 270)
        self._plans: dict[tuple[str, int, int, int, bool], _Plan] = {}

    def gray(
        self,
        frame: VideoFrame,
        width: int,
        height: int,
        crop: Box | None = None,
        *,
        quick: bool = False,
    ) -> Pixels:
        """The frame's luma, (height, width) uint8, full range.

        Args:
            frame: a frame of this video.
            width, height: of the result, in display orientation.
            crop: the part of the displayed picture to take; None is all of it.
            quick: sample instead of averaging where the picture shrinks (see `Frames`).
        """
        plan = self._plan(frame)
        if plan.reader == "rgb":
            color = self.rgb(frame, width, height, crop, quick=quick)
            return _pixels(cv2.transform(color, _LUMA_709))
        target = self._target(frame, width, height, crop, quick)
        if plan.reader == "yuv444":
            frame = _planar(frame, plan.depth)
        luma = self._scaled(_samples(frame.planes[0], plan.depth), target)
        if plan.gray is None:
            small = luma
        elif plan.depth == 8:
            small = cv2.LUT(luma, plan.gray)
        else:
            small = plan.gray[luma]
        return self._upright(small, fresh=small is not luma)

    def rgb(
        self,
        frame: VideoFrame,
        width: int,
        height: int,
        crop: Box | None = None,
        *,
        quick: bool = False,
    ) -> Pixels:
        """The frame in RGB, (height, width, 3) uint8, full range; arguments as of `gray`."""
        plan = self._plan(frame)
        mixed = self._components(frame, plan, self._target(frame, width, height, crop, quick))
        hdr = frame.color_trc in (PQ, HLG)
        if plan.depth == 8 and not hdr:
            small = mixed if plan.reader == "rgb" else cv2.transform(mixed, plan.matrix)
        else:
            color = cv2.transform(mixed.astype(np.float32), plan.matrix)
            small = (
                tone_map(color / np.float32(255), frame.color_trc)
                if hdr
                else np.clip(color + 0.5, 0, 255).astype(np.uint8)
            )
        return self._upright(small, fresh=small is not mixed)

    # ------------------------------------------------------------------ planes

    def _target(
        self, frame: VideoFrame, width: int, height: int, crop: Box | None, quick: bool
    ) -> _Target:
        size = (height, width) if self._turned else (width, height)
        return _Target(size, crop, frame.interlaced_frame, quick)

    def _components(self, frame: VideoFrame, plan: _Plan, target: _Target) -> Plane:
        """The frame's three components at the target size, interleaved."""
        depth = plan.depth
        if plan.reader == "rgb":
            frame = frame.reformat(format="rgb24")
            return self._scaled(_samples(frame.planes[0], 8, 3), target)
        if plan.reader == "yuv444":
            frame = _planar(frame, depth)
        planes = frame.planes
        luma = self._scaled(_samples(planes[0], depth), target)
        if plan.reader == "gray":
            return _array(cv2.merge([luma, luma, luma]))
        coarse = target.half if target.quick else target
        if plan.reader == "two_planes":
            first, second = cv2.split(self._scaled(_samples(planes[1], depth, 2), coarse))
        else:
            first = self._scaled(_samples(planes[1], depth), coarse)
            second = self._scaled(_samples(planes[2], depth), coarse)
        if target.quick:
            first, second = (_repeated(plane, *target.size) for plane in (first, second))
        if plan.swapped:
            first, second = second, first
        return _array(cv2.merge([luma, first, second]))

    def _scaled(self, plane: Plane, target: _Target) -> Plane:
        """The plane's part that is wanted, at the target size."""
        if target.crop is not None:
            plane = self._cropped(plane, target.crop)
        if target.one_field and plane.shape[0] > 1:
            plane = plane[::2]
        return (_sampled if target.quick else _resized)(plane, *target.size)

    def _cropped(self, plane: Plane, crop: Box) -> Plane:
        """The part of a plane, in the coded orientation, that a box of the display covers."""
        info, (height, width) = self.info, plane.shape[:2]
        return plane[_part(crop, info.width, info.height, info.rotation, height, width)]

    def _upright(self, picture: Plane, *, fresh: bool) -> Pixels:
        """The picture as displayed, in memory of its own."""
        if self.info.rotation:
            return _pixels(cv2.rotate(picture, _ROTATE[self.info.rotation]))
        # A plane that needed no step is still the decoder's memory.
        return _pixels(picture) if fresh or picture.base is None else _pixels(picture.copy())

    # ------------------------------------------------------------------ plans

    def _plan(self, frame: VideoFrame) -> _Plan:
        key = (
            frame.format.name,
            frame.colorspace,
            frame.color_range,
            frame.color_trc,
            frame.height >= 720,
        )
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._new_plan(*key)
        return plan

    def _new_plan(
        self, name: str, matrix: int, color_range: int, transfer: int, is_hd: bool
    ) -> _Plan:
        hdr = transfer in (PQ, HLG)
        if hdr and self._hdr == "refuse":
            raise UnsupportedMediaError(
                f"{self.info.path}: HDR video ({self.info.color_transfer}) is refused by "
                "the setting hdr: refuse; hdr: tonemap converts it to SDR"
            )
        reader, depth = _reader(name)
        if matrix == _UNKNOWN or reader == "gray":
            matrix = _BT2020 if hdr else _BT709 if is_hd else _SMPTE170M
        full = color_range == _FULL or name.startswith("yuvj")
        if reader == "gray" and color_range == 0:
            full = True  # as FFmpeg has it
        if reader == "rgb":
            numbers = np.eye(3, 4)
        elif matrix in _WEIGHTS or matrix in (_GBR, _YCGCO):
            numbers = _matrix(matrix, full, depth, gray=reader == "gray")
        else:
            raise UnsupportedMediaError(
                f"{self.info.path}: colour matrix {self.info.color_matrix} (code point {matrix}) "
                "is not handled; convert the video to BT.709"
            )
        codes = np.arange(2**depth)
        black, span = _luma_range(full, depth)
        levels = ((codes - black) / span).astype(np.float32)
        table = (
            tone_map_luma(levels, transfer)
            if hdr
            else np.clip(levels * 255 + 0.5, 0, 255).astype(np.uint8)
        )
        return _Plan(
            reader=reader,
            swapped=name in _SWAPPED,
            depth=depth,
            gray=None if depth == 8 and np.array_equal(table, codes) else table,
            matrix=numbers.astype(np.float32),
        )


def _reader(
    name: str,
) -> tuple[Literal["gray", "planar", "two_planes", "rgb", "yuv444"], int]:
    """How a pixel format is read, and how many bits its samples have as they are read."""
    if found := _GRAY.fullmatch(name):
        return "gray", int(found[1] or 8)
    if found := _PLANAR.fullmatch(name):
        return "planar", int(found[1] or 8)
    if _TWO_PLANES.fullmatch(name):
        # P010 and its like hold their bits at the top of 16: codes of 16 bits.
        return "two_planes", 16 if name.startswith("p") else 8
    if _PACKED_8.fullmatch(name):
        return "yuv444", 8
    if _PACKED_16.fullmatch(name):
        return "yuv444", 16
    return "rgb", 8


def _resized(plane: Plane, width: int, height: int) -> Plane:
    """The plane at that size; the plane itself where it has it already.

    Shrinking is halving by area as often as it goes, then bilinear for the rest below 2: within
    noise of one step by area, and 4 to 15 times faster in OpenCV, which has halving in SIMD only.
    """
    rows, columns = plane.shape[:2]
    while not (rows % 2 or columns % 2) and columns >= 2 * width and rows >= 2 * height:
        rows, columns = rows // 2, columns // 2
        plane = _array(cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA))
    if (columns, rows) == (width, height):
        return plane
    shrinks = columns >= width and rows >= height
    is_far = columns >= 2 * width or rows >= 2 * height
    how = cv2.INTER_AREA if shrinks and is_far else cv2.INTER_LINEAR
    return _array(cv2.resize(plane, (width, height), interpolation=how))


def _sampled(plane: Plane, width: int, height: int) -> Plane:
    """The plane at that size, of the 4 pixels next to each new one; itself where it has it."""
    if plane.shape[:2] == (height, width):
        return plane
    return _array(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR))


def _repeated(plane: Plane, width: int, height: int) -> Plane:
    """A plane of half that size, each pixel twice both ways."""
    return _array(cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST))


def _planar(frame: VideoFrame, depth: int) -> VideoFrame:
    """The frame's YUV as three full planes: repacked by swscale, matrix and range unchanged."""
    return frame.reformat(
        format="yuv444p" if depth == 8 else "yuv444p16le",
        src_colorspace=frame.colorspace,
        dst_colorspace=frame.colorspace,
        src_color_range=frame.color_range,
        dst_color_range=frame.color_range,
    )


def _samples(plane: VideoPlane, depth: int, channels: int = 1) -> Plane:
    """A view of a plane's samples, (height, width) or (height, width, channels), no copy."""
    kind = np.dtype(np.uint8 if depth == 8 else "<u2")
    rows = np.frombuffer(memoryview(plane), kind).reshape(
        plane.height, plane.line_size // kind.itemsize
    )
    if channels == 1:
        return rows[:, : plane.width]
    return rows[:, : plane.width * channels].reshape(plane.height, plane.width, channels)


def _luma_range(full: bool, depth: int) -> tuple[float, float]:
    """The code of black and the distance to the code of white."""
    if full:
        return 0, 2**depth - 1
    return 16 * 2 ** (depth - 8), 219 * 2 ** (depth - 8)


def _matrix(matrix: int, full: bool, depth: int, *, gray: bool) -> npt.NDArray[np.float64]:
    """3x4: codes of the three components to RGB in 0..255, by ITU-T H.273."""
    black, span = _luma_range(full, depth)
    middle = 2.0 ** (depth - 1)
    reach = 2.0**depth - 1 if full else 224 * 2.0 ** (depth - 8)
    if gray or matrix == _GBR:
        # Three components alike: luma thrice, or green, blue, red.
        turn = np.eye(3) if gray else np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
        scale, offset = np.full(3, span), np.full(3, black)
    else:
        if matrix == _YCGCO:
            turn = np.array([[1, -1, 1], [1, 1, 0], [1, -1, -1]])
        else:
            red, blue = _WEIGHTS[matrix]
            green = 1 - red - blue
            turn = np.array(
                [
                    [1, 0, 2 - 2 * red],
                    [1, -(2 - 2 * blue) * blue / green, -(2 - 2 * red) * red / green],
                    [1, 2 - 2 * blue, 0],
                ]
            )
        scale, offset = np.array([span, reach, reach]), np.array([black, middle, middle])
    linear = 255 * turn / scale
    return np.hstack([linear, -(linear @ offset)[:, None]])


def _array(picture: Any) -> Plane:
    return np.asarray(picture)


def _pixels(picture: Any) -> Pixels:
    return np.asarray(picture, np.uint8)
