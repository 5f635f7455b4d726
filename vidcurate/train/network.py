"""What is trained: the DiT with its embedding of text, the averages of both, and one pack's way
through them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from vidcurate.train.config import TrainConfig
from vidcurate.train.data import Clips
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.dit import DiT
from vidcurate.train.model.layout import Layout, patchify
from vidcurate.train.objective import Noised, Objective, draw, noised
from vidcurate.train.parallel import inner, local
from vidcurate.train.text import ByteText


class Network(nn.Module):  # type: ignore[misc]
    """The DiT and what is learned of text, as one module: for DDP, FSDP2 and checkpoints.

    recompute: activations of each block are computed again in the backward pass.
    """

    def __init__(self, config: ModelConfig, *, recompute: bool = False) -> None:
        super().__init__()
        self.dit = DiT(config)
        self.text = ByteText(config.text_width)
        if recompute:
            for block in self.dit.blocks:
                block.forward = partial(recomputed, block.forward, use_reentrant=False)

    def forward(
        self, tokens: Tensor, level: Tensor, layout: Layout, ids: Tensor, places: Tensor
    ) -> Tensor:
        """The prediction (N, D): DiT's arguments, with `ByteText.tokenize`'s for the text."""
        predicted: Tensor = self.dit(tokens, level, layout, self.text(ids, places))
        return predicted


@dataclass
class Pack:
    """One forward pass: what `Network` takes, and what its prediction is compared with.

    clips: that it is made of. real: tokens that are learnt from, without asking the device.
    texts: rows of text of each clip.
    """

    clips: Clips
    layout: Layout
    noised: Noised
    ids: Tensor
    places: Tensor
    texts: list[int]
    real: int

    def through(self, model: nn.Module) -> Tensor:
        """The prediction for the noised tokens."""
        predicted: Tensor = model(
            self.noised.inputs, self.noised.level, self.layout, self.ids, self.places
        )
        return predicted


def pack_of(
    clips: Clips,
    network: Network,
    objective: Objective,
    device: torch.device,
    *,
    seed: int,
    step: int,
    time: float | None = None,
) -> Pack:
    """Clips with noise of their own: a function of (seed, step, sample id), not of rank or pack.

    time: noise of this level in all; for validation.
    """
    latents = [latent.to(device, non_blocking=True) for latent in clips.latents]
    tokens, layout = patchify(latents, clips.times, network.dit.config.patch)
    ids, places, offsets = network.text.tokenize(clips.captions)
    layout = layout.with_text(offsets)
    seeds = [_seed(seed, step, sample) for sample in clips.ids]
    draws = draw(tokens, layout, seeds, objective, time=time)
    real = 0
    taus = draws.tau.split([frames for frames, _, _ in layout.grids])
    for (_, rows, columns), tau, weight in zip(
        layout.grids, taus, clips.weight.tolist(), strict=True
    ):
        real += int((tau > 0).sum()) * rows * columns if weight > 0 else 0
    return Pack(
        clips,
        layout,
        noised(tokens, layout, draws, clips.weight, objective.name),
        ids.to(device, non_blocking=True),
        places.to(device, non_blocking=True),
        offsets.diff().tolist(),
        real,
    )


def _seed(seed: int, step: int, sample: str) -> int:
    text = f"noise:{seed}:{step}:{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def objective_of(config: TrainConfig) -> Objective:
    """The recipe's objective."""
    return Objective(**config.objective.model_dump())


# -------------------------------------------------------------------- optimiser, average


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101); vectors, and the table of bytes, do not decay."""
    decays: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in inner(model).named_parameters():
        (decays if weight.ndim > 1 and "table" not in name else others).append(weight)
    made: torch.optim.Optimizer = torch.optim.AdamW(
        [
            {"params": decays, "weight_decay": config.optimizer.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        fused=next(model.parameters()).device.type == "cuda",
    )
    return made


class Average:
    """The moving average of the weights (EMA), in their precision and sharded as they are.

    The decay rises with the steps, (1 + n) / (10 + n) up to `decay`, so that short runs do not
    average their first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = dict(inner(model).named_parameters())
        self.tensors = {name: w.detach().clone() for name, w in self._weights.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self, step: int) -> None:
        """Once a step, after the optimiser."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._pairs(), 1 - decay)

    @contextmanager
    def used(self) -> Iterator[None]:
        """The model has the averaged weights inside; its own after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _swap(self) -> None:
        for average, weight in zip(*self._pairs(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        return (
            [local(a) for a in self.tensors.values()],
            [local(w.detach()) for w in self._weights.values()],
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two models' settings, in words."""
    return [
        f"{key} was {then.get(key)!r} and is {now.get(key)!r}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
