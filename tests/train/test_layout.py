"""Clips to tokens and back, and what is known of each token."""

from __future__ import annotations

import pytest
import torch

from vidcurate.errors import DataError
from vidcurate.train.layout import patchify, unpatchify


def clip(t: int, h: int, w: int, channels: int = 3, fps: float = 8.0):
    count = t * channels * h * w
    return torch.arange(count).reshape(t, channels, h, w).float(), torch.arange(t).double() / fps


@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1), (2, 2, 4)])
def test_there_and_back_is_exact(patch):
    made = [clip(2, 4, 8), clip(4, 8, 4), clip(2, 2, 4)]
    latents = [latent for latent, _ in made]
    tokens, layout = patchify(latents, [times for _, times in made], patch)
    assert tokens.shape == (
        sum(x.numel() for x in latents) // (3 * torch.tensor(patch).prod()),
        3 * torch.tensor(patch).prod(),
    )
    back = unpatchify(tokens, layout, patch, 3)
    assert all(torch.equal(a, b) for a, b in zip(latents, back, strict=True))
