"""The walk of all ranks: each sample once, the same sequence for any number, exact resume."""

import json
import logging
from typing import Any

import numpy as np
import pytest

from tests.shards.reader.generated import (
    BUCKETS,
    GeneratedTable,
    Sizes,
    flat,
    native_sizes,
    steps,
    tokens,
)
from vidcurate.errors import UserError
from vidcurate.shards.reader.cursor import Cursor, Step
from vidcurate.shards.reader.order import Order
from vidcurate.shards.reader.plans import BatchPlan, BucketBatches
from vidcurate.shards.reader.shapes import Shapes
from vidcurate.shards.reader.token_packs import TokenPacks

RANKS = (1, 2, 3, 8)
BATCHES = BucketBatches({"848x480x49": 2, "*": 6}, neighbours=8)
PACKS = TokenPacks(30_000, tokens, neighbours=8)


def order_of(count: int = 1000, plan: BatchPlan = BATCHES, *, table: int = 0, **how: Any) -> Order:
    return Order(GeneratedTable(count, BUCKETS, seed=table), plan, **{"window": 300, **how})


def cursor_of(ranks: int, order: Order, state: Any = None, epochs: int | None = 3) -> Cursor:
    cursor = Cursor([order], world_size=ranks, epochs=epochs)
    if state is not None:
        cursor.load_state_dict(json.loads(json.dumps(state)))
    return cursor


def reported(walked: list[Step]) -> list[int]:
    """Rows that the batches report as left out or dropped."""
    entries = [e for step in walked for e in step.batches if e is not None]
    return [row for e in entries for row in (*(r for r, _ in e.left_out), *e.dropped)]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("plan", [BATCHES, PACKS])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_sample_comes_once_an_epoch(ranks: int, plan: BatchPlan, shuffle: bool) -> None:
    walked = list(steps(cursor_of(ranks, order_of(plan=plan, shuffle=shuffle))))
    for epoch in range(3):
        of_it = [s for s in walked if s.epoch == epoch]
        rows = [row for _, _, batch in flat(of_it) for row in batch]
        assert sorted(rows) == list(range(1000))
        # only the epoch's last step lacks batches, and then of the last ranks
        assert all(None not in step.batches for step in of_it[:-1])
        last = [entry is None for entry in of_it[-1].batches]
        assert last == sorted(last)
        assert not last[0]
        assert all(len(step.batches) == ranks for step in of_it)
    assert reported(walked) == []
    one, two = (flat(s for s in walked if s.epoch == epoch) for epoch in (0, 1))
    assert ([rows for *_, rows in one] == [rows for *_, rows in two]) == (not shuffle)


def test_the_sequence_does_not_depend_on_the_number_of_ranks() -> None:
    first, *others = [flat(steps(cursor_of(ranks, order_of()))) for ranks in RANKS]
    assert all(other == first for other in others)
    assert flat(steps(cursor_of(1, order_of(seed=1)))) != first


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("remainder", ["keep", "drop"])
def test_it_goes_on_from_any_step(ranks: int, remainder: str) -> None:
    walked = list(steps(cursor_of(ranks, order_of(400, remainder=remainder, window=150))))
    for stop in np.random.default_rng(ranks).permutation(len(walked))[:12].tolist():
        order = order_of(400, remainder=remainder, window=150)
        after = list(steps(cursor_of(ranks, order, walked[stop].state)))
        assert flat(after) == flat(walked[stop + 1 :])
        assert [s.state for s in after] == [s.state for s in walked[stop + 1 :]]
        assert reported(after) == reported(walked[stop + 1 :])


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (3, 2), (8, 3), (2, 8)])
@pytest.mark.parametrize("plan", [BATCHES, PACKS])
def test_it_goes_on_with_another_number_of_ranks(before: int, after: int, plan: BatchPlan) -> None:
    whole = flat(steps(cursor_of(1, order_of(500, plan))))
    rng = np.random.default_rng(before)
    for _ in range(6):
        cursor = cursor_of(before, order_of(500, plan))
        first = list(steps(cursor, int(rng.integers(1, 25))))
        then = steps(cursor_of(after, order_of(500, plan), first[-1].state))
        assert flat(first) + flat(then) == whole


