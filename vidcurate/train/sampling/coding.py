"""Starts of frames through a sampler of latents: encoded, sampled, decoded.

A VAE of single frames changes nothing but the size. A causal one, whose latent frame 0 is of frame
0 alone and each further one of `every` frames that depends on all before, says what can be kept:

- at the beginning 1 + every * k frames, which are encoded by themselves as they would be in front
  of any others;
- at the end one frame, encoded alone, as in training: the code of a tail depends on the frames
  before it, which are not known yet. Further frames that are kept after it are not looked at;
- nothing in the middle, for the same reason.

The last frame alone stands in the place of the last group, so nothing says yet what the
`every - 1` frames before it are. They are sampled in a second pass, after all that the first one
made: the group begins as a cross-fade to the last frame, of which `CLOSING` is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.models.vae import Vae, latent_times
from vidcurate.train.sampling.starts import Start

Sample = Callable[[Sequence[Start], Sequence[str], Sequence[int]], list[Tensor]]
"""Starts, prompts and seeds to the clips; as `Sampler`."""

CLOSING = 0.8
"""How much of the last group is made anew where the last frame is given."""
_AGAIN = 7_000_003  # to the seed of the second pass, whose noise is other noise


@dataclass(frozen=True)
class Coding:
    """Between frames (T, 3, H, W) in -1..1 and what the model knows.

    vae: None, where the model makes pixels.
    """

    vae: Vae | None = None

    @property
    def every(self) -> int:
        """Frames in a latent frame of a causal VAE; 1 where each frame stands for itself."""
        return self.vae.config.compression[0] if self.vae is not None else 1

    @property
    def scale(self) -> tuple[int, int]:
        """Rows and columns of video in one of the latent."""
        return self.vae.config.compression[1:] if self.vae is not None else (1, 1)

    def sample(
        self,
        sampler: Sample,
        starts: Sequence[Start],
        prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> list[Tensor]:
        """Clips of frames (T, 3, H, W) on the CPU, where the sampler makes latents.

        Args:
            starts: of frames on the CPU; those of tau 0 are in the result bit for bit.

        Raises:
            UserError: frames that the VAE cannot keep, or numbers of frames that do not fit it.
        """
        if self.vae is None:
            return [made.cpu() for made in sampler(starts, prompts, seeds)]
        if self.every == 1:
            coded = [self._single(start) for start in starts]
            made = sampler(coded, prompts, seeds)
            return [
                _put(start, self._decoded(latent[(start.tau > 0).to(latent.device)]))
                for start, latent in zip(starts, made, strict=True)
            ]
        chains = [self._chain(start) for start in starts]
        made = sampler([chain.start for chain in chains], prompts, seeds)
        open_ends = [i for i, chain in enumerate(chains) if chain.closed]
        if open_ends:
            again = sampler(
                [self._closing(chains[i], made[i].cpu()) for i in open_ends],
                [prompts[i] for i in open_ends],
                [seeds[i] + _AGAIN for i in open_ends],
            )
            for i, latent in zip(open_ends, again, strict=True):
                made[i] = latent
        clips = []
        for start, latent in zip(starts, made, strict=True):
            frames = self._decoded(latent)
            clips.append(_put(start, frames[start.tau[: len(frames)] > 0]))
        return clips

    def _encoded(self, frames: Tensor) -> Tensor:
        assert self.vae is not None
        return self.vae.encode(frames).cpu()

    def _decoded(self, latent: Tensor) -> Tensor:
        assert self.vae is not None
        return self.vae.decode(latent).cpu()

    def _blank(self, start: Start, rows: int) -> Tensor:
        assert self.vae is not None
        _, _, height, width = start.latent.shape
        down, across = self.scale
        return torch.zeros(rows, self.vae.config.channels, height // down, width // across)

    def _single(self, start: Start) -> Start:
        """Of a VAE of single frames; what is generated from nothing is not encoded."""
        known = start.tau < 1
        latent = self._blank(start, len(start.tau))
        if bool(known.any()):
            latent[known] = self._encoded(start.latent[known])
        return replace(start, latent=latent)

    def _chain(self, start: Start) -> _Chain:
        """Of a causal VAE: the first pass."""
        assert self.vae is not None
        every = self.every
        kept = (start.tau == 0).tolist()
        count = len(kept)
        head = kept.index(False)
        tail = kept[::-1].index(False)
        if any(kept[head : count - tail]):
            raise UserError(
                "sample: a causal VAE cannot keep frames in the middle of a clip, as their code "
                "depends on those before; fill the gaps between them one by one"
            )
        length = count - max(tail - 1, 0)
        if head and (head - 1) % every:
            raise UserError(
                f"sample: this model's VAE keeps 1 + {every} k frames at the beginning, not {head}"
            )
        if (length - 1) % every:
            raise UserError(
                f"sample: this model's VAE takes 1 + {every} k frames, not {length}: {head} that "
                f"are kept, {length - head - bool(tail)} new and {int(bool(tail))} at the end"
            )
        times = latent_times(start.times[:length], self.vae.config)
        first = Start(
            self._blank(start, len(times)),
            times.clone(),
            start.tau[:length:every].clone(),  # of the last in each group; groups are alike
        )
        frames = start.latent[:length]
        strength = float(start.tau[head])
        if strength < 1:  # an edit, or a cross-fade
            first.latent[:] = self._encoded(frames)
        elif head:
            first.latent[: 1 + (head - 1) // every] = self._encoded(frames[:head])
        begins = first.latent[-1:].clone()
        if tail:
            first.latent[-1:] = self._encoded(frames[-1:])
            first.times[-1] = start.times[length - 1]
            if not bool(first.tau.any()):
                raise UserError(
                    f"sample: this model's VAE needs {2 * every - 1} new frames before one that is "
                    f"given, not {length - head - 1}"
                )
        return _Chain(first, bool(tail), frames, times, begins, strength)

    def _closing(self, chain: _Chain, made: Tensor) -> Start:
        """The second pass: all is kept but the group that ends with the given frame."""
        tau = torch.zeros(len(chain.times), dtype=torch.float64)
        begins, tau[-1] = chain.begins, chain.strength
        if chain.strength == 1:  # nothing stands there yet
            tau[-1] = CLOSING
            frames = self._decoded(made[:-1])
            share = ((torch.arange(self.every) + 1) / self.every)[:, None, None, None]
            faded = frames[-1:] * (1 - share) + chain.frames[-1:] * share
            begins = self._encoded(torch.cat([frames, faded]))[-1:]
        return Start(torch.cat([made[:-1], begins]), chain.times, tau)


@dataclass(frozen=True)
class _Chain:
    """A clip of a causal VAE between its passes.

    start: of the first. closed: the last frame is given, and a second pass is needed. frames: of
    the clip, those up to the last that is looked at. times: of the latent frames in the second.
    begins: (1, C, h, w), what its last group begins as where `strength` is below 1.
    """

    start: Start
    closed: bool
    frames: Tensor
    times: Tensor
    begins: Tensor
    strength: float


def _put(start: Start, made: Tensor) -> Tensor:
    """The clip, with frames (made, 3, H, W) in place of those that were not kept."""
    clip = start.latent.clone()
    clip[start.tau > 0] = made
    return clip
