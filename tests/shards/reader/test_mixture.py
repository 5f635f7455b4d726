"""Shares of a mixture."""

import json
from typing import Any

import numpy as np
import pytest

from tests.shards.reader.generated import BUCKETS, GeneratedTable
from vidcurate.errors import UserError
from vidcurate.shards.reader.mixture import Mixture
from vidcurate.shards.reader.order import Order
from vidcurate.shards.reader.plans import BucketBatches


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.9, 0.1], [1 / 3] * 3, [0.7, 0.2, 0.0999, 0.0001], [1 / 7] * 7]
)
def test_after_any_number_of_runs_each_has_its_share(shares: list[float]) -> None:
    mixture = Mixture(shares, run=1)
    chosen = np.array([mixture.next() for _ in range(5000)])
    numbers = np.arange(1, 5001)
    bound = 1 - 1 / (2 * len(shares) - 2)  # Tijdeman's, the best there is
    for source, share in enumerate(shares):
        had = np.cumsum(chosen == source)
        assert np.abs(had - share * numbers).max() <= bound + 1e-6


def test_a_run_is_of_one_data_set() -> None:
    mixture = Mixture([0.75, 0.25], run=8)
    chosen = np.array([mixture.next() for _ in range(8 * 400)]).reshape(400, 8)
    assert (chosen == chosen[:, :1]).all()
    assert chosen[:, 0].sum() == 100


def test_it_goes_on_where_the_state_stands() -> None:
    whole = Mixture([0.6, 0.3, 0.1], run=4)
    chosen = [whole.next() for _ in range(400)]
    for stop in (0, 1, 4, 7, 133):
        first, then = Mixture([0.6, 0.3, 0.1], run=4), Mixture([0.6, 0.3, 0.1], run=4)
        for _ in range(stop):
            first.next()
        then.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert [then.next() for _ in range(400 - stop)] == chosen[stop:]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shares": [0.5, 0.5]}, r"saved with shares \[0.5, 0.5\] .* now they are \[0.75, 0.25\]"),
        ({"run": 4}, "of runs of 4 batches"),
        ({"runs": [90, 0]}, "damaged"),
        ({"runs": [1]}, "damaged"),
        ({"left": 9}, "damaged"),
        ({"source": 2}, "damaged"),
        ({"left": None}, "damaged"),
    ],
)
def test_another_state_is_refused(changes: dict[str, Any], says: str) -> None:
    mixture = Mixture([0.75, 0.25], run=8)
    mixture.next()
    with pytest.raises(UserError, match=says):
        mixture.load_state_dict(mixture.state_dict() | changes)
    assert mixture.state_dict()["left"] == 7


def test_weights_must_fit() -> None:
    orders = [Order(GeneratedTable(n, BUCKETS), BucketBatches(1)) for n in (10, 30)]
    assert Mixture.of(orders, None).state_dict()["shares"] == [0.25, 0.75]
    assert Mixture.of(orders, [3, 1]).state_dict()["shares"] == [0.75, 0.25]
    for wrong in ([1.0], [1.0, 0.0], [1.0, float("nan")], [2.0, -1.0]):
        with pytest.raises(UserError, match="one positive number each"):
            Mixture.of(orders, wrong)
    other = Order(GeneratedTable(5, BUCKETS), BucketBatches(1, neighbours=8))
    with pytest.raises(UserError, match=r"have \[8, 64\] neighbours"):
        Mixture.of([*orders, other], None)
