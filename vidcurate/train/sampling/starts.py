"""What sampling starts from in each mode: known latent frames, and how much of each is made anew.

All modes are one mechanism (see `tau`); what is here lays the known frames out in time. `rate` is
of latent frames per second. What is known must be whole latent frames: a causal VAE's code of a
clip's tail depends on the frames before it, so a last frame that is given is encoded alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.train.tau import tau_for


@dataclass(frozen=True)
class Start:
    """One clip to be sampled, of T latent frames.

    latent: (T, C, H, W); frames of tau 0 are in the result bit for bit, those of tau 1 are not
    looked at. times: float64 (T,), seconds from its first frame. tau: float64 (T,), in 0..1.
    """

    latent: Tensor
    times: Tensor
    tau: Tensor


def _start(latent: Tensor, rate: float, tau: Tensor) -> Start:
    return Start(latent, torch.arange(len(latent), dtype=torch.float64) / rate, tau)


def _blank(frames: int, like: Tensor) -> Tensor:
    """Frames that are not looked at, of the size of (T, C, H, W)."""
    if frames < 1:
        raise UserError(f"at least 1 new latent frame, not {frames}")
    return like.new_zeros(frames, *like.shape[1:])


def text_to_video(shape: tuple[int, int, int, int], rate: float) -> Start:
    """All of (T, C, H, W) is generated; T = 1 is text to image."""
    return _start(torch.zeros(shape), rate, tau_for("text_to_video", shape[0]))


def image_to_video(picture: Tensor, frames: int, rate: float) -> Start:
    """`frames` frames, of which the first is the picture (C, H, W)."""
    return forward(picture[None], frames - 1, rate)


def forward(clip: Tensor, frames: int, rate: float) -> Start:
    """`frames` new frames after those of the clip (T, C, H, W).

    Give no more of a long clip than its end, with room left in the length that the model knows.
    """
    latent = torch.cat([clip, _blank(frames, clip)])
    return _start(latent, rate, tau_for("forward", len(latent), keep=len(clip)))


def backward(clip: Tensor, frames: int, rate: float) -> Start:
    """`frames` new frames before those of the clip (T, C, H, W)."""
    latent = torch.cat([_blank(frames, clip), clip])
    return _start(latent, rate, tau_for("backward", len(latent), keep=len(clip)))


def join(first: Tensor, second: Tensor, frames: int, rate: float) -> Start:
    """`frames` new frames between the end of one clip and the start of another, (T, C, H, W).

    From a clip's end to its own start they make a loop, which plays round without a jump.
    """
    same_size([first, second])
    latent = torch.cat([first, _blank(frames, first), second])
    tau = torch.zeros(len(latent), dtype=torch.float64)
    tau[len(first) : len(first) + frames] = 1
    return _start(latent, rate, tau)


def interpolate(keys: Tensor, between: int, rate: float) -> Start:
    """`between` new frames after each of the key frames (K, C, H, W) but the last.

    `rate` is of the result.
    """
    if len(keys) < 2 or between < 1:
        raise UserError(
            f"interpolate: at least 2 key frames (not {len(keys)}), and 1 frame between them "
            f"(not {between})"
        )
    every = between + 1
    latent = _blank((len(keys) - 1) * every + 1, keys)
    latent[::every] = keys
    return _start(latent, rate, tau_for("interpolate", len(latent), every=every))


def edit(clip: Tensor, strength: float, rate: float) -> Start:
    """All frames of the clip (T, C, H, W), of which `strength` (0..1) is made anew (SDEdit)."""
    return _start(clip, rate, tau_for("edit", len(clip), strength=strength))


def blend(first: Tensor, second: Tensor, overlap: int, rate: float, strength: float = 0.8) -> Start:
    """One clip that goes over into another, of which `overlap` frames are both.

    These begin as a cross-fade, of which `strength` is made anew; the others are kept.
    """
    same_size([first, second])
    if not 1 <= overlap <= min(len(first), len(second)):
        raise UserError(
            f"blend: an overlap of 1 to {min(len(first), len(second))} latent frames, not {overlap}"
        )
    share = (torch.arange(overlap, device=first.device) + 1) / (overlap + 1)
    share = share.to(first.dtype)[:, None, None, None]
    faded = first[-overlap:] * (1 - share) + second[:overlap] * share
    latent = torch.cat([first[:-overlap], faded, second[overlap:]])
    tau = torch.zeros(len(latent), dtype=torch.float64)
    tau[len(first) - overlap : len(first)] = tau_for("edit", overlap, strength=strength)
    return _start(latent, rate, tau)


def fill_gaps(
    sampler: Callable[[Sequence[Start], Sequence[str], Sequence[int]], list[Tensor]],
    prompt: str,
    keys: Tensor,
    between: int,
    rate: float,
    seed: int,
    at_once: int = 8,
) -> Tensor:
    """A long video from key frames: each gap is sampled by itself, its ends kept.

    A video of any length is made from coarse to fine (NUWA-XL, arXiv 2303.12346): sample a clip at
    a low rate, fill its gaps, then those of the result at a higher `rate`, and so on.

    Args:
        keys: (K, C, H, W), one after another in time.
        between: new frames in each gap. rate: latent frames per second of the result.
        at_once: gaps in a pack.

    Returns:
        ((K - 1) * (between + 1) + 1, C, H, W).
    """
    gaps = [interpolate(keys[i : i + 2], between, rate) for i in range(len(keys) - 1)]
    if not gaps:
        raise UserError("fill_gaps: at least 2 key frames")
    parts = []
    for begin in range(0, len(gaps), at_once):
        some = gaps[begin : begin + at_once]
        seeds = [seed + begin + i for i in range(len(some))]
        parts += [part[:-1] for part in sampler(some, [prompt] * len(some), seeds)]
    return torch.cat([*parts, keys[-1:].to(parts[0])])


def same_size(clips: Sequence[Tensor]) -> None:
    if len({clip.shape[1:] for clip in clips}) != 1:
        sizes = " and ".join(str(tuple(clip.shape[1:])) for clip in clips)
        raise UserError(f"latent frames (channels, height, width) of one size, not {sizes}")
