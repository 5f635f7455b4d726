"""Distances against closed forms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from vidcurate.errors import UserError
from vidcurate.train.evaluation.distances import bias_of, frechet, wasserstein

Array = npt.NDArray[np.float64]


def of_moments(mean: Array, covariance: Array, rows: int = 200, seed: int = 0) -> Array:
    """Rows whose mean and covariance are exactly these."""
    drawn = np.random.default_rng(seed).normal(size=(rows, len(mean)))
    drawn -= drawn.mean(0)
    drawn = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T)).T)
    values, vectors = np.linalg.eigh(covariance)
    return mean + drawn @ (vectors * np.sqrt(values)).T


def test_gaussians_with_equal_covariance_are_as_far_as_their_means() -> None:
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    one = of_moments(np.array([1.0, 2.0]), covariance)
    other = of_moments(np.array([4.0, -2.0]), covariance, rows=77, seed=1)
    assert frechet(one, other) == pytest.approx(3**2 + 4**2, rel=1e-12)
    assert frechet(one, one[::-1]) == pytest.approx(0, abs=1e-12)


def test_commuting_covariances_differ_by_their_spreads() -> None:
    one = of_moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    other = of_moments(np.zeros(3), np.diag([4.0, 0.25, 9.0]), rows=50, seed=1)
    assert frechet(one, other) == pytest.approx((1 - 2) ** 2 + (2 - 0.5) ** 2, rel=1e-12)


def test_any_two_gaussians_of_the_plane() -> None:
    """Of 2x2 matrices tr sqrt(CD) = sqrt(tr CD + 2 sqrt(det CD))."""
    c, d = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    product = c @ d
    trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    want = 1 + np.trace(c) + np.trace(d) - 2 * trace
    assert np.abs(product - product.T).max() > 0.5  # they do not commute
    one = of_moments(np.array([1.0, 0.0]), c)
    other = of_moments(np.zeros(2), d, rows=40, seed=3)
    assert frechet(one, other) == pytest.approx(want, rel=1e-12)
    assert frechet(other, one) == pytest.approx(want, rel=1e-12)


def test_fewer_rows_than_columns_and_flat_covariances_keep_their_digits() -> None:
    """Rank 4 in 64 columns: roots of rounded zeros would add 60 sqrt(1e-16) each."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 64)) * 1000
    assert frechet(rows, rows) < 1e-6 * 1e-3  # of a trace of 64 million
    assert frechet(rows, rows + 3) == pytest.approx(64 * 9, rel=1e-9)
    tall = np.repeat(rows, 30, axis=0)  # more rows than columns, of the same rank
    scaled = (tall - tall.mean(0)) * 2 + tall.mean(0)
    spread = np.trace(np.cov(tall.T))
    assert frechet(tall, scaled) == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "one width"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
    ],
)
def test_what_has_no_distance_is_refused(one: Array, other: Array, said: str) -> None:
    with pytest.raises(UserError, match=said):
        frechet(one, other)


def test_few_features_are_said() -> None:
    assert "full rank (that takes 769)" in str(bias_of(500, 5000, 768))
    assert "fewer than 2048" in str(bias_of(5000, 2000, 768))
    assert bias_of(2048, 2048, 768) is None
    assert "that takes 4097" in str(bias_of(4000, 4000, 4096))


def test_wasserstein_is_the_way_that_the_numbers_move() -> None:
    assert wasserstein(np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 8.0])) == pytest.approx(5)
    assert wasserstein(np.array([2.0, 1.0]), np.array([1.0, 2.0])) == 0
    # A half of the mass at 0 goes to 1, a half of that at 4 to 2.
    assert wasserstein(np.array([0.0, 4.0]), np.array([0.0, 1.0, 2.0, 4.0])) == pytest.approx(0.75)
    rng = np.random.default_rng(0)
    # Of normal numbers of spreads 1 and 3: 2 sqrt(2 / pi).
    far = wasserstein(rng.normal(size=20_000), rng.normal(size=10_000) * 3)
    assert far == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.03)
    with pytest.raises(UserError, match="numbers of both"):
        wasserstein(np.zeros(0), np.zeros(3))
