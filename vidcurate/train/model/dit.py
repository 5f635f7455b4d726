"""A diffusion transformer over packs of clips.

The block is DiT's (arXiv 2212.09748): attention and MLP between adaptive layer norms whose shift,
scale and gate come from the noise level and begin at zero. The text enters by cross-attention that
begins at zero, too, as in PixArt-alpha (arXiv 2310.00426). Rotary positions tell tokens how far
apart they are, which from pure noise says little of where they stand: a token's place in its
picture, as a share of its height and width, enters with it, as in NaViT (arXiv 2307.06304).
Attention over space, time or both follows Latte (arXiv 2401.03048), long skips U-ViT (arXiv
2209.12152), normalised queries and keys "Scaling Vision Transformers to 22 Billion Parameters"
(arXiv 2302.05442).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, silu

from vidcurate.train.model.attention import Kind, grouped_attention, samples, self_attention, texts
from vidcurate.train.model.config import LEVEL_WIDTH, PLACE_WIDTH, Attention, ModelConfig
from vidcurate.train.model.layout import Layout
from vidcurate.train.model.rope import turned, turns

EPS = 1e-6

Turns = tuple[Tensor, Tensor]


class DiT(nn.Module):  # type: ignore[misc]
    """The model: noised tokens, their noise levels and a text to the velocity of each token.

    It gives zeros until it is trained. `blocks` are called one by one with tensors, so that they
    can be sharded, checkpointed and compiled each.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.tokens_in = nn.Linear(config.token_width, width)
        self.place_in = nn.Linear(PLACE_WIDTH, width)
        self.level_in = _mlp(LEVEL_WIDTH, width, nn.SiLU())
        self.text_in = _mlp(config.text_width, width, nn.GELU("tanh"))
        joined = config.depth - config.depth // 2 if config.long_skips else config.depth
        self.blocks = nn.ModuleList(
            Block(config, attention, joins=i >= joined)
            for i, attention in enumerate(config.attention)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.tokens_out = nn.Linear(width, config.token_width)
        _initialise(self)

    def forward(self, tokens: Tensor, level: Tensor, layout: Layout, text: Tensor) -> Tensor:
        """The velocity of each token, (N, pt * p * p * C).

        Args:
            tokens: (N, pt * p * p * C), noised. level: (M,), 0 to 1, of each frame row, float32 or
                better whatever the weights are (0: kept clean). layout: on the same device.
            text: (L, text_width), the rows that `layout.text_offsets` gives to each sample.
        """
        dtype = self.tokens_in.weight.dtype
        exact = torch.promote_types(dtype, torch.float32)
        x = self.tokens_in(tokens.to(dtype))
        x = x + self.place_in(place_features(layout.place.to(exact)).to(dtype))
        condition = silu(self.level_in(level_features(level.to(exact)).to(dtype)))
        rows = self.text_in(text.to(dtype))
        angles = turns(layout.position, self.config.head_width, exact)
        skips: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            skip = skips.pop() if block.join is not None else None
            x = block(x, condition, rows, layout, angles, skip)
            if self.config.long_skips and i < len(self.blocks) // 2:
                skips.append(x)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        velocity: Tensor = self.tokens_out(_modulated(x, shift, scale, layout.frame))
        return velocity


class Block(nn.Module):  # type: ignore[misc]
    """Attention of the tokens (one or two), attention to the text, MLP."""

    def __init__(self, config: ModelConfig, attention: Attention, *, joins: bool) -> None:
        super().__init__()
        width = config.width
        kinds: list[Kind] = ["space", "time"] if attention == "space+time" else [attention]
        self.join = nn.Linear(2 * width, width) if joins else None
        self.modulation = nn.Linear(width, 3 * width * (len(kinds) + 1))
        self.attentions = nn.ModuleList(SelfAttention(config, kind) for kind in kinds)
        self.text_norm = nn.LayerNorm(width, eps=EPS)
        self.text = TextAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden), nn.GELU("tanh"), nn.Linear(config.hidden, width)
        )

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        text: Tensor,
        layout: Layout,
        angles: Turns,
        skip: Tensor | None = None,
    ) -> Tensor:
        """Tokens (N, width) of tokens, conditions (M, width) and rows of text (L, width)."""
        if self.join is not None:
            x = self.join(torch.cat([x, skip], dim=-1))
        rows = self.modulation(condition).chunk(3 * (len(self.attentions) + 1), dim=-1)
        *before, last = zip(rows[0::3], rows[1::3], rows[2::3], strict=True)
        for attention, (shift, scale, gate) in zip(self.attentions, before, strict=True):
            change = attention(_modulated(x, shift, scale, layout.frame), layout, angles)
            x = x + _spread(gate, layout.frame) * change
        x = x + self.text(self.text_norm(x), text, layout)
        shift, scale, gate = last
        change = self.mlp(_modulated(x, shift, scale, layout.frame))
        return x + _spread(gate, layout.frame) * change


