"""What a model is: its size, its patches and the attention of its blocks. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Attention = Literal["full", "space", "time", "space+time", "split"]
"""What the tokens of a block attend to.

full: all of the sample. space: their frame row. time: their place in all frames. space+time: first
the one, then the other, by attentions of their own. split: half of the heads space, half time.
"""

Variant = Literal["full", "interleaved", "late", "both", "split"]
"""Full attention, or one of Latte's four variants (arXiv 2401.03048), in the paper's order."""

Preset = Literal["DiT-S", "DiT-B", "DiT-L", "DiT-XL"]

SIZES: Mapping[str, tuple[int, int, int]] = {
    "DiT-S": (384, 12, 6),
    "DiT-B": (768, 12, 12),
    "DiT-L": (1024, 24, 16),
    "DiT-XL": (1152, 28, 16),
}
"""Width, depth and heads, of table 1 of the DiT paper (arXiv 2212.09748)."""

LEVEL_WIDTH = 256
"""Sines and cosines of a noise level that enter the model."""

PLACE_WIDTH = 32
"""Sines and cosines of a token's place in its picture that enter the model."""

Count = Annotated[int, Field(ge=1)]


def variant_blocks(variant: Variant, depth: int) -> tuple[Attention, ...]:
    """The attention of each block of a variant."""
    spatial = (depth + 1) // 2
    blocks: dict[Variant, list[Attention]] = {
        "full": ["full"] * depth,
        "interleaved": ["space" if i % 2 == 0 else "time" for i in range(depth)],
        "late": ["space" if i < spatial else "time" for i in range(depth)],
        "both": ["space+time"] * depth,
        "split": ["split"] * depth,
    }
    return tuple(blocks[variant])


class ModelConfig(BaseModel):
    """A diffusion transformer.

    preset: a size of the DiT paper; width, depth and heads go before it, where they are given.
    Without it these three are needed.
    patch: latent frames, rows and columns in one token. channels: of a latent; 3 for pixels.
    text_width: of a row of text. blocks: the name of a variant, or the attention of each block.
    long_skips: the outputs of the first half of the blocks are joined to the inputs of the second,
    the last with the first (U-ViT, arXiv 2209.12152). mlp_ratio: of the width of the hidden layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset | None = None
    width: Count
    depth: Count
    heads: Count
    patch: tuple[Count, Count, Count] = (1, 2, 2)
    channels: Count = 3
    text_width: Count = 256
    blocks: Variant | tuple[Attention, ...] = "full"
    long_skips: bool = False
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, given: Any) -> Any:
        """Width, depth and heads of the preset, where the recipe gives none."""
        if not isinstance(given, Mapping):
            return given
        sides = ("width", "depth", "heads")
        preset = given.get("preset")
        if preset is None:
            missing = [side for side in sides if side not in given]
            if missing:
                raise ValueError(
                    f"{' and '.join(missing)}: missing; give width, depth and heads, or a preset "
                    f"({', '.join(SIZES)})"
                )
            return given
        # Of an unknown preset the field's own check names the right ones: any size does here.
        size = SIZES.get(str(preset), SIZES["DiT-S"])
        return {**dict(zip(sides, size, strict=True)), **given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads or self.head_width % 8:
            raise ValueError(
                f"width {self.width} over {self.heads} heads: each head's width must be a multiple "
                "of 8, as attention on a GPU asks"
            )
        if len(self.attention) != self.depth:
            raise ValueError(
                f"blocks: has {len(self.attention)} for a depth of {self.depth}; give one a block, "
                f"or one of {', '.join(get_args(Variant))}"
            )
        if "split" in self.attention and self.heads % 2:
            raise ValueError(f"blocks: split needs an even number of heads, not {self.heads}")
        return self

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of each block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def token_width(self) -> int:
        """Numbers in one token: pt * p * p * C."""
        frames, rows, columns = self.patch
        return frames * rows * columns * self.channels

    @property
    def attention(self) -> tuple[Attention, ...]:
        """The attention of each block."""
        if isinstance(self.blocks, str):
            return variant_blocks(self.blocks, self.depth)
        return self.blocks
