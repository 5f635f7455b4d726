"""The search for short sides, aspects and frame counts that keep most of given clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vidcurate.recipe.model import Buckets
from vidcurate.shards.buckets import bucket_size

_CLIPS = 2000  # that are looked at
_VALUES = 32  # of the clips' own sizes and counts that are tried
_OWN_ASPECTS = 24
_COMMON = ("21:9", "2:1", "16:9", "3:2", "4:3", "5:4", "1:1")  # and these upright
_SAME_ASPECT = 0.005  # an own aspect as near as this to a common one is that
_DENOMINATOR = 64  # own aspects are written in numbers about so large
_MOST_ASPECTS, _MOST_SIDES, _MOST_FRAMES = 6, 4, 5
_WORTH = 0.01  # of what is kept on average: one value more
_BETTER = 1e-4  # another value in its place

_Ints: TypeAlias = "npt.NDArray[np.int64]"
_Floats: TypeAlias = "npt.NDArray[Any]"


def search(width: _Ints, height: _Ints, n_frames: _Ints, max_crop: float) -> Buckets | None:
    """Buckets by which clips keep most of their pixels times frames, on average over the clips.

    Greedy with exchange: the best single bucket first; then again and again an aspect, a short side
    or a frame count is added, or two or all three of these at once (what is new to the buckets may
    need all), by which the clips keep most more for each value added, as long as that is 1 % of the
    whole or more for each and there are at most 6, 4 and 5 of them. After each addition any value
    is exchanged for another as long as that is better. Frames 1 is among the counts where a clip
    has one frame.

    Candidates: the clips' own short sides rounded down to multiples of 16 and 16 less, their own
    frame counts rounded down to 4k+1 (more than 32 of either are thinned by quantiles), their own
    aspects (up to 24) and the common ones.

    Args:
        width, height, n_frames: (N,), pixels and frames; N > 0.
        max_crop: largest share of a picture that a bucket may cut away.

    Returns:
        None where no clip fits any bucket.
    """
    width, height, n_frames = _sampled(width, height, n_frames)
    aspects = _aspects(width, height)
    short = np.minimum(width, height) // 16 * 16
    sides = [int(s) for s in np.unique([_thinned(short), _thinned(short) - 16]) if s >= 16]
    counts = _thinned((np.maximum(n_frames, 1) - 1) // 4 * 4 + 1)
    still = bool((n_frames == 1).any())
    if still:
        counts = np.union1d(counts, [1])
    if not sides:
        return None
    kept = _kept_pixels(width, height, aspects, sides, max_crop)
    ratios = np.log([float(a) for a in aspects])
    far = np.abs(np.log(width / height)[:, None] - ratios)
    used = np.where(counts <= n_frames[:, None], counts / n_frames[:, None], 0)
    tries = _Tries(kept, far, used, forced=(0,) if still else ())
    state = _State((), (), tries.forced)
    while (more := tries.extended(state)) is not None:
        state = tries.exchanged(more)
    if not state.aspects:
        return None
    return Buckets(
        short_side=tuple(sorted(sides[i] for i in state.sides)),
        aspect=tuple(f"{aspects[i].numerator}:{aspects[i].denominator}" for i in state.aspects),
        frames=tuple(sorted(int(counts[i]) for i in state.frames)),
    )


def _sampled(width: _Ints, height: _Ints, n_frames: _Ints) -> tuple[_Ints, _Ints, _Ints]:
    """Clips evenly spaced in the order of width, height and frames; all where there are few."""
    parts = (width, 20), (height, 20), (n_frames, 23)
    key = np.zeros(len(width), np.int64)
    for values, bits in parts:
        key = key << bits | np.minimum(values, (1 << bits) - 1)
    key.sort()
    if len(key) > _CLIPS:
        key = key[((np.arange(_CLIPS) + 0.5) * (len(key) / _CLIPS)).astype(np.int64)]
    return key >> 43, key >> 23 & (1 << 20) - 1, key & (1 << 23) - 1


def _thinned(values: _Ints, most: int = _VALUES) -> _Ints:
    """The distinct values, or those at evenly spaced places of all where they are many."""
    found = np.unique(values)
    if len(found) > most:
        places = ((np.arange(most) + 0.5) * (len(values) / most)).astype(np.int64)
        found = np.unique(np.append(np.sort(values)[places], found[0]))
    return found


def _aspects(width: _Ints, height: _Ints) -> list[Fraction]:
    """Candidates, the widest first."""
    common = [Fraction(*map(int, text.split(":"))) for text in _COMMON]
    common += [1 / ratio for ratio in common if ratio != 1]
    pairs, times = np.unique(np.stack([width, height]), axis=1, return_counts=True)
    own = pairs[:, np.argsort(-times, kind="stable")[:_OWN_ASPECTS]].T.tolist()
    found = set(common)
    for w, h in own:
        ratio = Fraction(max(w, h), min(w, h)).limit_denominator(_DENOMINATOR)
        ratio = ratio if w >= h else 1 / ratio
        if all(abs(float(ratio / near) - 1) > _SAME_ASPECT for near in common):
            found.add(ratio)
    return sorted(found, reverse=True)


def _kept_pixels(
    width: _Ints, height: _Ints, aspects: Sequence[Fraction], sides: Sequence[int], max_crop: float
) -> _Floats:
    """(clips, aspects, sides): share of a clip's pixels that the bucket has; 0 where none fits."""
    sizes = np.array([[bucket_size(s, a) for s in sides] for a in aspects], np.int64)
    to_width, to_height = sizes[None, :, :, 0], sizes[None, :, :, 1]
    w, h = width[:, None, None], height[:, None, None]
    one, other = w * to_height, h * to_width
    fits = (to_width <= w) & (to_height <= h)
    fits &= np.abs(one - other) / np.maximum(one, other) <= max_crop
    kept: _Floats = np.where(fits, to_width * to_height / (w * h), 0).astype(np.float32)
    return kept


