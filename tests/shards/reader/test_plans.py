"""Batches of one bucket."""

from typing import Any

import numpy as np
import pytest

from tests.shards.reader.generated import BUCKETS, GeneratedTable
from vidcurate.errors import UserError
from vidcurate.shards.reader.plans import BucketBatches
from vidcurate.shards.reader.shapes import Shapes


def shapes(count: int = 500) -> Shapes:
    return GeneratedTable(count, BUCKETS, seed=3).shapes(np.arange(count))


def test_each_batch_is_of_one_bucket_and_in_the_windows_order() -> None:
    window = shapes()
    planned = BucketBatches({"848x480x49": 2, "*": 8}).batches(window, remainder="keep")
    assert sorted(np.concatenate(planned.batches).tolist()) == list(range(500))
    sizes = {"256x256x1": 8, "448x256x17": 8, "848x480x49": 2, "native": 1}
    for code, name in enumerate(window.buckets):
        of_it = [b for b in planned.batches if window.bucket[b[0]] == code]
        places = np.concatenate(of_it)
        assert np.array_equal(places, np.flatnonzero(window.bucket == code))
        assert {len(b) for b in of_it[:-1]} == {sizes[name]}
        assert 1 <= len(of_it[-1]) <= sizes[name]
    assert planned.left_out == []
    assert len(planned.dropped) == 0


def test_dropping_the_remainder_leaves_full_batches_only() -> None:
    window = shapes()
    planned = BucketBatches(8).batches(window, remainder="drop")
    counts = np.bincount(window.bucket, minlength=4)
    assert window.buckets[3] == "native"  # one by one
    assert sorted(len(b) for b in planned.batches) == [1] * counts[3] + [8] * sum(counts[:3] // 8)
    assert len(planned.dropped) == sum(counts[:3] % 8) > 0
    everything = np.concatenate([planned.dropped, *planned.batches])
    assert sorted(everything.tolist()) == list(range(500))


def test_the_bucket_native_can_be_batched_by_name() -> None:
    planned = BucketBatches({"native": 3, "*": 4}).batches(shapes(), remainder="drop")
    assert {len(b) for b in planned.batches} == {3, 4}


def test_cost_is_the_sum_over_the_samples() -> None:
    window = shapes()
    planned = BucketBatches(4).batches(window, remainder="keep")
    for batch, cost in zip(planned.batches, planned.cost, strict=True):
        name = window.buckets[window.bucket[batch[0]]]
        assert cost == np.prod(BUCKETS[name]) * len(batch)
    own = BucketBatches(4, cost=lambda s: s.seconds**2).batches(window, remainder="keep")
    assert own.cost[0] == pytest.approx((window.seconds[own.batches[0]] ** 2).sum())


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (0, "size is 0; give a whole number of at least 1"),
        (True, "size is True"),
        ({"256x256x1": 2.5, "*": 1}, "size of 256x256x1 is 2.5"),
    ],
)
def test_wrong_sizes_are_refused(size: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        BucketBatches(size)
    with pytest.raises(UserError, match="neighbours is -1"):
        BucketBatches(1, neighbours=-1)


def test_sizes_must_fit_the_buckets() -> None:
    nothing = shapes().take(np.zeros(0, np.int64))
    with pytest.raises(UserError, match=r"not there: 512x512x1; there are 256x256x1, 448x256x17"):
        BucketBatches({"512x512x1": 2, "*": 1}).batches(nothing, remainder="keep")
    with pytest.raises(UserError, match=r"no size for the bucket 448x256x17; .*\"\*\": 1"):
        BucketBatches({"256x256x1": 2}).batches(nothing, remainder="keep")


@pytest.mark.parametrize(
    "cost",
    [
        lambda s: 1.0,
        lambda s: np.full(len(s), np.nan),
        lambda s: -s.seconds,
        lambda s: np.ones((len(s), 2)),
    ],
)
def test_a_cost_that_is_no_number_a_sample_is_refused(cost: Any) -> None:
    with pytest.raises(UserError, match="return one number a sample"):
        BucketBatches(1, cost=cost).batches(shapes(), remainder="keep")
