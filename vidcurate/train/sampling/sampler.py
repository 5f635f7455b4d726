"""Sampling: from noise to clips along the ODE, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from vidcurate.errors import ModelError, UserError
from vidcurate.train.model.layout import Layout, Patch, patchify, unpatchify
from vidcurate.train.objective import Objective, mix, shifted, step
from vidcurate.train.sampling.starts import Start
from vidcurate.train.text import TextEncoder

Model = Callable[[Tensor, Tensor, Layout, Tensor], Tensor]
"""(tokens (N, D), level (M,), layout, text (L, width)) to the prediction (N, D), as `DiT`."""


@dataclass(frozen=True)
class Sampler:
    """Makes clips of what they start from and their prompts.

    model: in evaluation mode; autocast, where it is wanted, stands around the call. text: of the
    captions that it was trained with. patch: of the model. steps: along the ODE. guidance: how far
    to go from the prediction without the prompt to that with it (arXiv 2207.12598); 1 stops there,
    and a step costs half, as where there are no prompts. negative: what stands in for the absent
    prompt. solver: Heun's takes two predictions a step but for the last one. objective: the one
    that was trained; sampling shifts its times as training did.
    """

    model: Model
    text: TextEncoder
    patch: Patch
    steps: int = 50
    guidance: float = 4.0
    solver: Literal["euler", "heun"] = "euler"
    objective: Objective = Objective()
    negative: str = ""

    def __call__(
        self, starts: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        """Sample clips, all in one pack.

        Args:
            prompts, seeds: one a start. A seed's noise is that of its clip in whatever pack, and on
                whatever device.

        Returns:
            latents (T, C, H, W), like those of the starts, on the text encoder's device; frames of
            tau 0 bit for bit.

        Raises:
            UserError: numbers of starts, prompts and seeds that differ, latents that do not fit the
                patch, no steps.
            ModelError: the model predicts numbers that are not finite.
        """
        if not starts or len({len(starts), len(prompts), len(seeds)}) != 1 or self.steps < 1:
            raise UserError(
                f"sample: {len(starts)} starts need as many prompts ({len(prompts)}) and seeds "
                f"({len(seeds)}); steps: at least 1, not {self.steps}"
            )
        clean, layout = patchify(
            [start.latent for start in starts], [start.times for start in starts], self.patch
        )
        noise = [
            torch.randn(
                *(clean[begin:end].shape),
                generator=torch.Generator().manual_seed(seed),
                dtype=clean.dtype,
            )
            for seed, (begin, end) in zip(seeds, pairwise(layout.offsets.tolist()), strict=True)
        ]
        rows = torch.cat([_of_rows(start.tau, self.patch[0]) for start in starts])
        with torch.no_grad():
            predict, device = self._predictor(layout, prompts)
            tokens = self._solve(
                predict,
                clean.to(device),
                torch.cat(noise).to(device),
                rows.to(device),
                layout.to(device),
            )
        if not bool(tokens.isfinite().all()):
            raise ModelError(
                "sample: the model's predictions are not finite; take a checkpoint from before its "
                "training diverged, or precision fp32"
            )
        return unpatchify(tokens, layout, self.patch, starts[0].latent.shape[1])

    def _predictor(
        self, layout: Layout, prompts: Sequence[str]
    ) -> tuple[Callable[[Tensor, Tensor], Tensor], torch.device]:
        """The guided prediction of (x (N, D), level (M,)), and the device that it is made on."""

        text, offsets = self.text.encode(prompts)
        own = layout.with_text(offsets).to(text.device)

        def asked(x: Tensor, level: Tensor) -> Tensor:
            return self.model(x, level, own, text).to(x.dtype)

        if self.guidance == 1 or all(prompt == self.negative for prompt in prompts):
            return asked, text.device
        other, other_offsets = self.text.encode([self.negative] * len(prompts))
        free = layout.with_text(other_offsets).to(text.device)

        def guided(x: Tensor, level: Tensor) -> Tensor:
            without = self.model(x, level, free, other).to(x.dtype)
            return without + self.guidance * (asked(x, level) - without)

        return guided, text.device

    def _solve(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        clean: Tensor,
        noise: Tensor,
        tau: Tensor,
        layout: Layout,
    ) -> Tensor:
        """Tokens at time 0 of the ODE that begins with noise of levels tau (M,) in `clean`."""
        name = self.objective.name
        time = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64, device=clean.device)
        grid = time[:, None].expand(-1, len(layout.grids))
        if name == "flow":
            counts = layout.offsets.diff()
            grid = shifted(grid, counts, self.objective.shift, self.objective.shift_tokens)
        levels = tau * grid[:, layout.frame_sample]  # (steps + 1, M)
        x = mix(clean, noise, levels[0][layout.frame], name)
        made = (tau > 0)[layout.frame, None]
        for n, (level, to) in enumerate(pairwise(levels)):
            p, q = (f[layout.frame, None].to(x.dtype) for f in step(level, to, name))
            slope = predict(x, level.float())
            moved = torch.where(made, p * x + q * slope, clean)
            # At level 0 the model takes a frame for one that is kept: no second slope there.
            if self.solver == "heun" and n < self.steps - 1:
                slope = (slope + predict(moved, to.float())) / 2
                moved = torch.where(made, p * x + q * slope, clean)
            x = moved
        return x


def _of_rows(tau: Tensor, frames: int) -> Tensor:
    """Tau of each frame row, of those of its latent frames, which are alike."""
    rows = tau.reshape(-1, frames)
    if bool((rows != rows[:, :1]).any()):
        raise UserError(
            f"sample: a patch spans {frames} latent frames; keep or generate all of them together"
        )
    return rows[:, 0]


def to_pixels(latent: Tensor) -> Tensor:
    """uint8 (T, H, W, 3) on the CPU, of RGB in -1..1 (T, 3, H, W)."""
    return to_levels(latent).permute(0, 2, 3, 1).contiguous()


def to_levels(latent: Tensor) -> Tensor:
    """uint8 (T, 3, H, W) on the CPU, of RGB in -1..1 (T, 3, H, W)."""
    levels = ((latent.float() + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).cpu()
