"""What the model is trained to predict, and how well it does.

`flow`: rectified flow, as in SD3 (arXiv 2403.03206). x_t = (1 - t) x0 + t e with noise e; the model
predicts the velocity e - x0. The time t of a sample is logit-normal, shifted to more noise the more
tokens the sample has: neighbouring patches tell of each other, so a larger picture needs more noise
to be hidden as well.

`epsilon`: DDPM (arXiv 2006.11239), in continuous time with the schedule of arXiv 2011.13456. The
model predicts e, t is uniform, and the loss is weighted by min-SNR (arXiv 2303.09556), as DiT and
Latte are trained.

The noise level of a frame is tau * t (see `tau`), so frames that are kept are clean whatever t is.
All that is random about a sample comes from a seed of its own: it is the same in whatever pack and
on whatever rank the sample is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vidcurate.train.model.layout import Layout, sent
from vidcurate.train.tau import DEFAULT_WEIGHTS, Kind, draw_tau

_BETA_LOW, _BETA_HIGH = 0.1, 20.0  # DDPM's 1e-4 to 0.02 over 1,000 steps, per unit of time
_SNR_LIMIT = 5.0

Name = Literal["flow", "epsilon"]


@dataclass(frozen=True)
class Objective:
    """Settings of what is trained.

    mean, std: of the logit of t; shift, shift_tokens: how t is moved (see `shifted`). These four
    are of `flow` alone. masked: share of samples of which some frames are kept or edited; modes:
    weights of the kinds among them (see `draw_tau`).
    """

    name: Name = "flow"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    shift_tokens: int | None = None
    masked: float = 0.25
    modes: Mapping[Kind, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))


@dataclass(frozen=True)
class Draws:
    """What is random about a pack of S samples, M frame rows and N tokens of D numbers.

    time: float64 (S,) in 0..1; tau: float64 (M,), both on the CPU. noise: (N, D) like the tokens.
    """

    time: Tensor
    tau: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Noised:
    """A pack as the model sees it.

    inputs: (N, D). level: float32 (M,), the noise level of each frame row; 0 is kept clean.
    target: (N, D), what is to be predicted. real: bool (N,), tokens that are learnt from: of a
    frame that is not kept, of a sample of weight 1. weight: float32 (N,), of each token's error.
    """

    inputs: Tensor
    level: Tensor
    target: Tensor
    real: Tensor
    weight: Tensor


def shifted(
    time: Tensor, tokens: Tensor | int, shift: float = 1.0, shift_tokens: int | None = None
) -> Tensor:
    """Move times in 0..1 towards noise by a factor (SD3, equation 23).

    Args:
        tokens: of each sample, broadcast against `time`.
        shift: the factor, of a sample of `shift_tokens` tokens; others are moved more or less by
            the square root of their share of these. All are moved alike where that is None. 1 and
            None move nothing.
    """
    factor = torch.as_tensor(shift, dtype=torch.float64, device=time.device)
    if shift_tokens is not None:
        count = torch.as_tensor(tokens, dtype=torch.float64, device=time.device)
        factor = factor * (count / shift_tokens).sqrt()
    return factor * time / (1 + (factor - 1) * time)


def draw(
    tokens: Tensor,
    layout: Layout,
    seeds: Sequence[int],
    objective: Objective,
    *,
    time: float | None = None,
) -> Draws:
    """Draw time, tau and noise of each sample of a pack.

    Args:
        tokens: (N, D), for their type and device.
        seeds: 64 bits a sample, of (seed, epoch, sample id).
        time: this one for all samples, and nothing masked: for validation at fixed times.
    """
    times, taus, noises = [], [], []
    for seed, (frames, rows, columns) in zip(seeds, layout.grids, strict=True):
        generator = torch.Generator().manual_seed(seed)
        count = frames * rows * columns
        if time is not None:
            times.append(torch.tensor(time, dtype=torch.float64))
            taus.append(torch.ones(frames, dtype=torch.float64))
        else:
            times.append(_draw_time(count, generator, objective))
            taus.append(draw_tau(objective.modes, frames, generator, masked=objective.masked))
        if tokens.device.type != "cpu":  # another stream of numbers, but no copy of the noise
            generator = torch.Generator(tokens.device).manual_seed(seed)
        noises.append(
            torch.randn(
                count,
                tokens.shape[1],
                dtype=tokens.dtype,
                device=tokens.device,
                generator=generator,
            )
        )
    return Draws(torch.stack(times), torch.cat(taus), torch.cat(noises))


def _draw_time(tokens: int, generator: torch.Generator, objective: Objective) -> Tensor:
    """One time in 0..1, float64 ()."""
    if objective.name == "epsilon":
        return torch.rand((), dtype=torch.float64, generator=generator)
    normal = torch.randn((), dtype=torch.float64, generator=generator)
    time = torch.sigmoid(objective.mean + objective.std * normal)
    return shifted(time, tokens, objective.shift, objective.shift_tokens)


def noised(
    tokens: Tensor,
    layout: Layout,
    draws: Draws,
    weight: Tensor,
    name: Name = "flow",
) -> Noised:
    """Mix noise into the tokens of a pack.

    Args:
        tokens: (N, D), clean. layout: on the same device.
        weight: (S,), 1 or, where a slot holds nothing to learn from, 0.
    """
    device = tokens.device
    tau = sent(draws.tau, device)
    exact = tau * sent(draws.time, device)[layout.frame_sample]
    level = exact.to(torch.float32)
    inputs = mix(tokens, draws.noise, exact[layout.frame], name)
    target = draws.noise - tokens if name == "flow" else draws.noise
    learnt = (tau > 0) & (sent(weight, device) > 0)[layout.frame_sample]
    share = torch.ones_like(exact)
    if name == "epsilon":
        data, noise = coefficients(exact, name)
        share = (_SNR_LIMIT * noise**2 / data**2).clamp(max=1)  # min(snr, limit) / snr
    return Noised(
        inputs, level, target, learnt[layout.frame], share.to(torch.float32)[layout.frame]
    )


def coefficients(level: Tensor, name: Name) -> tuple[Tensor, Tensor]:
    """(of the data, of the noise) in what is mixed at a level in 0..1, each of level's shape."""
    if name == "flow":
        return 1 - level, level
    log = -0.25 * level**2 * (_BETA_HIGH - _BETA_LOW) - 0.5 * level * _BETA_LOW
    return log.exp(), (-torch.expm1(2 * log)).clamp(min=0).sqrt()


