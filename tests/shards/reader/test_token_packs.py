"""Packs of tokens."""

from typing import Any

import numpy as np
import pytest

from tests.shards.reader.generated import BUCKETS, GeneratedTable, tokens
from vidcurate.errors import UserError
from vidcurate.shards.reader.shapes import Shapes
from vidcurate.shards.reader.token_packs import TokenPacks, best_fit

MOST = 20_670  # 13 latent frames of 30 x 53


def shapes(count: int = 500) -> Shapes:
    return GeneratedTable(count, BUCKETS, seed=3).shapes(np.arange(count))


def test_every_sample_is_in_one_pack_within_the_budget() -> None:
    window = shapes()
    planned = TokenPacks(50_000, tokens).batches(window, remainder="drop")
    assert sorted(np.concatenate(planned.batches).tolist()) == list(range(500))
    each = tokens(window)
    assert max(each) == MOST
    assert all(each[p].sum() <= 50_000 for p in planned.batches)
    assert all((np.diff(p) > 0).all() for p in planned.batches)  # the window's order
    assert len(planned.dropped) == len(planned.left_out) == 0
    assert planned.cost.sum() == sum(np.prod(BUCKETS[window.buckets[b]]) for b in window.bucket)


def test_best_fit_puts_the_largest_first_where_least_room_remains() -> None:
    #    6 opens 0, 5 opens 1, 4 fills 0, 3 and 2 fill 1, 1 opens 2
    packs = best_fit(np.array([1, 2, 3, 4, 5, 6]), 10)
    assert [p.tolist() for p in packs] == [[3, 5], [1, 2, 4], [0]]
    # 7 opens 0 (3 left), 6 opens 1 (4 left), 3 fills 0 and not 1, 4 has filled 1 before
    packs = best_fit(np.array([3, 7, 4, 6]), 10)
    assert [p.tolist() for p in packs] == [[0, 1], [2, 3]]
    assert best_fit(np.zeros(0, np.int64), 10) == []
    assert [p.tolist() for p in best_fit(np.array([10, 11, 10]), 10)] == [[0], [2]]


def test_packs_are_full() -> None:
    sizes = np.random.default_rng(0).integers(1, 30_000, 8192)
    packs = best_fit(sizes, 65_536)
    filled = sum(sizes[p].sum() for p in packs) / (len(packs) * 65_536)
    assert filled > 0.995


def test_a_sample_that_is_too_long_stops_or_is_reported() -> None:
    window = shapes()
    too_long = np.flatnonzero(tokens(window) > 20_000)
    with pytest.raises(UserError) as stopped:
        TokenPacks(20_000, tokens).batches(window, remainder="keep")
    assert (
        f"a clip of 49 frames of 848x480 is {MOST} tokens, more than the budget of 20000, as "
        f"{len(too_long)} of 500 samples are" in str(stopped.value)
    )
    assert 'too_long="skip"' in str(stopped.value)
    planned = TokenPacks(20_000, tokens, too_long="skip").batches(window, remainder="keep")
    assert [place for place, _ in planned.left_out] == too_long.tolist()
    assert planned.left_out[0][1] == (
        f"a clip of 49 frames of 848x480 is {MOST} tokens, more than the budget of 20000"
    )
    everything = np.concatenate([too_long, *planned.batches])
    assert sorted(everything.tolist()) == list(range(500))


@pytest.mark.parametrize(
    "wrong", [lambda s: s.seconds, lambda s: tokens(s) * 0, lambda s: 5, lambda s: tokens(s)[:1]]
)
def test_tokens_must_be_whole_numbers(wrong: Any) -> None:
    with pytest.raises(UserError, match="return one whole number a sample"):
        TokenPacks(99_999, wrong).batches(shapes(), remainder="keep")


def test_wrong_budgets_are_refused() -> None:
    with pytest.raises(UserError, match=r"TokenPacks: budget is 1.5"):
        TokenPacks(1.5, tokens)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="TokenPacks: neighbours is 0"):
        TokenPacks(100, tokens, neighbours=0)
