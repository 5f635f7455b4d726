"""Buckets chosen from the clips themselves, and what any buckets lose of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vidcurate.errors import UserError
from vidcurate.recipe.model import Buckets, Fit, bucket_name
from vidcurate.shards.bucket_search import search
from vidcurate.shards.buckets import Bucket, bucket_size, largest

_ENOUGH_SHARE = 200  # a bucket holds at least one of so many clips,
_ENOUGH = 8  # but at least so many (a batch),
_ENOUGH_OF_FEW = 8  # where there are few at least one of so many
_BLOCK = 1 << 20  # clips at a time

_Ints: TypeAlias = "npt.NDArray[np.int64]"
_Kind: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...], bool]


@dataclass(frozen=True)
class Choice:
    """Buckets, and what becomes of clips in them.

    clips: how many there are. counts: of these, by the name of their bucket. no_bucket: clips that
    fit none; native: they are packed at their own size all the same.
    Of a clip's picture on average, clips without a bucket left out: `cropped` is cut away, `scaled`
    of its pixels are lost by making it smaller (shares of all its pixels).
    kept: share of a clip's pixels times frames that its bucket has, on average over all clips (0
        for those without a bucket).
    seconds: length of the clips that have a bucket. unused: of these, beyond the bucket's frames.
    """

    buckets: Buckets
    clips: int
    counts: Mapping[str, int]
    native: bool
    kept: float
    cropped: float
    scaled: float
    seconds: float
    unused: float

    @property
    def no_bucket(self) -> int:
        """Clips that fit no bucket."""
        return self.clips - sum(self.counts.values())

    def lines(self) -> list[str]:
        """What was chosen and what it loses, for a person."""
        chosen = self.buckets
        sides = ", ".join(map(str, chosen.short_side))
        counts = ", ".join(map(str, chosen.frames))
        lines = [
            f"buckets for {self.clips:,} clips: short sides {sides}; aspects "
            f"{', '.join(chosen.aspect)}; frames {counts}"
        ]
        for side in sorted(chosen.short_side, reverse=True):
            for aspect in chosen.aspect:
                held = [
                    (count, self.counts[name])
                    for count in sorted(chosen.frames)
                    if (name := bucket_name(side, aspect, count)) in self.counts
                ]
                if held:
                    size = "x".join(map(str, bucket_size(side, chosen.ratio(aspect))))
                    each = ", ".join(f"{count}f {clips:,}" for count, clips in held)
                    share = _percent(sum(clips for _, clips in held), self.clips)
                    lines.append(f"  {size} ({aspect}): {share} of the clips: {each}")
        where = "packed at their own size" if self.native else "left out"
        lines += [
            f"without a bucket: {self.no_bucket:,} clips "
            f"({_percent(self.no_bucket, self.clips)}), {where}",
            f"of a picture on average {_percent(self.cropped, 1)} is cropped and "
            f"{_percent(self.scaled, 1)} scaled away",
            f"unused: {_percent(self.unused, self.seconds)} of {_hours(self.seconds)} lie beyond "
            "the frames of their bucket",
        ]
        return lines


def choose(
    width: npt.ArrayLike,
    height: npt.ArrayLike,
    n_frames: npt.ArrayLike,
    seconds: npt.ArrayLike,
    fit: Fit,
) -> Choice:
    """Choose few buckets that lose little of these clips.

    What a bucket keeps of a clip is its pixels times frames as a share of the clip's own; a clip
    without a bucket keeps nothing. Every clip counts the same, so that a few large or long ones do
    not decide. `bucket_search.search` finds short sides, aspects and frame counts that keep most on
    average, from the clips' own sizes and lengths (2,000 of them, evenly spaced in order of size)
    and the common aspects. Then the clips of each group are counted, all of them, from the largest
    group down: one that holds too few (fewer than 1 of 200 clips; fewer than 8, or 1 of 8 where
    there are few) is not made (`Buckets.skip`), and its clips go to the next one that they fit.

    Images (clips of one frame) always have their count, and their groups are judged by the number
    of images. Nothing is upscaled, no more than `fit.max_crop` is cut away. The order of the clips
    does not matter; 10 million of them take some seconds.

    Args:
        width, height: (N,) pixels as displayed, after crop and resize.
        n_frames: (N,) those trained on. seconds: (N,) length of the clips.
        fit: of the recipe.

    Raises:
        UserError: no clips, or none of them has 16 pixels each way.
    """
    wide, high, frames = (np.asarray(a, np.int64) for a in (width, height, n_frames))
    if not len(wide):
        raise UserError(
            "no clips to choose buckets from: loosen the selection, or name the buckets in "
            "the recipe instead of `buckets: auto`"
        )
    found = search(wide, high, frames, fit.max_crop)
    if found is None:
        raise UserError(
            f"none of {len(wide)} clips fits a bucket: all are smaller than 16 pixels, or "
            f"`fit: {{max_crop: {fit.max_crop:g}}}` is too strict for them; change it, or leave "
            "`buckets` out, which packs all at their own size"
        )
    kinds: Counter[_Kind] = Counter()
    for block in _blocks(len(wide)):
        counted, _, times = _kinds(wide[block], high[block], frames[block], found, fit)
        kinds.update(dict(zip(counted, times, strict=True)))
    return measure(wide, high, frames, seconds, _populated(found, kinds), fit)


def measure(
    width: npt.ArrayLike,
    height: npt.ArrayLike,
    n_frames: npt.ArrayLike,
    seconds: npt.ArrayLike,
    buckets: Buckets,
    fit: Fit,
) -> Choice:
    """What becomes of clips in these buckets; arguments as of `choose`."""
    wide, high, frames = (np.asarray(a, np.int64) for a in (width, height, n_frames))
    length = np.asarray(seconds, np.float64)
    counts: Counter[str] = Counter()
    kept = cropped = scaled = total = unused = 0.0
    for block in _blocks(len(wide)):
        w, h, n, s = wide[block], high[block], frames[block], length[block]
        kinds, kind, _ = _kinds(w, h, n, buckets, fit)
        groups = [largest(buckets, aspect, sides, fs) for aspect, sides, fs, _ in kinds]
        sizes = np.array([_size(group) for group in groups], np.int64)[kind]
        placed = sizes[:, 0] > 0
        for group, number in zip(groups, np.bincount(kind, minlength=len(groups)), strict=True):
            if group is not None:
                counts[group.name] += int(number)
        w, h, n, s, sizes = w[placed], h[placed], n[placed], s[placed], sizes[placed]
        pixels = sizes[:, 0] * sizes[:, 1] / (w * h)
        used = sizes[:, 2] / n
        lost = _crop(w, h, sizes[:, 0], sizes[:, 1])
        kept += float((pixels * used).sum())
        cropped += float(lost.sum())
        scaled += float((1 - lost - pixels).sum())
        total += float(s.sum())
        unused += float((s * (1 - used)).sum())
    with_bucket = max(sum(counts.values()), 1)
    return Choice(
        buckets=buckets,
        clips=len(wide),
        counts=dict(sorted(counts.items())),
        native=fit.no_bucket == "native",
        kept=kept / max(len(wide), 1),
        cropped=cropped / with_bucket,
        scaled=scaled / with_bucket,
        seconds=total,
        unused=unused,
    )


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


def _kinds(
    width: _Ints, height: _Ints, n_frames: _Ints, buckets: Buckets, fit: Fit
) -> tuple[list[_Kind], _Ints, list[int]]:
    """Clips by all that decides their bucket: nearest aspect, sides and counts that they can have.

    Returns:
        the kinds (the last item: it is an image), each clip's place among them, clips of each.
    """
    # As `assign` has it: of two aspects equally near the wider, then the first.
    aspects = sorted(buckets.aspect, key=buckets.ratio, reverse=True)
    ratios = [buckets.ratio(aspect) for aspect in aspects]
    nearest = np.zeros(len(width), np.int64)
    for wider, narrower in pairwise(ratios):
        middle = wider * narrower  # squared
        nearest += width * width * middle.denominator < height * height * middle.numerator
    sides, frames = sorted(set(buckets.short_side)), sorted(set(buckets.frames))
    key = nearest
    for side in sides:
        sizes = np.array([bucket_size(side, ratio) for ratio in ratios], np.int64)[nearest]
        fits = (sizes[:, 0] <= width) & (sizes[:, 1] <= height)
        fits &= _crop(width, height, sizes[:, 0], sizes[:, 1]) <= fit.max_crop
        key = key * 2 + fits
    key = key * (len(frames) + 1) + np.searchsorted(frames, n_frames, side="right")
    key = key * 2 + (n_frames == 1)
    found, kind, times = np.unique(key, return_inverse=True, return_counts=True)
    kinds = []
    for code in found.tolist():
        rest, image = divmod(code, 2)
        rest, count = divmod(rest, len(frames) + 1)
        aspect, fitting = divmod(rest, 2 ** len(sides))
        bits = f"{fitting:0{len(sides)}b}"
        had = tuple(side for side, bit in zip(sides, bits, strict=True) if bit == "1")
        kinds.append((aspects[aspect], had, tuple(frames[:count]), bool(image)))
    return kinds, kind.reshape(-1), times.tolist()


def _crop(width: _Ints, height: _Ints, to_width: _Ints, to_height: _Ints) -> npt.NDArray[Any]:
    """`buckets.crop_loss` of many, equal to the last bit."""
    one, other = width * to_height, height * to_width
    crop: npt.NDArray[Any] = np.abs(one - other) / np.maximum(one, other)
    return crop


def _size(group: Bucket | None) -> tuple[int, int, int]:
    if group is None:
        return 0, 0, 0
    assert group.width is not None
    assert group.height is not None
    assert group.frames is not None
    return group.width, group.height, group.frames


def _enough(count: int) -> int:
    return max(math.ceil(count / _ENOUGH_SHARE), min(_ENOUGH, math.ceil(count / _ENOUGH_OF_FEW)))


def _populated(found: Buckets, kinds: Mapping[_Kind, int]) -> Buckets:
    """The buckets without the groups that hold too few clips, judged from the largest down.

    In that order all clips that ever come to a group are in it when it is judged: where a larger
    one is not made, they go to a smaller one.
    """
    places = {kind: largest(found, *kind[:3]) for kind in kinds}
    first: Counter[str] = Counter()
    first_images: Counter[str] = Counter()
    for (*_, image), times, group in zip(kinds, kinds.values(), places.values(), strict=True):
        if group is not None:
            first[group.name] += times
            first_images[group.name] += times if image else 0
    images = sum(times for kind, times in kinds.items() if kind[3])
    least = _enough(sum(kinds.values()))
    least_images = min(least, _enough(images))
    made: list[str] = []
    skip: list[str] = []
    for group in _descending(found):
        here = [kind for kind, place in places.items() if place == group]
        still = images > 0 and group.frames == 1
        if sum(kinds[kind] for kind in here) >= (least_images if still else least):
            made.append(group.name)
            continue
        skip.append(group.name)
        rest = found.model_copy(update={"skip": tuple(skip)})
        places.update({kind: largest(rest, *kind[:3]) for kind in here})
    # Few clips that differ much: the fullest group all the same, and the fullest of images.
    if not made:
        made.append(max(first, key=lambda name: (first[name], name)))
    if first_images.total() and not any(name.endswith("_1f") for name in made):
        made.append(max(first_images, key=lambda name: (first_images[name], name)))
    return _only(found, made, images > 0)


def _descending(buckets: Buckets) -> list[Bucket]:
    """All groups, from the most pixels times frames down."""
    groups = [
        Bucket(bucket_name(side, aspect, count), *bucket_size(side, buckets.ratio(aspect)), count)
        for side in buckets.short_side
        for aspect in buckets.aspect
        for count in buckets.frames
    ]
    return sorted(
        groups, key=lambda group: (math.prod(_size(group)), _size(group)[2]), reverse=True
    )


def _only(found: Buckets, names: Sequence[str], images: bool) -> Buckets:
    """Only the groups of these names: values that none has go, the rest is skipped."""
    parts = [name.split("_") for name in names]
    frames = {count for count in found.frames if any(p[2] == f"{count}f" for p in parts)}
    values: dict[str, Any] = {
        "short_side": [s for s in found.short_side if any(p[0] == f"{s}p" for p in parts)],
        "aspect": [a for a in found.aspect if any(p[1] == a.replace(":", "x") for p in parts)],
        "frames": sorted(frames | ({1} if images else set())),
    }
    rest = set(Buckets(**values).names()) - set(names)
    return Buckets(**values, skip=tuple(sorted(rest)))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:.1f} %"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds:,.1f} s"