def test_several_changes_of_ranks_lose_and_repeat_nothing() -> None:
    rng = np.random.default_rng(0)
    state, walked = None, []
    while True:
        cursor = cursor_of(int(rng.integers(1, 9)), order_of(), state)
        some = list(steps(cursor, int(rng.integers(1, 9))))
        if not some:
            break
        walked += some
        state = some[-1].state
    assert flat(walked) == flat(steps(cursor_of(1, order_of())))


def test_a_state_before_the_first_step_begins_anew() -> None:
    state = cursor_of(2, order_of()).state_dict()
    assert flat(steps(cursor_of(3, order_of(), state))) == flat(steps(cursor_of(1, order_of())))


def test_resume_reads_the_shapes_of_one_window_however_far() -> None:
    class Large(GeneratedTable):
        def __len__(self) -> int:
            return 10**7

        def shapes(self, rows: Any) -> Shapes:
            return super().shapes(rows % 1000)

    order = Order(Large(1000, BUCKETS), BATCHES)
    place = {"epoch": 2, "window": 123, "batch": 70, "phase": 5}
    check = order.window(2, 123, 5).digest
    cursor = Cursor([order], world_size=8)
    state = cursor.state_dict()
    state["sources"][0] |= place | {"check": check}
    assert len(json.dumps(state)) < 600

    table = Large(1000, BUCKETS)
    after = Cursor([Order(table, BATCHES)], world_size=8)
    after.load_state_dict(state)
    step = after.next_step()
    assert step is not None
    assert [e and e.batch for e in step.batches] == list(range(70, 78))
    assert table.asked == 8192


# ---------------------------------------------------------------------------- remainder: drop


@pytest.mark.parametrize("ranks", RANKS)
def test_dropped_samples_are_reported_once(ranks: int) -> None:
    order = order_of(remainder="drop")
    walked = list(steps(cursor_of(ranks, order)))
    assert all(entry is not None for step in walked for entry in step.batches)
    for epoch in range(3):
        of_it = [s for s in walked if s.epoch == epoch]
        rows = [row for _, _, batch in flat(of_it) for row in batch]
        assert sorted(rows + reported(of_it)) == list(range(1000))
        batches = sum(len(order.window(epoch, w).batches) for w in range(order.windows))
        assert len(of_it) == batches // ranks


def test_a_window_without_a_batch_is_reported_by_the_batch_before_or_after() -> None:
    """40 samples in windows of 5: batches of 6 of one bucket never fill."""
    plan = BucketBatches({"native": 1, "*": 6})
    order = order_of(40, plan, remainder="drop", window=5)
    empty = [w for w in range(8) if not order.window(0, w).batches]
    assert empty
    walked = list(steps(cursor_of(1, order, epochs=15)))
    for epoch in range(15):
        of_it = [s for s in walked if s.epoch == epoch]
        rows = [row for _, _, batch in flat(of_it) for row in batch]
        assert sorted(rows + reported(of_it)) == list(range(40))
    # a state between says the rest of it
    for stop in range(0, len(walked) - 1, 11):
        after = list(steps(cursor_of(1, order, walked[stop].state, epochs=15)))
        assert reported(after) == reported(walked[stop + 1 :])


def test_more_ranks_than_batches_left_drop_them_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    order = order_of(300, remainder="drop")
    batches = len(order.window(0, 0).batches)
    first = list(steps(cursor_of(1, order), batches - 3))
    with caplog.at_level(logging.WARNING, "vidcurate.shards"):
        step = cursor_of(8, order, first[-1].state).next_step()
    assert "epoch 0 has 3 batches left for 8 ranks: they are dropped" in caplog.text
    assert step is not None
    assert step.epoch == 1
    rows = [row for _, _, batch in flat(first) for row in batch]
    lost = step.batches[0].dropped if step.batches[0] else ()
    once = rows + reported(first) + [row for row in lost if row not in rows + reported(first)]
    assert sorted(once) == list(range(300))


def test_too_few_batches_for_all_ranks_are_refused() -> None:
    order = order_of(20, BucketBatches(4), remainder="drop")
    with pytest.raises(UserError, match='not one for each of 50 ranks; use remainder="keep"'):
        cursor_of(50, order).next_step()
    kept = list(steps(cursor_of(50, order_of(20, BucketBatches(4)), epochs=1)))
    assert len(kept) == 1
    assert None in kept[0].batches


