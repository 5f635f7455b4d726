"""Which decoded frames a request gets, and holding them until their clip is final.

Frames are chosen on grids anchored to SOURCE time, so that a clip's frames do not depend on
what else is asked or on how its cuts were found:

- `fps=k`: the first frame at or after each multiple of 1/k.
- `every=1`: every frame. `every=n`: the grid of 1/n of the stream's nominal rate.
- `count=N`: the nearest to N evenly spread times among the frames on the grid of the largest
  power of two seconds that is at most duration / (2 N). Such grids are nested, so a clip whose
  end is not known yet can be thinned while it grows and at most 4 N frames are held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vidcurate.errors import DecodeError
from vidcurate.media.convert import Converter, target_size
from vidcurate.media.decode import Decoder
from vidcurate.media.frames import FrameBatch, Frames, MotionVectors, Pixels
from vidcurate.media.video import Box

_FINEST = 10  # grids of 2**-10 s; two frames nearer than that are on all grids
_RAW_BUDGET = 256 * 2**20
_CLIP_BUDGET = 768 * 2**20


@dataclass(slots=True, eq=False)
class Shot:
    """One decoded frame with the pictures that were made of it so far.

    `level` is m of the coarsest grid of 2**-m seconds that the frame is on; `previous` the time
    of the frame before it (-1 for the video's first); `bytes_before` the video's packet bytes
    before it in presentation order; `vectors` its motion vectors by grid rate, where it is on one.
    """

    frame: VideoFrame | None  # None once only its pictures are kept
    index: int
    pts: int
    end_pts: int
    time: float
    duration: float
    previous: float
    bytes_before: int
    level: int = 0
    pictures: dict[tuple[Any, ...], Pixels] = field(default_factory=dict)
    _frame_bytes: int = -1
    vectors: dict[Fraction, MotionVectors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.level = grid_level(self.previous, self.time)

    def picture(self, converter: Converter, request: Frames, crop: Box | None) -> Pixels:
        """The frame as the request wants it; made once for equal sizes and colours."""
        info = converter.info
        full = (crop.width, crop.height) if crop else (info.width, info.height)
        width, height = target_size(*full, request.short_side)
        key = (width, height, request.color, request.quick, crop)
        picture = self.pictures.get(key)
        if picture is None:
            assert self.frame is not None
            convert = converter.gray if request.color == "gray" else converter.rgb
            picture = convert(self.frame, width, height, crop, quick=request.quick)
            self.pictures[key] = picture
        return picture

    @property
    def raw_bytes(self) -> int:
        """Memory that the decoded frame itself holds."""
        if self.frame is None:
            return 0
        if self._frame_bytes < 0:
            self._frame_bytes = sum(plane.buffer_size for plane in self.frame.planes)
        return self._frame_bytes


def shots(decoder: Decoder, start: float | None, end: float | None) -> Iterator[Shot]:
    """The decoder's frames with start <= time < end, ready for sampling."""
    for d in decoder.frames(start, end):
        yield Shot(
            d.frame, d.index, d.pts, d.end_pts, d.time, d.duration, d.previous, d.bytes_before
        )


def grid_level(previous: float, time: float) -> int:
    """The smallest m (coarsest grid) with a multiple of 2**-m in (previous, time]."""
    if previous < 0:
        return -64  # the first frame of a video is on every grid
    now, before = int(time * 2**_FINEST), int(previous * 2**_FINEST)
    if now == before:
        return _FINEST + 1
    return _FINEST + 1 - (now ^ before).bit_length()


def needed_level(duration: float, count: int) -> int:
    """The m of the grid of 2**-m seconds that `count` frames of that duration are taken from."""
    if duration <= 0:
        return _FINEST + 1
    return min(_FINEST + 1, math.ceil(math.log2(2 * count / duration)))


def on_grid(previous: float, time: float, fps: Fraction | float) -> bool:
    """True for the first frame at or after some multiple of 1/fps."""
    if previous < 0:
        return True
    # A hair of slack: a pts rounded down by its time base still meets its grid point.
    return math.floor(time * fps + 1e-6) > math.floor(previous * fps + 1e-6)


def grid_fps(request: Frames, nominal: Fraction) -> Fraction | None:
    """The grid rate of a request; None where it takes every frame or a count."""
    if request.fps is not None:
        return Fraction(request.fps).limit_denominator(100_000)
    if request.every is not None and request.every > 1:
        return (nominal or Fraction(25)) / request.every
    return None


class ClipFrames:
    """The frames of one growing clip, for every request, with bounded memory.

    Args:
        converter: of the video's stream.
        requests: distinct requests.
        nominal: the stream's nominal frame rate, for `every=n`.
        crop: the box that every picture is cut to.

    `vectors` holds motion vectors by grid rate, without those of the clip's first frame, which
    lead out of the clip.
    """

    def __init__(
        self,
        converter: Converter,
        requests: Sequence[Frames],
        nominal: Fraction,
        crop: Box | None,
    ) -> None:
        self.vectors: dict[Fraction, list[MotionVectors]] = {}
        self._converter = converter
        self._crop = crop
        grids = {r: grid_fps(r, nominal) for r in requests if r.count is None}
        # As floats: arithmetic with fractions is slow, and this is done for every frame.
        self._grids = {r: None if fps is None else float(fps) for r, fps in grids.items()}
        self._taken: dict[Frames, list[tuple[float, Pixels]]] = {r: [] for r in self._grids}
        self._counts = [r for r in requests if r.count is not None]
        self._held: list[Shot] = []
        self._first: Shot | None = None
        self._bytes = 0

    def add(self, shot: Shot) -> None:
        """Take the clip's next frame.

        Raises:
            DecodeError: the clip's frames are past the memory that one clip may use.
        """
        if self._first is None:
            self._first = shot
        start = self._first.time
        for request, fps in self._grids.items():
            if request.head is not None and shot.time >= start + float(request.head):
                continue
            if fps is None or on_grid(shot.previous, shot.time, fps):
                picture = shot.picture(self._converter, request, self._crop)
                self._taken[request].append((shot.time, picture))
                self._bytes += picture.nbytes
        if shot is not self._first:
            for rate, vectors in shot.vectors.items():
                self.vectors.setdefault(rate, []).append(vectors)
                self._bytes += 5 * vectors.area.nbytes
        if self._bytes > _CLIP_BUDGET:
            raise DecodeError(
                f"a clip of more than {shot.time - start:.0f} s needs over "
                f"{_CLIP_BUDGET // 2**20} MiB of frames; give the recipe a split step, or lower "
                "its max_length"
            )
        if self._counts and shot.level <= self._level(shot.time):
            self._held.append(shot)
            self._thin(shot.time)

    @property
    def nbytes(self) -> int:
        """Memory held: pictures, and decoded frames that may still be chosen."""
        return self._bytes + sum(s.raw_bytes for s in self._held)

    def _level(self, now: float) -> int:
        assert self._first is not None
        length = now - self._first.time
        levels = []
        for request in self._counts:
            assert request.count is not None
            bound = length if request.head is None else min(length, float(request.head))
            levels.append(needed_level(bound, request.count))
        return max(levels)

    def _thin(self, now: float) -> None:
        if len(self._held) % 16 == 0:
            level = self._level(now)
            self._held = [s for s in self._held if s.level <= level]
        raw = 0
        for i in reversed(range(len(self._held))):
            shot = self._held[i]
            raw += shot.raw_bytes
            if raw > _RAW_BUDGET and shot.frame is not None and shot is not self._first:
                for request in self._counts:  # keep the small pictures, let the large frame go
                    shot.picture(self._converter, request, self._crop)
                # A copy without it: overlapping clips hold the same shot.
                self._held[i] = replace(shot, frame=None)

    def batch(self, request: Frames, start: float, end: float) -> FrameBatch:
        """The frames of `request` for the clip [start, end), which is final now."""
        if request.count is not None:
            shots = self._spread(request, start, end)
            return FrameBatch(
                np.stack([s.picture(self._converter, request, self._crop) for s in shots]),
                np.array([s.time for s in shots]),
            )
        taken = [(t, p) for t, p in self._taken[request] if start <= t < end]
        if not taken:  # shorter than the grid's step: at least its first frame
            assert self._first is not None
            taken = [(self._first.time, self._first.picture(self._converter, request, self._crop))]
        return FrameBatch(np.stack([p for _, p in taken]), np.array([t for t, _ in taken]))

    def _spread(self, request: Frames, start: float, end: float) -> list[Shot]:
        assert request.count is not None
        assert self._first is not None
        if request.head is not None:
            end = min(end, start + float(request.head))
        level = needed_level(end - start, request.count)
        choice = [s for s in self._held if s.level <= level and start <= s.time < end]
        choice = choice or [self._first]
        times = np.array([s.time for s in choice])
        step = (end - start) / request.count
        targets = start + (np.arange(request.count) + 0.5) * step
        return [choice[int(np.abs(times - target).argmin())] for target in targets]
