"""Floating point operations of the model: what a pack costs, and what of it a GPU reached.

Counted are matrix products, a multiplication and an addition as two, as torch's FlopCounterMode
does; attention within each sample, as nothing else is computed. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate.shards.reader.shapes import Shapes
from vidcurate.train.model.config import LEVEL_WIDTH, PLACE_WIDTH, ModelConfig

TRAINING = 3
"""Forward passes that a forward and a backward pass weigh: each product has two gradients."""

Compression = tuple[int, int, int]
"""Frames, rows and columns of the video to one of the latent."""


def flops(config: ModelConfig, grids: Sequence[tuple[int, int, int]], texts: Sequence[int]) -> int:
    """Operations of a forward pass of a pack.

    grids: tokens of each sample along time, height and width. texts: rows of each one's text.
    """
    return sum(
        int(_forward(config, t, h * w, text)) for (t, h, w), text in zip(grids, texts, strict=True)
    )


def tokens(
    config: ModelConfig, compression: Compression = (1, 1, 1)
) -> Callable[[Shapes], npt.NDArray[np.int64]]:
    """Tokens of each sample, for `TokenPacks`; compression is the VAE's, none for pixels."""
    return partial(_tokens, config, compression)


def cost(
    config: ModelConfig, compression: Compression = (1, 1, 1), *, text: int = 64
) -> Callable[[Shapes], npt.NDArray[np.float64]]:
    """Predicted operations of training on each sample, for `TokenPacks`.

    text: rows of a usual text; they are not known before it is read.
    """
    return partial(_cost, config, compression, text)


def _tokens(config: ModelConfig, compression: Compression, shapes: Shapes) -> npt.NDArray[np.int64]:
    frames, area = _grids(config, compression, shapes)
    return frames * area


def _cost(
    config: ModelConfig, compression: Compression, text: int, shapes: Shapes
) -> npt.NDArray[np.float64]:
    frames, area = (x.astype(np.float64) for x in _grids(config, compression, shapes))
    predicted: npt.NDArray[np.float64] = TRAINING * _forward(config, frames, area, text)
    return predicted


def _grids(
    config: ModelConfig, compression: Compression, shapes: Shapes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Frame rows of each sample, and tokens of one. A causal VAE's first frame stands alone."""
    along, down, across = compression
    latent = (1 + (shapes.frames - 1) // along, shapes.height // down, shapes.width // across)
    frames, rows, columns = (
        np.maximum(size.astype(np.int64) // patch, 1)
        for size, patch in zip(latent, config.patch, strict=True)
    )
    return frames, rows * columns


def _forward(config: ModelConfig, frames: Any, area: Any, text: Any) -> Any:
    """Operations for one sample, or for arrays of them: frame rows, tokens of one, rows of text."""
    width = config.width
    count = frames * area
    pairs = {  # of queries and keys, twice
        "full": 2 * count * count,
        "space": 2 * count * area,
        "time": 2 * count * frames,
        "split": count * (area + frames),
    }
    products = 2 * count * width * config.token_width  # into the model and out of it
    products += count * width * PLACE_WIDTH
    products += frames * width * (LEVEL_WIDTH + 3 * width)  # level and last modulation
    products += text * width * (config.text_width + width)
    for kinds in (attention.split("+") for attention in config.attention):
        products += frames * 3 * width * width * (len(kinds) + 1)  # modulation
        for kind in kinds:
            products += 4 * count * width * width  # q, k, v and out
            products += pairs[kind] * width
        products += 2 * count * width * width + 2 * text * width * width  # q and out; k and v
        products += 2 * count * text * width
        products += 2 * count * width * config.hidden
    if config.long_skips:
        products += config.depth // 2 * 2 * count * width * width
    return 2 * products