def test_a_data_set_without_a_batch_is_refused() -> None:
    order = order_of(20, TokenPacks(1, tokens, too_long="skip"), window=6)
    with pytest.raises(UserError, match=r"no batch in a whole epoch: a clip of .* tokens"):
        cursor_of(1, order).next_step()
    order = order_of(3, BucketBatches({"*": 100, "native": 100}, neighbours=8), remainder="drop")
    with pytest.raises(UserError, match="all batches would be incomplete"):
        cursor_of(1, order).next_step()
    mixed = Cursor([order, order_of()], [1, 1], world_size=1)
    with pytest.raises(UserError, match="data set 0 gives no batch"):
        list(steps(mixed, 100))


# ---------------------------------------------------------------------------- cost


def attention_cost(shapes: Shapes) -> Any:
    """Of a transformer of width 1,152: linear layers, and attention, which is quadratic."""
    return tokens(shapes) * (1 + tokens(shapes) / 6912)


@pytest.mark.parametrize("budget", [50_000, 65_536, 131_072])
def test_packs_have_little_padding_and_ranks_equal_cost(budget: int) -> None:
    """20,000 clips at 8 ranks: padding under 1 %, mean/max cost of a step's ranks at least 95 %."""
    shapes = native_sizes(20_000)
    order = Order(Sizes(shapes), TokenPacks(budget, tokens, attention_cost))
    walked = list(steps(cursor_of(8, order, epochs=1)))
    each = tokens(shapes)
    packs = [e for s in walked for e in s.batches if e is not None and e.window < order.windows - 1]
    real = sum(int(each[e.rows].sum()) for e in packs)
    assert 1 - real / (len(packs) * budget) < 0.01
    cost = np.array([[e.cost for e in s.batches if e is not None] for s in walked[:-1]])
    assert (cost.mean(axis=1) / cost.max(axis=1)).mean() > 0.98
    assert cost.mean(axis=1).sum() / cost.max(axis=1).sum() > 0.98
    # and steps come in no order of cost
    mean = cost.mean(axis=1)
    assert abs(np.corrcoef(np.arange(len(mean)), mean)[0, 1]) < 0.25


@pytest.mark.parametrize("ranks", [3, 8])
def test_buckets_at_equal_cost(ranks: int) -> None:
    order = order_of(9000, BucketBatches(4), window=8192)
    walked = list(steps(cursor_of(ranks, order, epochs=1)))
    cost = np.array([[e.cost for e in s.batches if e is not None] for s in walked[:-1]])
    assert cost.mean(axis=1).sum() / cost.max(axis=1).sum() > 0.95


# ---------------------------------------------------------------------------- mixtures


def mixed(ranks: int, state: Any = None, **how: Any) -> Cursor:
    orders = [order_of(300, window=100, **how), order_of(90, table=1, window=100, **how)]
    cursor = Cursor(orders, [3, 2], world_size=ranks)
    if state is not None:
        cursor.load_state_dict(json.loads(json.dumps(state)))
    return cursor


