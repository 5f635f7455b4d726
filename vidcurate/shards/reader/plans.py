"""Batch plans: which samples of a window go into one batch, and what a batch costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vidcurate.errors import UserError
from vidcurate.shards.buckets import NATIVE
from vidcurate.shards.reader.shapes import Rows, Shapes

Remainder = Literal["keep", "drop"]

SampleCost = Callable[[Shapes], npt.NDArray[np.float64]]
"""The cost of each sample, in any unit: float64 (N,), at least 0."""

NEIGHBOURS = 64
_REST = "*"


@dataclass(frozen=True)
class Planned:
    """What a plan makes of the N samples of a window; each place is in exactly one of these.

    batches: int64 arrays of places (0..N-1), none empty. cost: float64, of each batch.
    left_out: places that no batch can hold, with the reason. dropped: places of batches that would
    not be full, where the remainder is dropped.
    """

    batches: list[Rows]
    cost: npt.NDArray[np.float64]
    left_out: list[tuple[int, str]] = field(default_factory=list)
    dropped: Rows = field(default_factory=lambda: np.zeros(0, np.int64))


class BatchPlan(Protocol):
    """How samples become batches. It must give the same for the same shapes, on any machine."""

    @property
    def neighbours(self) -> int:
        """Batches in a run of near-equal cost: a multiple of the ranks that train."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that decide the batches: a state made with others is refused."""
        ...

    def batches(self, shapes: Shapes, *, remainder: Remainder) -> Planned:
        """The batches of a window, whose samples come in random order where these are shuffled.

        Raises:
            UserError: the plan does not fit these samples, or (also without any) their buckets.
        """
        ...


@dataclass(frozen=True)
class BucketBatches:
    """Batches of one bucket each, in the window's order, as Open-Sora trains.

    Args:
        size: samples in a batch; by name of the bucket, `*` being all others (needed unless all
            buckets of the index are named), or one number for all buckets. Samples of the bucket
            `native`, whose sizes differ, are batched one by one unless the mapping names it.
        cost: of each sample; that of a batch is their sum. Default: frames * height * width.
        neighbours: batches in a run of near-equal cost. Steps of as many ranks, or of a divisor of
            it, wait least for their slowest rank; 1 mixes best, for a single rank.

    Raises:
        UserError: a size or `neighbours` is not a positive whole number.
    """

    size: int | Mapping[str, int]
    cost: SampleCost | None = None
    neighbours: int = NEIGHBOURS

    def __post_init__(self) -> None:
        sizes = self.size.items() if isinstance(self.size, Mapping) else [("", self.size)]
        for name, size in sizes:
            positive(size, f"BucketBatches: size{f' of {name}' if name else ''}")
        positive(self.neighbours, "BucketBatches: neighbours")

    def describe(self) -> dict[str, Any]:
        """Plain values that decide the batches."""
        size = dict(sorted(self.size.items())) if isinstance(self.size, Mapping) else self.size
        return {"batches": "buckets", "size": size, "neighbours": self.neighbours}

    def batches(self, shapes: Shapes, *, remainder: Remainder) -> Planned:
        """The batches of a window, bucket by bucket.

        Raises:
            UserError: `size` names a bucket that is not in the index, or lacks one that is.
        """
        sizes = [self._size(name) for name in shapes.buckets]
        self._refuse_unknown(shapes.buckets)
        batches: list[Rows] = []
        dropped: list[Rows] = []
        for code, size in enumerate(sizes):
            places = np.flatnonzero(shapes.bucket == code).astype(np.int64)
            full = len(places) // size * size
            batches += list(places[:full].reshape(-1, size))
            if full < len(places):
                (batches if remainder == "keep" else dropped).append(places[full:])
        each = sample_costs(self.cost, shapes)
        return Planned(
            batches,
            np.array([each[b].sum() for b in batches], np.float64),
            dropped=np.concatenate([np.zeros(0, np.int64), *dropped]),
        )

    def _size(self, bucket: str) -> int:
        if not isinstance(self.size, Mapping):
            return 1 if bucket == NATIVE.name else self.size
        if bucket in self.size:
            return self.size[bucket]
        if bucket == NATIVE.name:
            return 1
        if _REST not in self.size:
            raise UserError(
                f"BucketBatches: no size for the bucket {bucket}; name it, or give all others one: "
                f'"{_REST}": 1'
            )
        return self.size[_REST]

    def _refuse_unknown(self, buckets: tuple[str, ...]) -> None:
        if not isinstance(self.size, Mapping):
            return
        unknown = sorted(set(self.size) - {*buckets, _REST, NATIVE.name})
        if unknown:
            raise UserError(
                f"BucketBatches: size names buckets that are not there: {', '.join(unknown)}; "
                f"there are {', '.join(buckets)}"
            )


def sample_costs(cost: SampleCost | None, shapes: Shapes) -> npt.NDArray[np.float64]:
    """The cost of each sample; without a function frames * height * width.

    Raises:
        UserError: the function gives something else than N numbers of at least 0.
    """
    if cost is None:
        return shapes.frames.astype(np.float64) * shapes.height * shapes.width
    found = np.asarray(cost(shapes), np.float64)
    if found.shape != (len(shapes),) or not (np.isfinite(found) & (found >= 0)).all():
        raise UserError(
            f"cost: gave an array {found.shape} for {len(shapes)} samples, or numbers that are not "
            "finite and at least 0; return one number a sample"
        )
    return found


def positive(value: Any, what: str) -> None:
    """Refuse all but whole numbers of at least 1.

    Raises:
        UserError: names what it is.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{what} is {value!r}; give a whole number of at least 1")
