"""The shuffle that is never written down: every place once, and no pattern."""

import tracemalloc

import numpy as np
import pytest

from vidcurate.shards.reader.permutation import hashed, key_of, permute


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 10, 1000, 16384, 16385, 16641, 65537, 300_007])
def test_every_number_comes_once(size: int) -> None:
    found = permute(np.arange(size), size, key_of("index", 7, 0))
    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(size))


def test_any_part_is_computed_alone() -> None:
    size = 10**7
    rng = np.random.default_rng(0)
    places = np.unique(rng.integers(0, size, 200_000))
    found = permute(places, size, 5)
    assert len(np.unique(found)) == len(places)
    assert found.min() >= 0
    assert found.max() < size
    some = rng.integers(0, len(places), 50)
    assert np.array_equal(permute(places[some], size, 5), found[some])
    assert permute(places[:1], size, 5)[0] == found[0]


def test_all_orders_of_three_come_equally_often() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order = tuple(permute(np.arange(3), 3, key_of(seed)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    # binomial, standard deviation 29
    assert max(abs(count - 1000) for count in counts.values()) < 130


def test_a_large_shuffle_looks_random() -> None:
    size, keys = 20_011, 200
    places = np.arange(size)
    drawn = np.stack([permute(places, size, key_of("a", key)) for key in range(keys)])
    # of a random permutation, fixed points and followers (x, x + 1) are Poisson of mean 1
    for counts in ((drawn == places).sum(1), (np.diff(drawn, axis=1) == 1).sum(1)):
        assert abs(counts.mean() - 1) < 0.35
        assert 0.6 < counts.var() < 1.6
    # neighbours, halves of the same digit and other keys tell nothing: correlations of +- 1/sqrt(N)
    for one, other in ((drawn[0, 1:], drawn[0, :-1]), (drawn[0, 142:], drawn[0, :-142]), drawn[:2]):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.035
    # where the first 8,192 (a window) come from: 100 cells, chi-square of 99 degrees of freedom
    cells = np.bincount(drawn[0, :8192] * 100 // size, minlength=100)
    assert ((cells - 81.92) ** 2 / 81.92).sum() < 160


def test_memory_is_that_of_the_places() -> None:
    places = np.arange(8192) + 123_456_789
    permute(places, 10**9, 1)
    tracemalloc.start()
    found = permute(places, 10**9, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20
    assert len(set(found.tolist())) == 8192


KEY = 10854017549017607733
SMALL = [0, 1, 3, 4, 2]
LARGE = [101662641, 429890179, 351238182, 820322785, 81397136]
HASHED = [13029008266876403067, 16490336266968443936]


def test_values_never_change() -> None:
    """A state that was saved yesterday goes on today: these numbers are part of the format."""
    key = key_of("digest", 0, 3)
    assert key == KEY
    assert permute(np.arange(5), 10, key).tolist() == SMALL
    assert permute(np.arange(5), 10**9, key).tolist() == LARGE
    assert hashed(np.arange(2), 2**64 - 1).tolist() == HASHED