@pytest.mark.parametrize("ranks", RANKS)
def test_a_mixture_keeps_its_shares_and_each_sample_once_a_pass(ranks: int) -> None:
    batches = flat(steps(mixed(ranks), 1200 // ranks))
    source = np.array([s for s, *_ in batches])
    numbers = np.arange(1, len(source) + 1)
    had = np.cumsum(source == 0)
    assert np.abs(had - 0.6 * numbers).max() <= 8  # one run
    for which, count in ((0, 300), (1, 90)):
        passes: dict[int, list[int]] = {}
        for _, epoch, rows in (b for b in batches if b[0] == which):
            passes.setdefault(epoch, []).extend(rows)
        assert len(passes) > 3
        assert list(passes) == list(range(len(passes)))
        for epoch in range(len(passes) - 1):
            assert sorted(passes[epoch]) == list(range(count))


def test_a_mixture_goes_on_with_any_number_of_ranks() -> None:
    whole = flat(steps(mixed(1), 600))
    for ranks in (2, 3, 8):
        walked = list(steps(mixed(ranks), 40))
        assert flat(walked) == whole[: 40 * ranks]
        for stop in (0, 3, 17, 30):
            after = flat(steps(mixed(8, walked[stop].state), 20))
            begin = (stop + 1) * ranks
            assert after == whole[begin : begin + 160]


def test_ranks_of_a_step_work_on_one_data_set() -> None:
    for step in steps(mixed(8), 100):
        assert len({entry.source for entry in step.batches if entry is not None}) == 1


@pytest.mark.parametrize("stop", [0, 5, 60])
def test_a_mixture_reports_what_it_drops(stop: int) -> None:
    walked = list(steps(mixed(2, remainder="drop"), 400))
    entries = [e for s in walked for e in s.batches if e is not None and e.source == 1]
    for epoch in range(3):
        of_it = [e for e in entries if e.epoch == epoch]
        rows = [row for e in of_it for row in (*e.rows.tolist(), *e.dropped)]
        assert sorted(rows) == list(range(90))
    after = list(steps(mixed(2, walked[stop].state, remainder="drop"), 100))
    assert reported(after) == reported(walked[stop + 1 : stop + 101])


# ---------------------------------------------------------------------------- refusals


def saved(order: Order, count: int = 5) -> dict[str, Any]:
    return list(steps(cursor_of(2, order), count))[-1].state


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (order_of(table=1), "is of the index digest-0, and this is digest-1"),
        (order_of(seed=4), "saved with seed 0, now it is 4"),
        (order_of(shuffle=False), "saved with shuffle True, now it is False"),
        (order_of(remainder="drop"), "saved with remainder 'keep', now it is 'drop'"),
        (order_of(window=200), "saved with window 300, now it is 200"),
        (order_of(rows="split val"), "saved with rows '', now it is 'split val'"),
        (order_of(999), "saved with samples 1000, now it is 999"),
        (order_of(plan=BucketBatches(2, neighbours=8)), r"saved with size \{.*\}, now it is 2"),
        (order_of(plan=PACKS), "saved with batches 'buckets', now it is 'tokens'"),
    ],
)
def test_a_state_of_another_order_is_refused(other: Order, says: str) -> None:
    cursor = cursor_of(2, other)
    with pytest.raises(UserError, match=says) as refused:
        cursor.load_state_dict(saved(order_of()))
    assert "or begin without the state" in str(refused.value)
    assert next(steps(cursor)).epoch == 0  # it stands where it stood


def test_a_changed_cost_is_refused() -> None:
    def packs(cost: Any) -> Order:
        return order_of(plan=TokenPacks(30_000, tokens, cost, neighbours=8))

    state = saved(packs(tokens))
    with pytest.raises(UserError, match=r"window 0 of epoch 0 had the batches .* cost or token"):
        cursor_of(2, packs(lambda s: 1e6 - tokens(s)), state)
    cursor_of(2, packs(lambda s: tokens(s) * 2.0), state)  # in other units: the same order


def test_what_becomes_of_long_clips_may_change() -> None:
    """Reading that a long clip stopped goes on without it."""
    stopping = TokenPacks(30_000, tokens)
    state = saved(order_of(plan=stopping))
    skipping = TokenPacks(30_000, tokens, too_long="skip")
    after = steps(cursor_of(2, order_of(plan=skipping), state))
    assert flat(after) == flat(steps(cursor_of(2, order_of(plan=stopping), state)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "version 2, this is 1"),
        ({"version": None}, "version None"),
        ({"sources": [{}]}, "damaged"),
        ({"sources": 5}, "damaged"),
        ({"sources": []}, "of 0 data sets, and 1 are read"),
        ({"mixture": {}}, "of 1 data sets, and 1 are read"),
    ],
)
def test_a_damaged_state_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        cursor_of(1, order_of()).load_state_dict(saved(order_of()) | changes)


@pytest.mark.parametrize(
    "place",
    [
        {"window": 4},
        {"window": -1},
        {"batch": 10**6},
        {"batch": "3"},
        {"check": ""},
        {"epoch": 1.5},
    ],
)
def test_a_position_that_is_none_is_refused(place: dict[str, Any]) -> None:
    state = saved(order_of())
    state["sources"][0] |= place
    with pytest.raises(UserError, match=r"reader's state is damaged|had the batches"):
        cursor_of(1, order_of(), state)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="world_size is 0"):
        Cursor([order_of()], world_size=0)
    with pytest.raises(UserError, match="epochs is 0"):
        Cursor([order_of()], world_size=1, epochs=0)
    with pytest.raises(UserError, match="no data set"):
        Cursor([], world_size=1)
    with pytest.raises(UserError, match="a mixture of data sets has no epochs"):
        Cursor([order_of(), order_of(table=1)], world_size=1, epochs=2)
    with pytest.raises(UserError, match="for 1 data sets"):
        Cursor([order_of()], [1, 2], world_size=1)
