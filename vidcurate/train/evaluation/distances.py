"""How far two sets of numbers or of features lie apart, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate.errors import UserError

FEW = 2048
"""With fewer features a Fréchet distance is biased upwards by much."""


def frechet(real: npt.NDArray[Any], made: npt.NDArray[Any]) -> float:
    """The squared Fréchet distance of the Gaussians of two sets of features (N, D) and (M, D).

    |m - n|^2 + tr C + tr D - 2 tr (C D)^(1/2) of their means and (unbiased) covariances: FID
    (Heusel et al., arXiv 1706.08500) and FVD (Unterthiner et al., arXiv 1812.01717) for the
    features of these. With X and Y the centred features, C = X'X and D = Y'Y, the last trace is
    the sum of the singular values of X Y'. So no root of a matrix is taken, which would make
    sqrt(1e-16) of each eigenvalue that rounding has left of a zero.

    Raises:
        UserError: fewer than two rows in a set, rows of different widths, or numbers that are not
            finite.
    """
    if real.shape[1:] != made.shape[1:] or real.ndim != 2 or min(len(real), len(made)) < 2:
        raise UserError(
            f"a Fréchet distance is of two sets of at least 2 features of one width, not of "
            f"{real.shape} and {made.shape}"
        )
    first, second = (np.asarray(rows, np.float64) for rows in (real, made))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UserError("features that are not finite: the extractor's weights or clips are broken")
    apart = first.mean(0) - second.mean(0)
    one, other = _root(first), _root(second)
    shared = np.linalg.svd(one @ other.T, compute_uv=False).sum()
    found = apart @ apart + (one**2).sum() + (other**2).sum() - 2 * shared
    return max(0.0, float(found))


def _root(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """R with R'R the covariance of the rows (N, D), of at most D rows."""
    centred: npt.NDArray[np.float64] = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return centred if len(rows) <= rows.shape[1] else np.linalg.qr(centred).R


def bias_of(real: int, made: int, width: int) -> str | None:
    """What is to be said of a Fréchet distance over so few features; None: nothing."""
    fewest = min(real, made)
    if fewest < width + 1:
        return (
            f"{fewest} features of width {width}: too few for a covariance of full rank "
            f"(that takes {width + 1}); the distance is biased upwards"
        )
    if fewest < FEW:
        return f"{fewest} features, fewer than {FEW}: the distance is biased upwards"
    return None


def wasserstein(real: npt.NDArray[Any], made: npt.NDArray[Any]) -> float:
    """The Wasserstein-1 distance of two sets of numbers (N,) and (M,), in their unit.

    The area between their distribution functions: how far the numbers of one have to be moved, on
    average, to become those of the other.

    Raises:
        UserError: an empty set.
    """
    if not len(real) or not len(made):
        raise UserError("a distance of distributions needs numbers of both")
    first, second = (np.sort(np.asarray(values, np.float64)) for values in (real, made))
    every = np.sort(np.concatenate([first, second]))
    below = [
        np.searchsorted(values, every[:-1], side="right") / len(values)
        for values in (first, second)
    ]
    return float(np.abs(below[0] - below[1]) @ np.diff(every))
