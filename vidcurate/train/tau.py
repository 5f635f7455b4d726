"""The start-noise vector tau: for each latent frame, how much of it is made anew.

0 keeps the frame, 1 generates it, a number between edits it. At time t of a sample (1: noise,
0: data) frame f has the noise level tau[f] * t, in training and in sampling alike. Which frames
are kept is all that tells image-to-video from extension, joining or interpolation, so one model
trained on a mix of such vectors does them all. Kept frames stand clean in the sequence at level 0,
as in Open-Sora 1.2's masks; levels that differ from frame to frame are those of Diffusion Forcing
(arXiv 2407.01392).

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from vidcurate.errors import UserError

if TYPE_CHECKING:
    import torch

Kind = Literal["image_to_video", "forward", "backward", "join", "interpolate", "random", "edit"]
"""What a masked sample of training is trained for; `tau_for` has the first five and the last."""

FEWEST: dict[Kind, int] = {
    "image_to_video": 2,
    "forward": 2,
    "backward": 2,
    "join": 3,
    "interpolate": 3,
    "random": 2,
    "edit": 2,
}
"""Latent frames that a clip must have for a kind to mean something."""

DEFAULT_WEIGHTS: dict[Kind, float] = {
    "image_to_video": 3,
    "forward": 2,
    "backward": 1,
    "join": 1,
    "interpolate": 1,
    "random": 1,
    "edit": 1,
}


def draw_tau(
    weights: Mapping[Kind, float],
    frames: int,
    generator: torch.Generator,
    *,
    masked: float = 0.25,
) -> torch.Tensor:
    """The start-noise vector of one sample in training.

    Args:
        weights: of the kinds among the masked samples. Those that `frames` are too few for are
            left out of the draw; where none fits (an image), everything is generated.
        frames: latent frames of the sample.
        generator: on the CPU.
        masked: share of samples that are masked at all; the others are generated whole.

    Returns:
        float64 (frames,). At least one frame is above 0; unless all are 1 or the kind is "edit",
        at least one is 0.
    """
    import torch

    everything = torch.ones(frames, dtype=torch.float64)
    fitting = [kind for kind, weight in weights.items() if weight > 0 and frames >= FEWEST[kind]]
    if not fitting or torch.rand((), generator=generator).item() >= masked:
        return everything

    def count(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator).item())

    shares = torch.tensor([float(weights[kind]) for kind in fitting], dtype=torch.float64)
    kind = fitting[int(torch.multinomial(shares, 1, generator=generator).item())]
    tau = everything
    if kind == "image_to_video":
        tau[0] = 0
    elif kind == "forward":
        tau[: count(1, frames - 1)] = 0
    elif kind == "backward":
        tau[frames - count(1, frames - 1) :] = 0
    elif kind == "join":
        most = (frames - 1) // 2
        tau[: count(1, most)] = 0
        tau[frames - count(1, most) :] = 0
    elif kind == "interpolate":
        tau[:: count(2, frames - 1)] = 0
    elif kind == "random":
        tau[torch.randperm(frames, generator=generator)[: count(1, frames - 1)]] = 0
    else:
        # 1 - rand: in (0, 1], as a level of 0 would say that the frame is kept
        tau = 1 - torch.rand(frames, dtype=torch.float64, generator=generator)
    return tau


def causal_weights(weights: Mapping[Kind, float], rows: int) -> dict[Kind, float]:
    """Weights of the kinds that can be trained on latents of a causal VAE that takes time.

    There the code of a frame depends on the frames before it. Frames that are kept in the middle
    ("interpolate", "random") would tell of those that are to be generated, so they get no weight.
    One that is kept at the end can be encoded alone (`tail_alone`); with a patch of more than one
    latent frame it cannot, and "backward" and "join" get no weight either.

    Args:
        rows: latent frames in a patch.
    """
    none: set[Kind] = {"interpolate", "random"}
    if rows > 1:
        none |= {"backward", "join"}
    return {kind: 0.0 if kind in none else weight for kind, weight in weights.items()}


def tail_alone(tau: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Tau (frames,) as latents of a causal VAE allow it, and whether its last frame stands alone.

    Of frames that are kept after one that is generated only the last stays, and its code must be
    that of the last frame of the video encoded alone; the others of the tail are generated.
    """
    made = tau > 0
    after = made.cumsum(0) > 0  # and of those the last may stay
    after[-1] = False
    return tau.masked_fill(after & ~made, 1.0), bool(made.any() and not made[-1])


def tau_for(
    kind: Kind | Literal["text_to_video"],
    frames: int,
    *,
    keep: int = 1,
    every: int = 4,
    strength: float = 0.6,
) -> torch.Tensor:
    """The start-noise vector that asks the sampler for something.

    Args:
        kind: "text_to_video": all new. "image_to_video": the first frame is given. "forward": the
            first `keep` frames are, "backward": the last, "join": `keep` at either end.
            "interpolate": each `every`-th frame, and the last. "edit": all frames, of which
            `strength` is made anew (SDEdit, arXiv 2108.01073).
        frames: latent frames.

    Returns:
        float64 (frames,).

    Raises:
        UserError: nothing would be kept or nothing generated.
    """
    import torch

    tau = torch.ones(frames, dtype=torch.float64)
    if kind == "text_to_video":
        return tau
    if kind == "edit":
        if not 0 < strength <= 1:
            raise UserError(f"edit: a strength above 0 and up to 1, not {strength}")
        return tau * strength
    if kind == "random":
        raise UserError('"random" masks are for training: name the frames to keep')
    if keep < 1 or every < 2:
        raise UserError(f"{kind}: keep at least 1 frame (not {keep}), every 2nd (not {every})")
    if kind == "image_to_video":
        tau[0] = 0
    elif kind == "interpolate":
        tau[::every] = 0
        tau[-1] = 0
    else:
        if kind in {"forward", "join"}:
            tau[:keep] = 0
        if kind in {"backward", "join"}:
            tau[-keep:] = 0
    if not bool(tau.any()):
        raise UserError(f"{kind}: all {frames} latent frames are kept; ask for more frames")
    return tau
