"""Which bucket (resolution, aspect, frame count) a clip goes to. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from vidcurate.recipe.model import Buckets, Fit, bucket_name

_STEP = 16
_RATE_SLACK = 0.01  # rates are measured: 30.02 is 30


@dataclass(frozen=True)
class Bucket:
    """A group of samples that a trainer can put into one batch.

    width, height: pixels, multiples of 16; frames: of the form 4k+1. All None for `native`: such
    clips keep their own.
    """

    name: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None


NATIVE = Bucket("native")


def bucket_size(short_side: int, ratio: Fraction) -> tuple[int, int]:
    """Width and height of a bucket: its short side, and the long one rounded down to 16.

    Down, so that a clip of exactly that aspect and short side is not too small for its bucket
    (240 lines of 16:9 are 426 pixels wide; the nearest multiple of 16 is 432).
    """
    long_side = math.floor(short_side * max(ratio, 1 / ratio) / _STEP) * _STEP
    return (long_side, short_side) if ratio >= 1 else (short_side, long_side)


def crop_loss(width: int, height: int, bucket_width: int, bucket_height: int) -> float:
    """Share of the picture that is cut away when it is scaled to cover the bucket."""
    ours, theirs = Fraction(width, height), Fraction(bucket_width, bucket_height)
    return float(1 - min(ours / theirs, theirs / ours))


def frame_step(fps: float, fit: Fit) -> int:
    """1, 2, 4, ...: every such frame of a clip is trained on, to be within `fit.max_fps`."""
    step = 1
    if fit.max_fps is not None:
        while fps / step > fit.max_fps * (1 + _RATE_SLACK):
            step *= 2
    return step


def assign(
    width: int, height: int, n_frames: int, buckets: Buckets | None, fit: Fit
) -> Bucket | None:
    """The bucket of a clip; None where it has none and `fit.no_bucket` is "report".

    Of the aspect nearest to the clip's: the bucket of most pixels times frames among those that
    need no upscaling, cut away at most `fit.max_crop` and have no more frames than the clip. That
    is the largest short side and the most frames, where `buckets.skip` leaves these.

    Args:
        width, height: pixels as displayed, after crop and resize. n_frames: those trained on.
        buckets: None: all clips are native.
    """
    if buckets is None:
        return NATIVE
    aspect = _nearest(Fraction(width, height), buckets)
    sides = []
    for short_side in buckets.short_side:
        size = bucket_size(short_side, buckets.ratio(aspect))
        fits = size[0] <= width and size[1] <= height
        if fits and crop_loss(width, height, *size) <= fit.max_crop:
            sides.append(short_side)
    found = largest(buckets, aspect, sides, [f for f in buckets.frames if f <= n_frames])
    if found is not None:
        return found
    return NATIVE if fit.no_bucket == "native" else None


def largest(
    buckets: Buckets, aspect: str, sides: Iterable[int], frames: Sequence[int]
) -> Bucket | None:
    """The bucket of most pixels times frames among these; None where there is none.

    What has frames for more is never put among the images for lack of other buckets.
    """
    best: Bucket | None = None
    most = (0, 0)
    for short_side in sides:
        width, height = bucket_size(short_side, buckets.ratio(aspect))
        for count in [f for f in frames if f > 1] or frames:
            name = bucket_name(short_side, aspect, count)
            size = (width * height * count, count)
            if size > most and name not in buckets.skip:
                best, most = Bucket(name, width, height, count), size
    return best


def _nearest(ratio: Fraction, buckets: Buckets) -> str:
    """The aspect nearest to a ratio by their quotient, of two the wider; exact, without floats."""

    def distance(aspect: str) -> tuple[Fraction, Fraction]:
        quotient = ratio / buckets.ratio(aspect)
        return max(quotient, 1 / quotient), -buckets.ratio(aspect)

    return min(buckets.aspect, key=distance)
