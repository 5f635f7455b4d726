"""PSNR and SSIM against closed forms, and against the paper's sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vidcurate.errors import UserError
from vidcurate.train.evaluation.quality import BEST, psnr, ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_that_of_a_known_error() -> None:
    real = noise(2, 3, 12, 12) * 0.5
    assert psnr(real, real + 0.1) == pytest.approx(20, abs=1e-5)
    assert psnr(real, real - 1 / 255) == pytest.approx(20 * math.log10(255), abs=1e-4)
    half = real.clone()
    half[1] += 0.1  # a half of the clip: the error is half as large
    assert psnr(real, half) == pytest.approx(20 + 10 * math.log10(2), abs=1e-5)
    assert psnr(real, real) == BEST


def test_ssim_of_flat_pictures_is_that_of_their_means() -> None:
    """Without variance: (2xy + c1) / (x^2 + y^2 + c1)."""
    x, y, c1 = 0.3, 0.6, 0.01**2
    found = ssim(torch.full((2, 3, 16, 12), x), torch.full((2, 3, 16, 12), y))
    assert found == pytest.approx([(2 * x * y + c1) / (x * x + y * y + c1)] * 2, abs=1e-6)


def test_ssim_is_the_paper_s_window_by_window() -> None:
    real, made = noise(1, 2, 14, 13), noise(1, 2, 14, 13, seed=1)
    made = 0.7 * real + 0.3 * made
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = 0.01**2, 0.03**2
    each = []
    for x, y in zip(real[0].numpy().astype(float), made[0].numpy().astype(float), strict=True):
        for top in range(4):
            for left in range(3):
                a, b = (p[top : top + 11, left : left + 11] for p in (x, y))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                ab = (window * (a - ma) * (b - mb)).sum()
                above = (2 * ma * mb + c1) * (2 * ab + c2)
                each.append(above / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(real, made).item() == pytest.approx(np.mean(each), abs=1e-9)
    assert 0.2 < np.mean(each) < 0.98


def test_ssim_of_equal_pictures_is_1_of_negatives_below_0_and_frames_have_their_own() -> None:
    real = noise(3, 3, 20, 20)
    made = real.clone()
    made[1] = 1 - made[1]
    found = ssim(real, made)
    assert found[[0, 2]] == pytest.approx([1, 1], abs=1e-12)
    assert found[1] < -0.5


def test_pictures_that_the_window_does_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="at least 11x11"):
        ssim(noise(1, 3, 10, 20), noise(1, 3, 10, 20))
    with pytest.raises(UserError, match="one size"):
        ssim(noise(1, 3, 12, 20), noise(1, 3, 20, 12))
