"""Starts of frames through the sampler, in packs; and clips that take more than one pass of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vidcurate.errors import DataError, UserError
from vidcurate.nearest import suggest
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.coding import Coding
from vidcurate.train.sampling.modes import Room, Wish, keys_of, seen
from vidcurate.train.sampling.sampler import Sampler
from vidcurate.train.sampling.starts import Start

Device = Literal["auto", "cpu", "cuda"]
Solver = Literal["euler", "heun"]
Precision = Literal["auto", "bf16", "fp32"]

_LEVEL = 10_007  # to the seed of the next finer level of a long video


@dataclass(frozen=True)
class How:
    """How clips are sampled; steps, guidance, solver and negative as of `Sampler`.

    precision: "bf16" by autocast; "auto": that on a GPU. at_once: clips in one pack.

    Raises:
        UserError: a device, solver or precision that there is not.
    """

    steps: int = 50
    guidance: float = 4.0
    solver: Solver = "euler"
    negative: str = ""
    device: Device = "auto"
    precision: Precision = "auto"
    at_once: int = 8

    def __post_init__(self) -> None:
        for name, known in (("device", Device), ("solver", Solver), ("precision", Precision)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise UserError(f"no {name} {value!r}{suggest(str(value), get_args(known))}")

    @staticmethod
    def of(**settings: Any) -> How:
        """Of settings by name, from people."""
        return How(**settings)


@dataclass(frozen=True)
class Packs:
    """Starts of frames through the sampler, some in each pack."""

    sampler: Sampler
    coding: Coding
    device: torch.device
    how: How

    def __call__(
        self, begun: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        """Clips (T, 3, H, W); one start may stand for all prompts."""
        if len(begun) == 1:
            begun = list(begun) * len(prompts)
        made: list[Tensor] = []
        for at in range(0, len(begun), self.how.at_once):
            some = slice(at, at + self.how.at_once)
            made += self.coding.sample(self._computed, begun[some], prompts[some], seeds[some])
        return made

    def _computed(
        self, begun: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        half = self.how.precision == "bf16" or (
            self.how.precision == "auto" and self.device.type == "cuda"
        )
        autocast = torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()
        try:
            with autocast:
                return self.sampler(begun, prompts, seeds)
        except DataError as error:
            raise UserError(str(error)) from error


def interpolated(
    packs: Packs,
    wish: Wish,
    room: Room,
    between: int | None,
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> list[Tensor]:
    """Key frames, and new ones between; in one clip where the model knows such a length."""
    starts.same_size(wish.given)
    keys = seen(torch.cat(list(wish.given)))
    if len(keys) < 2:
        raise UserError("interpolate: one picture has nothing after it: give --from once more")
    # Between pictures a clip of the usual length; between frames of a video as few as can be.
    usual = room if len(wish.given) > 1 else Room(1, room.every)
    count = usual.new("interpolate", between, 2, after=True, before=True)
    if room.every == 1 and len(keys) + (len(keys) - 1) * count <= room.frames:
        return packs([starts.interpolate(keys, count, wish.fps)], prompts, seeds)
    return [
        starts.fill_gaps(packs, prompt, keys, count, wish.fps, seed, packs.how.at_once)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def long(
    packs: Packs, wish: Wish, room: Room, prompts: Sequence[str], seeds: Sequence[int]
) -> list[Tensor]:
    """From coarse to fine: a clip of key frames, then the gaps between them, and theirs."""
    frames = wish.frames or 4 * room.frames
    keys, step, levels = room.levels(frames)
    rate = wish.fps / step**levels
    if wish.given:
        start = starts.image_to_video(seen(wish.given[0][0]), keys, rate)
    else:
        start = starts.text_to_video((keys, 3, wish.size[1], wish.size[0]), rate)
    clips = packs([start], prompts, seeds)
    for level in reversed(range(levels)):
        needed = keys_of(frames, step ** (level + 1))
        fill = partial(starts.fill_gaps, packs, between=step - 1, rate=wish.fps / step**level)
        clips = [
            fill(prompt, clip[:needed], seed=seed + _LEVEL * (level + 1), at_once=packs.how.at_once)
            for prompt, seed, clip in zip(prompts, seeds, clips, strict=True)
        ]
    return [clip[:frames] for clip in clips]
