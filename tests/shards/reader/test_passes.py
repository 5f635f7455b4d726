"""What a DataLoader's workers tell each other of the epochs that they have read."""

from __future__ import annotations

import pickle

import pytest

from vidcurate.errors import UserError
from vidcurate.shards.reader.passes import Passes


def test_a_pass_begins_with_what_some_worker_has_not_read() -> None:
    passes = Passes()
    assert [passes.begin(w, 3) for w in range(2)] == [0, 0]
    passes.end(0, 3, 1)
    passes.end(1, 3, 1)
    assert passes.begin(2, 3) == 0, "it was late, and goes along with the others"
    passes.end(2, 3, 1)
    assert [passes.begin(w, 3) for w in range(3)] == [1, 1, 1]


def test_passes_of_other_numbers_of_workers_follow() -> None:
    passes = Passes()
    passes.begin(0, 1)
    passes.end(0, 1, 4)
    assert passes.begin(0, 2) == 4
    passes.end(0, 2, 5)
    assert passes.begin(1, 2) == 4, "the first one was quick"
    passes.end(1, 2, 5)
    assert passes.begin(0, 1) == 5


def test_a_pass_that_broke_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    passes = Passes()
    assert not passes.is_used
    for worker in range(2):
        passes.begin(worker, 2)
    assert passes.is_used
    passes.end(0, 2, 1)
    assert not caplog.records
    assert [passes.begin(w, 2) for w in range(2)] == [0, 0]
    assert len(caplog.records) == 1


def test_workers_that_live_on_are_told_of_a_reset() -> None:
    passes = Passes()
    passes.begin(0, 1)
    passes.end(0, 1, 7)
    worker = Passes.__new__(Passes)
    worker.__dict__.update(passes.__dict__)  # as a fork has it
    passes.reset()
    assert not passes.is_used
    assert passes.begin(0, 1) == 0
    with pytest.raises(UserError, match="make a new DataLoader"):
        worker.begin(0, 1)
    with pytest.raises(UserError, match="256 at most"):
        passes.begin(0, 257)


def test_a_pickle_for_anyone_begins_with_its_own() -> None:
    passes = Passes()
    passes.begin(0, 1)
    passes.end(0, 1, 7)
    other = pickle.loads(pickle.dumps(passes))  # noqa: S301 (our own)
    assert other.begin(0, 1) == 0
    assert passes.begin(0, 1) == 7
