"""Rotary positions in three dimensions: time in seconds, rows and columns in patches.

RoPE (arXiv 2104.09864) by axes: each pair of a head's channels turns with one of the three. Angles
depend on differences only, so a clip may begin anywhere and have any size. The base 256 is that of
HunyuanVideo (arXiv 2412.03603): positions are hundreds, not the ten thousands of a text.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE = 256.0
PER_SECOND = 8.0
"""Steps of position in a second of video: about the rows that things move by in that time."""


def turns(position: Tensor, head_width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, 1, head_width / 2) of the tokens' angles.

    Args:
        position: (N, 3), seconds, row and column of each token.
        head_width: even, 6 at least. A third of its pairs each are the row's and the column's, the
            rest the time's.
        dtype: that of the computation, float32 at least.
    """
    pairs = head_width // 2
    each = pairs // 3
    angles = []
    for axis, (count, scale) in enumerate([(pairs - 2 * each, PER_SECOND), (each, 1), (each, 1)]):
        steps = torch.arange(count, device=position.device, dtype=dtype) / count
        speed = scale * torch.exp(-math.log(BASE) * steps)
        angles.append(position[:, axis : axis + 1].to(dtype) * speed)
    angle = torch.cat(angles, dim=1).unsqueeze(1)
    return angle.cos(), angle.sin()


def turned(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys (N, heads, head_width) turned by the angles of `turns`, in their dtype.

    A pair is channel i of the first half of a head and channel i of the second.
    """
    cos, sin = by
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
