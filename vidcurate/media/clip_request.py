"""Which frames of a packed clip are wanted, and where they lie: the same for each back end."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from av.container import InputContainer
from av.video.stream import VideoStream

from vidcurate.errors import DecodeError, RefusedMediaError, UnsupportedMediaError
from vidcurate.media.open import video_stream
from vidcurate.media.video import Box


@dataclass(frozen=True)
class ClipRequest:
    """Which frames of a clip, and what is made of them.

    first: number of the first wanted frame among the shown ones, from 0. count: how many frames.
    step: every such shown frame.
    n_frames: of the clip, by the index. fps: their average rate. vfr: their times are uneven.
    preroll: frames in the file before the shown ones, by the index.
    size: (width, height) of the result, as displayed; None is the clip's own.
    crop: where the part lies that is taken where the aspects differ: 0 is left or top, 1 right or
        bottom; of the two numbers (x, y) only the one of the side that is too long matters.

    Where `vfr`, the frames are those nearest to an even grid, `step / fps` seconds apart, from the
    time of `first` on (earlier where it would run past the last frame). One that stands for longer
    is then taken again, and its time with it.
    """

    first: int
    count: int
    step: int
    n_frames: int
    fps: Fraction
    vfr: bool = False
    preroll: int = 0
    size: tuple[int, int] | None = None
    crop: tuple[float, float] = (0.5, 0.5)

    @property
    def last(self) -> int:
        """Number of the last frame that is wanted, at a constant rate."""
        return self.first + (self.count - 1) * self.step


def clip_stream(container: InputContainer, name: str, max_pixels: int) -> VideoStream:
    """The clip's video stream, which has a decoder and no more than `max_pixels`.

    Raises:
        UnsupportedMediaError, RefusedMediaError: it is not so.
    """
    stream = video_stream(container, name)
    if stream.codec_context is None:
        raise UnsupportedMediaError(f"{name}: no decoder for its video codec; convert the file")
    if stream.width * stream.height > max_pixels:
        raise RefusedMediaError(
            f"{name}: a picture of {stream.width}x{stream.height} is more than {max_pixels} pixels"
        )
    return stream


def chosen_frames(
    request: ClipRequest, seconds: Sequence[float], fault: str, name: str
) -> dict[int, list[int]]:
    """Numbers of the wanted frames, and the places of each in the result.

    Args:
        seconds: times of the shown frames; where the rate is constant, of the first of them.

    Raises:
        DecodeError: there are fewer frames.
    """
    if request.last >= len(seconds):
        raise DecodeError(
            f"{name}: frame {request.last} is wanted, and the file has only {len(seconds)}; by the "
            f"index it has {request.n_frames} (cut short, or changed since)"
            + (f": {fault}" if fault else "")
        )
    if not request.vfr:
        return {request.first + i * request.step: [i] for i in range(request.count)}
    spacing = float(request.step / request.fps)
    latest = seconds[-1] - (request.count - 1) * spacing
    begin = max(min(seconds[request.first], latest), seconds[0])
    chosen: dict[int, list[int]] = {}
    for i in range(request.count):
        time = begin + i * spacing
        after = min(bisect_left(seconds, time), len(seconds) - 1)
        before = max(after - 1, 0)
        near = before if time - seconds[before] <= seconds[after] - time else after
        chosen.setdefault(near, []).append(i)
    return chosen


def window(width: int, height: int, size: tuple[int, int], crop: tuple[float, float]) -> Box | None:
    """The largest part of a picture that has the aspect of `size`; None is all of it.

    The side that is cut is a multiple of 2, 4, ...: as often as planes are halved on their way to
    `size` (which is the fast part of scaling), and as chroma lies. So the aspect is off by as many
    pixels of the picture at most, less than one of the result.

    Args:
        width, height: of the picture. crop: see `ClipRequest`.
    """
    unit = 2
    while width >= 2 * unit * size[0] and height >= 2 * unit * size[1]:
        unit *= 2
    wide, high = width, height
    if width * size[1] > height * size[0]:
        wide = min(width, max(unit, round(Fraction(height * size[0], size[1] * unit)) * unit))
    else:
        high = min(height, max(unit, round(Fraction(width * size[1], size[0] * unit)) * unit))
    if (wide, high) == (width, height):
        return None
    x, y = (
        int((a - b) * c) // 2 * 2
        for a, b, c in zip((width, height), (wide, high), crop, strict=True)
    )
    return Box(x, y, wide, high)