def mix(clean: Tensor, noise: Tensor, level: Tensor, name: Name = "flow") -> Tensor:
    """Tokens (N, D) at noise levels (N,); where the level is 0, `clean` bit for bit."""
    data, share = coefficients(level[:, None], name)
    mixed = data.to(clean.dtype) * clean + share.to(clean.dtype) * noise
    return torch.where(level[:, None] > 0, mixed, clean)


def step(level: Tensor, to: Tensor, name: Name = "flow") -> tuple[Tensor, Tensor]:
    """(p, q) of one step along the ODE: x at level `to` is p * x + q * prediction.

    Euler's step of the flow, and DDIM's of epsilon (arXiv 2010.02502), which is Euler's too, in
    x / (share of data).
    """
    if name == "flow":
        return torch.ones_like(level), to - level
    data, noise = coefficients(level, name)
    data_to, noise_to = coefficients(to, name)
    return data_to / data, noise_to - data_to * noise / data


def errors(prediction: Tensor, pack: Noised) -> Tensor:
    """Squared error of each token, the mean of its D numbers; 0 where nothing is learnt.

    float32 (N,); float64 if the prediction is.
    """
    kind = torch.promote_types(prediction.dtype, torch.float32)
    squared = (prediction.to(kind) - pack.target.to(kind)).square().mean(1)
    return torch.where(pack.real, squared * pack.weight, 0)


def loss(prediction: Tensor, pack: Noised) -> tuple[Tensor, Tensor]:
    """(sum of the errors of the real tokens, their number), each ().

    Divide the sum of the global batch by the number of the global batch: over ranks and
    accumulation steps, tokens count alike wherever they are.
    """
    return errors(prediction, pack).sum(), pack.real.sum()


def by_quartile(error: Tensor, pack: Noised, layout: Layout) -> tuple[Tensor, Tensor]:
    """(sums, numbers) of the errors of real tokens by their level: below 0.25, 0.5, 0.75, the rest.

    Args:
        error: (N,), of `errors`.

    Returns:
        each (4,); float like `error`, and int64.
    """
    quarter = (pack.level * 4).long().clamp(0, 3)[layout.frame]
    hit = (quarter[:, None] == torch.arange(4, device=quarter.device)) & pack.real[:, None]
    return torch.where(hit, error.detach()[:, None], 0).sum(0), hit.sum(0)
