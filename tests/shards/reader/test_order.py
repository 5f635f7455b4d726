"""Windows, and the order of the batches of a window."""

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.shards.reader.generated import BUCKETS, GeneratedTable, tokens
from vidcurate.errors import UserError
from vidcurate.shards.reader.order import Order, Window, arrange
from vidcurate.shards.reader.plans import BucketBatches, Planned
from vidcurate.shards.reader.shapes import Shapes
from vidcurate.shards.reader.token_packs import TokenPacks


def rows_of(windows: list[Window]) -> list[int]:
    return [row for w in windows for batch in w.batches for row in batch.tolist()]


def epoch_of(order: Order, epoch: int) -> list[Window]:
    return [order.window(epoch, index) for index in range(order.windows)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_each_row_once(shuffle: bool) -> None:
    order = Order(GeneratedTable(1000, BUCKETS), BucketBatches(8), shuffle=shuffle, window=300)
    assert order.windows == 4
    windows = epoch_of(order, 0)
    assert sorted(rows_of(windows)) == list(range(1000))
    assert sum(map(len, windows[0].batches)) == 300


def test_the_order_is_a_function_of_digest_seed_epoch_and_plan() -> None:
    def digest(epoch: int = 0, size: int = 8, **changes: Any) -> str:
        table = GeneratedTable(1000, BUCKETS, digest=changes.pop("digest", "a"))
        return Order(table, BucketBatches(size), window=300, **changes).window(epoch, 1).digest

    assert digest() == digest()
    others = [digest(epoch=1), digest(size=4), digest(seed=1), digest(digest="b")]
    assert len({digest(), *others}) == 5


def test_without_shuffle_the_tables_order_stays() -> None:
    order = Order(GeneratedTable(1000, BUCKETS), BucketBatches({"*": 1}), shuffle=False, window=300)
    assert rows_of(epoch_of(order, 0)) == list(range(1000))
    assert rows_of(epoch_of(order, 1)) == list(range(1000))
    wider = Order(GeneratedTable(1000, BUCKETS), BucketBatches(8), shuffle=False, window=300)
    for index, window in enumerate(epoch_of(wider, 0)):
        first = [batch[0] for batch in window.batches]
        assert first == sorted(first)
        assert first[0] == 300 * index


def test_a_far_window_costs_as_much_as_the_first() -> None:
    class Endless(GeneratedTable):
        def __len__(self) -> int:
            return 10**9

        def shapes(self, rows: Any) -> Shapes:
            return super().shapes(rows % 1000)

    table = Endless(1000, BUCKETS)
    order = Order(table, BucketBatches(8))
    tracemalloc.start()
    window = order.window(3, 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
    assert table.asked == 8192
    assert len(set(rows_of([window]))) == 8192


def test_left_out_and_dropped_are_rows_of_the_table() -> None:
    table = GeneratedTable(1000, BUCKETS)
    window = Order(table, TokenPacks(20_000, tokens, too_long="skip"), window=300).window(0, 2)
    long = table.names.index("848x480x49")
    left = [row for row, _ in window.left_out]
    assert left
    assert {table.code[row] for row in left} == {long}
    assert len({*left, *rows_of([window])}) == 300
    dropping = Order(table, BucketBatches(64), remainder="drop", window=300).window(0, 2)
    assert len({*dropping.dropped.tolist(), *rows_of([dropping])}) == 300
    assert {len(b) for b in dropping.batches} == {1, 64}


# ---------------------------------------------------------------------------- arrange


def test_runs_are_of_neighbours_by_cost() -> None:
    cost = np.random.default_rng(0).random(1000)
    rank = np.argsort(np.argsort(cost))
    order = arrange(cost, 16, 0, 1)
    assert np.array_equal(np.sort(order), np.arange(1000))
    runs = rank[order][: 62 * 16].reshape(62, 16)
    # each run spans 16 places of the sorted costs; of the middle 8 lie elsewhere
    assert (np.ptp(runs, axis=1) == 15).all()
    assert sorted(rank[order][62 * 16 :]) == list(range(31 * 16, 31 * 16 + 8))
    # in random order
    assert abs(np.corrcoef(np.arange(62), runs.min(axis=1))[0, 1]) < 0.4
    for block in (2, 4, 8):
        blocks = runs.reshape(-1, block)
        assert (np.ptp(blocks, axis=1) == block - 1).all()
    assert not np.array_equal(order, arrange(cost, 16, 0, 2))


def test_runs_are_aligned_over_windows() -> None:
    """61 batches a window, runs of 8: all runs of the flat sequence are neighbours by cost."""
    rng = np.random.default_rng(0)
    ranks: list[int] = []
    phase = 0
    for window in range(10):
        cost = rng.random(61)
        order = arrange(cost, 8, phase, window)
        assert np.array_equal(np.sort(order), np.arange(61))
        ranks += np.argsort(np.argsort(cost))[order].tolist()
        phase = (phase + 61) % 8
    runs = np.array(ranks[: 76 * 8]).reshape(76, 8)
    # also those that span two windows: both parts come from the middle, 24..37 of 0..60
    spans = np.ptp(runs, axis=1)
    assert Counter(spans.tolist())[7] >= 76 - 9
    assert spans.max() <= 13


@pytest.mark.parametrize("count", [0, 1, 2, 5, 63, 64, 65, 127, 128, 200])
@pytest.mark.parametrize("neighbours", [1, 2, 3, 12, 64, 100])
def test_every_batch_stays(count: int, neighbours: int) -> None:
    cost = np.random.default_rng(count).integers(0, 5, count).astype(np.float64)
    for phase in {0, 1 % neighbours, neighbours - 1}:
        order = arrange(cost, neighbours, phase, 9)
        assert np.array_equal(np.sort(order), np.arange(count))


def test_one_neighbour_is_a_plain_shuffle() -> None:
    order = arrange(np.arange(500.0), 1, 0, 3)
    assert abs(np.corrcoef(order, np.arange(500))[0, 1]) < 0.15


# ---------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused_when_the_order_is_made() -> None:
    with pytest.raises(UserError, match="no samples to read"):
        Order(GeneratedTable(0, BUCKETS), BucketBatches(1))
    with pytest.raises(UserError, match="buckets that are not there: 1x1x1"):
        Order(GeneratedTable(5, BUCKETS), BucketBatches({"1x1x1": 2, "*": 1}))
    with pytest.raises(UserError, match="window is 0"):
        Order(GeneratedTable(5, BUCKETS), BucketBatches(1), window=0)
    with pytest.raises(UserError, match="remainder is 'pad'"):
        Order(GeneratedTable(5, BUCKETS), BucketBatches(1), remainder="pad")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be plain values"):
        Order(GeneratedTable(5, BUCKETS), BucketBatches(1), seed=np.int64(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([[0, 1], [1, 2]], "gave 4 places for a window of 4 samples"),
        ([[0, 1], [2]], "gave 3 places"),
        ([[0, 1, 2, 3], []], "empty"),
    ],
)
def test_a_users_plan_that_loses_or_repeats_samples_is_refused(
    batches: list[list[int]], says: str
) -> None:
    class Own:
        neighbours = 1

        def describe(self) -> dict[str, Any]:
            return {}

        def batches(self, shapes: Shapes, *, remainder: str) -> Planned:
            return Planned([np.array(b, np.int64) for b in batches], np.ones(len(batches)))

    with pytest.raises(UserError, match=says):
        Order(GeneratedTable(4, BUCKETS), Own()).window(0, 0)