class SelfAttention(nn.Module):  # type: ignore[misc]
    """Attention of one kind among the tokens of each sample."""

    def __init__(self, config: ModelConfig, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_norm = nn.RMSNorm(config.head_width, eps=EPS)
        self.k_norm = nn.RMSNorm(config.head_width, eps=EPS)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, layout: Layout, angles: Turns) -> Tensor:
        """(N, width) of (N, width)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        q = turned(_normed(q, self.q_norm), angles).to(v.dtype)
        k = turned(_normed(k, self.k_norm), angles).to(v.dtype)
        change: Tensor = self.out(self_attention(q, k, v, layout, self.kind).flatten(1))
        return change


class TextAttention(nn.Module):  # type: ignore[misc]
    """Attention of each sample's tokens to its rows of text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.q_norm = nn.RMSNorm(config.head_width, eps=EPS)
        self.k_norm = nn.RMSNorm(config.head_width, eps=EPS)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, text: Tensor, layout: Layout) -> Tensor:
        """(N, width) of (N, width) and text (L, width)."""
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).unbind(1)
        q = _normed(q, self.q_norm).to(v.dtype)
        k = _normed(k, self.k_norm).to(v.dtype)
        seen = grouped_attention(q, k, v, samples(layout), texts(layout))
        change: Tensor = self.out(seen.flatten(1))
        return change


def level_features(level: Tensor) -> Tensor:
    """Sines and cosines (M, 256) of noise levels (M,) of 0 to 1, as of DiT's 1,000 steps."""
    half = LEVEL_WIDTH // 2
    steps = torch.arange(half, device=level.device, dtype=level.dtype) / half
    angles = 1000 * level[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def place_features(place: Tensor) -> Tensor:
    """Sines and cosines (N, 32) of places (N, 2) of 0 to 1: waves of 4 to 1/32 of a side."""
    octaves = torch.arange(PLACE_WIDTH // 4, device=place.device, dtype=place.dtype)
    angles = (place[:, :, None] * (math.pi / 2 * 2**octaves)).flatten(1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _spread(rows: Tensor, frame: Tensor) -> Tensor:
    """Each token's of values (M, width) that the tokens of a frame row share.

    A look-up as of an embedding: its gradient sums the tokens of a row in float32, where that of an
    index would add bfloat16 to bfloat16, thousands of times.
    """
    return embedding(frame, rows)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, frame: Tensor) -> Tensor:
    normed = layer_norm(x, x.shape[-1:], eps=EPS)
    return normed * (1 + _spread(scale, frame)) + _spread(shift, frame)


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """Under autocast x has another dtype than the weights: then in that of the weights."""
    normed: Tensor = norm(x.to(norm.weight.dtype))
    return normed


def _mlp(width_in: int, width: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), activation, nn.Linear(width, width))


def _initialise(model: DiT) -> None:
    """DiT's: small weights where the level enters, and blocks that add nothing at first."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for embedder in (model.level_in, model.text_in):
        nn.init.normal_(embedder[0].weight, std=0.02)
        nn.init.normal_(embedder[2].weight, std=0.02)
    silent = [model.modulation, model.tokens_out]
    for block in model.blocks:
        silent += [block.modulation, block.text.out]
    for linear in silent:
        nn.init.zeros_(linear.weight)
