"""The order of one data set: windows of a seeded permutation, and the batches of each window."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate.errors import UserError
from vidcurate.shards.reader.permutation import hashed, key_of, permute
from vidcurate.shards.reader.plans import BatchPlan, Planned, Remainder, positive
from vidcurate.shards.reader.shapes import Rows, Table

WINDOW = 8192


@dataclass(frozen=True)
class Window:
    """The batches of a window in their order.

    batches: rows of each. cost: float64, of each. left_out: rows that no batch can hold, with the
    reason. dropped: rows of batches that would not be full. digest: of the batches.
    """

    batches: list[Rows]
    cost: npt.NDArray[np.float64]
    left_out: list[tuple[int, str]]
    dropped: Rows
    digest: str


class Order:
    """Which batches a data set gives in each epoch, whatever the number of ranks.

    Args:
        table: the samples. plan: how they become batches.
        seed: of the shuffle. Without `shuffle` samples and batches come in the table's order.
        remainder: what becomes of batches that are not full (and, in the cursor, of an epoch's last
            step): "keep" or "drop".
        window: samples that are looked at together, for full batches and near-equal costs.
        rows: what chose the table's rows (split, buckets), in words: a state of others is refused.

    Attributes:
        windows: in an epoch. settings: plain values that decide the order.

    Raises:
        UserError: no samples, or the plan does not fit their buckets.
    """

    def __init__(
        self,
        table: Table,
        plan: BatchPlan,
        *,
        seed: int = 0,
        shuffle: bool = True,
        remainder: Remainder = "keep",
        window: int = WINDOW,
        rows: str = "",
    ) -> None:
        positive(window, "window")
        if len(table) == 0:
            raise UserError("the data set has no samples to read; choose another split or buckets")
        if remainder not in ("keep", "drop"):
            raise UserError(f'remainder is {remainder!r}; choose "keep" or "drop"')
        self.table, self.plan = table, plan
        self.seed, self.shuffle, self.remainder, self._size = seed, shuffle, remainder, window
        self.windows = -(-len(table) // window)
        settings = {
            **plan.describe(),
            "seed": seed,
            "shuffle": shuffle,
            "remainder": remainder,
            "window": window,
            "rows": rows,
            "samples": len(table),
        }
        try:
            self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the seed and what {type(plan).__name__} describes must be plain values ({error})"
            ) from error
        plan.batches(table.shapes(np.zeros(0, np.int64)), remainder=remainder)  # it may refuse
        self._last: tuple[tuple[int, int, int], Window] | None = None

    def window(self, epoch: int, index: int, phase: int = 0) -> Window:
        """The batches of one window: O(window), wherever it lies.

        Shuffled, they come in runs of `plan.neighbours` that cost alike, the runs in random order.
        Runs are aligned in the flat sequence of an epoch, not in each window, so that steps of R
        ranks, R a divisor of `neighbours`, never mix two runs; a run that spans two windows is of
        middling cost in both.

        Args:
            phase: batches of the epoch before this window, modulo `plan.neighbours`. It moves
                batches about in the window, and no sample from one batch to another.

        Raises:
            UserError: the plan refuses a sample, or loses or repeats one.
        """
        at = (epoch, index, phase if self.shuffle else 0)
        if self._last is None or self._last[0] != at:
            self._last = at, self._planned(*at)
        return self._last[1]

    def _planned(self, epoch: int, index: int, phase: int) -> Window:
        size = len(self.table)
        places = np.arange(index * self._size, min(size, (index + 1) * self._size), dtype=np.int64)
        rows = places
        if self.shuffle:
            rows = permute(places, size, key_of(self.table.digest, self.seed, epoch))
        planned = self.plan.batches(self.table.shapes(rows), remainder=self.remainder)
        _verify(planned, len(rows), self.plan)
        if self.shuffle:
            key = key_of(self.table.digest, self.seed, epoch, index)
            order = arrange(planned.cost, self.plan.neighbours, phase, key)
        else:
            order = np.argsort([b[0] for b in planned.batches], kind="stable")
        batches = [rows[planned.batches[i]] for i in order.tolist()]
        return Window(
            batches,
            planned.cost[order],
            [(int(rows[place]), reason) for place, reason in planned.left_out],
            rows[planned.dropped],
            _digest(batches),
        )


def arrange(cost: npt.NDArray[np.float64], neighbours: int, phase: int, key: int) -> Rows:
    """The order of a window's batches: places in `cost`.

    By cost they are cut into runs of `neighbours`, which are shuffled. What is over, a run's end
    first and a run's beginning last, comes from the middle of the costs, as in the windows before
    and after. Within a run halves are swapped at random, halves of halves, and so on: every aligned
    block of 2, 4, 8... batches is still one of neighbours by cost (Owen's nested scrambling).

    cost: float64 (N,). phase: how many batches of the first run came in the windows before.
    """
    number = len(cost)
    by_cost = np.argsort(cost, kind="stable").astype(np.int64)
    first = min(-phase % neighbours, number)
    runs = (number - first) // neighbours
    middle = runs // 2 * neighbours
    over = by_cost[middle : middle + number - runs * neighbours]
    full = np.concatenate([by_cost[:middle], by_cost[middle + len(over) :]])
    keys = [int(k) for k in hashed(np.arange(4), key)]
    full = _scrambled(full, neighbours, keys[0]).reshape(runs, neighbours)
    return np.concatenate(
        [
            _scrambled(over[:first][::-1], neighbours, keys[1])[::-1],  # aligned at its end
            full[permute(np.arange(runs), runs, keys[2])].ravel(),
            _scrambled(over[first:], neighbours, keys[3]),
        ]
    )


def _scrambled(places: Rows, neighbours: int, key: int) -> Rows:
    """Swap neighbouring blocks of 1, 2, 4... at random, within runs of `neighbours`."""
    places = places.copy()
    block = 1
    while neighbours % (2 * block) == 0:
        pairs = len(places) // (2 * block)
        view = places[: pairs * 2 * block].reshape(pairs, 2, block)
        swapped = hashed(np.arange(pairs) + (block << 32), key) % np.uint64(2) == 1
        view[swapped] = view[swapped][:, ::-1]
        block *= 2
    return places


def _verify(planned: Planned, size: int, plan: BatchPlan) -> None:
    """Refuse a plan that does not give each place once: a user's own may be wrong.

    Raises:
        UserError: names the plan.
    """
    left = np.array([place for place, _ in planned.left_out], np.int64)
    places = np.concatenate([left, planned.dropped, *planned.batches]).astype(np.int64)
    once = len(places) == size and np.array_equal(np.sort(places), np.arange(size))
    if not once or any(len(b) == 0 for b in planned.batches):
        raise UserError(
            f"{type(plan).__name__} gave {len(places)} places for a window of {size} samples, "
            "twice, none or empty batches; it must give each place once"
        )
    if planned.cost.shape != (len(planned.batches),) or not np.isfinite(planned.cost).all():
        raise UserError(f"{type(plan).__name__} must give one finite cost a batch")


def _digest(batches: Sequence[Rows]) -> str:
    lengths = np.array([len(b) for b in batches], "<i8")
    found = hashlib.blake2b(lengths.tobytes(), digest_size=8)
    if batches:
        found.update(np.concatenate(batches).astype("<i8").tobytes())
    return found.hexdigest()
