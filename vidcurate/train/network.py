"""What is trained: the DiT with its embedding of text, the averages of both, and one pack's way
through them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from vidcurate.train.config import TrainConfig
from vidcurate.train.data import Clips
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.dit import DiT
from vidcurate.train.model.layout import Layout, offsets_of, patchify, sent
from vidcurate.train.objective import Draws, Noised, Objective, draw, noised
from vidcurate.train.parallel import inner, local
from vidcurate.train.tau import causal_weights, tail_alone
from vidcurate.train.text import ByteText


class Network(nn.Module):  # type: ignore[misc]
    """The DiT and what is learned of text, as one module: for DDP, FSDP2 and checkpoints.

    rows: text comes as rows of a frozen encoder, and nothing of it is learned here: `text` is None.
    recompute: activations of each block are computed again in the backward pass. compiled: each
    block by torch.compile, for any numbers of tokens; its weights keep their names.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rows: bool = False,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.dit = DiT(config)
        self.text = None if rows else ByteText(config.text_width)
        for block in self.dit.blocks:
            # Block by block, so that FSDP2 gathers weights around each and DDP needs no graph.
            if compiled:
                block.forward = torch.compile(block.forward, dynamic=True)
            if recompute:
                block.forward = partial(recomputed, block.forward, use_reentrant=False)

    def forward(self, tokens: Tensor, level: Tensor, layout: Layout, *text: Tensor) -> Tensor:
        """The prediction (N, D): DiT's arguments, for the text the rows (L, text_width) of a frozen
        encoder, or what `ByteText.tokenize` gives."""
        rows = text[0] if self.text is None else self.text(*text)
        predicted: Tensor = self.dit(tokens, level, layout, rows)
        return predicted


@dataclass
class Pack:
    """One forward pass: what `Network` takes, and what its prediction is compared with.

    clips: that it is made of. text: what `Network` takes for it; texts: rows of each clip. real:
    tokens that are learnt from, without asking the device.
    """

    clips: Clips
    layout: Layout
    noised: Noised
    text: tuple[Tensor, ...]
    texts: list[int]
    real: int

    def through(self, model: nn.Module) -> Tensor:
        """The prediction for the noised tokens."""
        predicted: Tensor = model(self.noised.inputs, self.noised.level, self.layout, *self.text)
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
    patch = network.dit.config.patch
    latents = [sent(latent, device) for latent in clips.latents]
    tokens, layout = patchify(latents, clips.times, patch)
    draws = draw(
        tokens,
        layout,
        [_seed(seed, step, sample) for sample in clips.ids],
        objective,
        time=time,
    )
    if clips.last is not None:
        draws, times, changed = _tails_alone(clips, draws, layout, latents)
        if changed:
            tokens, layout = patchify(latents, times, patch)
    text, offsets = _text(clips, network.text)
    layout = layout.with_text(offsets)
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
        tuple(sent(part, device) for part in text),
        offsets.diff().tolist(),
        real,
    )


def _tails_alone(
    clips: Clips, draws: Draws, layout: Layout, latents: list[Tensor]
) -> tuple[Draws, list[Tensor], bool]:
    """Draws that keep no frame which tells of generated ones (see `tail_alone`), times of the
    latents, and whether one of `latents`, in place, now has its last frame encoded alone."""
    assert clips.last is not None
    taus, times, changed = [], list(clips.times), False
    frames = [grid[0] for grid in layout.grids]
    for i, tau in enumerate(draws.tau.split(frames)):
        own, alone = tail_alone(tau)
        taus.append(own)
        if alone:
            assert len(own) == len(times[i]), "a frame alone is no patch of several"
            last, at = clips.last(i)
            latents[i] = torch.cat([latents[i][:-1], last.to(latents[i])])
            times[i] = torch.cat([times[i][:-1], at])
            changed = True
    return replace(draws, tau=torch.cat(taus)), times, changed


def _text(clips: Clips, learned: ByteText | None) -> tuple[tuple[Tensor, ...], Tensor]:
    """What `Network` takes for the text, on any device, and its offsets int32 (S + 1,)."""
    if learned is not None:
        ids, places, offsets = learned.tokenize(clips.captions)
        return (ids, places), offsets
    assert clips.texts is not None, "a network that takes rows is given some"
    lengths = torch.tensor([len(rows) for rows in clips.texts])
    return (torch.cat(clips.texts),), offsets_of(lengths)


def _seed(seed: int, step: int, sample: str) -> int:
    text = f"noise:{seed}:{step}:{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def objective_of(config: TrainConfig, *, chained: bool = False) -> Objective:
    """The recipe's objective, without the kinds of masks that its latents cannot be trained on.

    chained: see `Codes`.
    """
    objective = Objective(**config.objective.model_dump())
    if chained:
        modes = causal_weights(objective.modes, config.model.patch[0])
        objective = replace(objective, modes=modes)
    return objective


# -------------------------------------------------------------------- optimiser, average


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101); vectors, and the table of bytes, do not decay."""
    decays: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in inner(model).named_parameters():
        if not weight.requires_grad:  # beside LoRA's adapters
            continue
        (decays if weight.ndim > 1 and "table" not in name else others).append(weight)
    groups = [
        {"params": decays, "weight_decay": config.optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    made: torch.optim.Optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        fused=next(model.parameters()).device.type == "cuda",
    )
    return made


class Average:
    """The moving average of the trained weights (EMA), in their precision and sharded as they are.

    The decay rises with the steps, (1 + n) / (10 + n) up to `decay`, so that short runs do not
    average their first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        named = inner(model).named_parameters()
        self._weights = {name: weight for name, weight in named if weight.requires_grad}
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
