"""How near a reconstructed picture is to the real one."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcurate.errors import UserError

WINDOW = 11
"""Pixels of the side of SSIM's window: the least size of a picture."""

BEST = 100.0
"""dB that a PSNR reads at most: that of equal pictures would be infinite."""

_SPREAD = 1.5  # of the window, in pixels
_K1, _K2 = 0.01, 0.03


def psnr(real: Tensor, made: Tensor) -> float:
    """Peak signal-to-noise ratio, in dB, of a clip in 0..1, of any shape; at most `BEST`.

    -10 log10 of the mean squared error over all that the clip holds.
    """
    error = (real.double() - made.double()).square().mean().clamp(min=10 ** (-BEST / 10))
    return -10 * float(error.log10())


def ssim(real: Tensor, made: Tensor) -> Tensor:
    """Structural similarity float64 (T,) of frames (T, C, H, W) in 0..1: 1 where they are equal.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", 2004: an 11x11 Gaussian window of spread 1.5, K1 = 0.01, K2 = 0.03,
    windows within the picture only; here the mean over the colour channels too.

    Raises:
        UserError: frames of two sizes, or smaller than the window.
    """
    if real.shape != made.shape or min(real.shape[-2:]) < WINDOW:
        raise UserError(
            f"SSIM is of pictures of one size, at least {WINDOW}x{WINDOW} pixels, not "
            f"{tuple(real.shape)} and {tuple(made.shape)}"
        )
    x, y = real.double(), made.double()
    mean_x, mean_y = _local(x), _local(y)
    var_x = _local(x * x) - mean_x**2
    var_y = _local(y * y) - mean_y**2
    both = _local(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    found = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    found = found / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    mean: Tensor = found.mean(dim=(1, 2, 3))
    return mean


def _local(pictures: Tensor) -> Tensor:
    """Weighted means of (T, C, H, W) in all windows that lie within."""
    at = torch.arange(WINDOW, dtype=pictures.dtype, device=pictures.device) - WINDOW // 2
    weights = torch.exp(-(at**2) / (2 * _SPREAD**2))
    weights = weights / weights.sum()
    t, c, h, w = pictures.shape
    flat = pictures.reshape(t * c, 1, h, w)
    flat = torch.nn.functional.conv2d(flat, weights[None, None, :, None])
    flat = torch.nn.functional.conv2d(flat, weights[None, None, None, :])
    return flat.reshape(t, c, *flat.shape[-2:])