@dataclass(frozen=True)
class _State:
    """Places among the candidates; of aspects in rising order (the widest first)."""

    aspects: tuple[int, ...]
    sides: tuple[int, ...]
    frames: tuple[int, ...]


class _Tries:
    """Values of states.

    kept: (clips, aspects, sides), shares of pixels. far: (clips, aspects), how far a clip is from
    an aspect. used: (clips, counts), shares of frames. forced: counts that stay.
    """

    def __init__(self, kept: _Floats, far: _Floats, used: _Floats, forced: tuple[int, ...]) -> None:
        self.kept = kept
        self.far = far
        self.used = used.astype(np.float32)
        self.forced = forced
        self.clips = np.arange(len(kept))

    def value(self, state: _State) -> float:
        """What is kept on average."""
        return float((self._pixels(state) * self._used(state.frames)).mean(dtype=np.float64))

    def extended(self, state: _State) -> _State | None:
        """The best state with up to one value more of each kind; None where none is worth it."""
        value = self.value(state) if state.aspects else 0.0
        best, most = None, _WORTH if state.aspects else 0.0
        new_side = _new(self.kept.shape[2], state.sides, _MOST_SIDES)
        new_count = _new(self.used.shape[1], state.frames, _MOST_FRAMES)
        used = np.maximum(self.used, self._used(state.frames)[:, None])
        for aspect, new in enumerate(_new(self.kept.shape[1], state.aspects, _MOST_ASPECTS)):
            if not np.isfinite(new):
                continue
            aspects = tuple(sorted({*state.aspects, aspect}))
            near = self._near(aspects)
            had = near[:, list(state.sides)].max(axis=1, initial=0)
            # No `@`: its threads take ten times as long as the work where cores are shared.
            means = np.einsum("cs,cf->sf", np.maximum(near, had[:, None]), used) / len(self.clips)
            # Infinite where there would be too many; the state itself is no addition.
            values = new + new_side[:, None] + new_count
            worth = (means - value) / np.where(values == 0, np.inf, values)
            # Of equal ones the aspect nearest to the clips.
            worth -= 1e-6 * self.far[:, list(aspects)].min(axis=1).mean()
            side, count = np.unravel_index(int(worth.argmax()), worth.shape)
            if worth[side, count] > most:
                most = float(worth[side, count])
                best = _State(
                    aspects,
                    tuple(sorted({*state.sides, int(side)})),
                    tuple(sorted({*state.frames, int(count)})),
                )
        return best

    def exchanged(self, state: _State) -> _State:
        """The state after all exchanges of one value for a better one."""
        while True:
            tried = [self._best_aspect(state, _without(state.aspects, i)) for i in state.aspects]
            tried += [self._best_side(state, _without(state.sides, i)) for i in state.sides]
            tried += [
                self._best_count(state, _without(state.frames, i))
                for i in state.frames
                if i not in self.forced
            ]
            best = max(tried, key=self.value)
            if self.value(best) - self.value(state) < _BETTER:
                return state
            state = best

    def _used(self, frames: tuple[int, ...]) -> _Floats:
        used: _Floats = self.used[:, list(frames)].max(axis=1, initial=0)
        return used

    def _near(self, aspects: tuple[int, ...]) -> _Floats:
        """(clips, sides): shares of pixels in each clip's nearest aspect."""
        nearest = np.array(aspects)[self.far[:, list(aspects)].argmin(axis=1)]
        kept: _Floats = self.kept[self.clips, nearest]
        return kept

    def _pixels(self, state: _State) -> _Floats:
        """(clips,): share of the pixels that the largest fitting side has."""
        pixels: _Floats = self._near(state.aspects)[:, list(state.sides)].max(axis=1)
        return pixels

    def _best_aspect(self, state: _State, others: tuple[int, ...]) -> _State:
        kept = self.kept[:, :, list(state.sides)].max(axis=2) * self._used(state.frames)[:, None]
        best, most = state, -1.0
        for i in range(kept.shape[1]):
            aspects = tuple(sorted({*others, i}))
            nearest = np.array(aspects)[self.far[:, list(aspects)].argmin(axis=1)]
            mean = float(kept[self.clips, nearest].mean(dtype=np.float64))
            if mean > most:
                best, most = replace(state, aspects=aspects), mean
        return best

    def _best_side(self, state: _State, others: tuple[int, ...]) -> _State:
        near = self._near(state.aspects)
        had = near[:, list(others)].max(axis=1, initial=0)
        mean = np.einsum("c,cs->s", self._used(state.frames), np.maximum(near, had[:, None]))
        return replace(state, sides=tuple(sorted({*others, int(mean.argmax())})))

    def _best_count(self, state: _State, others: tuple[int, ...]) -> _State:
        used = np.maximum(self.used, self._used(others)[:, None])
        mean = np.einsum("c,cf->f", self._pixels(state), used)
        return replace(state, frames=tuple(sorted({*others, int(mean.argmax())})))


def _new(candidates: int, chosen: tuple[int, ...], most: int) -> _Floats:
    """(candidates,): 0 for what is chosen, 1 for the others, infinite where there are enough."""
    new = np.full(candidates, 1.0 if len(chosen) < most else np.inf)
    new[list(chosen)] = 0
    return new


def _without(values: tuple[int, ...], value: int) -> tuple[int, ...]:
    return tuple(v for v in values if v != value)
