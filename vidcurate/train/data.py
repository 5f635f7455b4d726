"""Shards to what the trainer's loop takes: clips at sizes of whole patches, in packs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.shards import (
    Batch,
    BatchPlan,
    BucketBatches,
    NativeLimit,
    Shapes,
    ShardDataset,
    TokenPacks,
)
from vidcurate.train.config import Data
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.flops import cost, tokens
from vidcurate.train.model.layout import Patch


@dataclass(frozen=True)
class Resize:
    """Scales clips down, and to whole patches; travels to the reader's workers.

    short_side: pixels at most. frames: at most, every n-th of more. None: no limit. Pictures are
    never enlarged.

    Raises:
        UserError: from `shapes`, a clip smaller than one patch.
    """

    patch: Patch
    short_side: int | None = None
    frames: int | None = None

    def shapes(self, shapes: Shapes) -> Shapes:
        """What clips of some shapes become."""
        pt, ph, pw = self.patch
        least = np.minimum(shapes.height, shapes.width)
        scale = np.minimum(1.0, (self.short_side or least) / least)
        # rounding: 64 / 96 * 96 must not be 63
        height = (shapes.height * scale / ph + 1e-6).astype(np.int32) * ph
        width = (shapes.width * scale / pw + 1e-6).astype(np.int32) * pw
        frames = np.minimum(shapes.frames, self.frames or shapes.frames) // pt * pt
        small = np.flatnonzero((height == 0) | (width == 0) | (frames == 0))
        if small.size:
            at = int(small[0])
            raise UserError(
                f"a clip of {shapes.frames[at]} frames of {shapes.width[at]}x{shapes.height[at]} "
                f"pixels is smaller than one patch {self.patch}, as {small.size} of {len(shapes)} "
                "are; set a smaller model.patch, larger data.resize, or leave these out by "
                "data.buckets"
            )
        return replace(shapes, frames=frames, height=height, width=width)

    def chosen(self, frames: int) -> slice:
        """Which frames are taken of so many."""
        keep = min(frames, self.frames or frames) // self.patch[0] * self.patch[0]
        step = frames // keep
        return slice(0, keep * step, step)

    def __call__(self, video: Tensor) -> Tensor:
        """uint8 (frames, 3, height, width) of another size."""
        video = video[self.chosen(len(video))]
        frames, _, height, width = video.shape
        one = np.ones(1, np.int32)
        made = self.shapes(
            Shapes(one * frames, one * height, one * width, np.zeros(1), np.zeros(1, np.int16), ())
        )
        size = int(made.height[0]), int(made.width[0])
        if size == (height, width):
            return video
        return torch.nn.functional.interpolate(video, size, mode="bilinear", antialias=True)


def dataset(
    data: Data,
    model: ModelConfig,
    *,
    split: Literal["train", "val", "all"],
    workers: int | None = None,
) -> ShardDataset:
    """This rank's batches of clips. For "val" they come in the index's order, all with captions.

    Raises:
        UserError: no samples, or a clip of more tokens than the budget, or none of a patch's size.
        RunDirectoryError: no index.
    """
    resize = resize_of(data, model)
    counted, priced = tokens(model), cost(model)

    def length(shapes: Shapes) -> npt.NDArray[np.int64]:
        return counted(resize.shapes(shapes))

    def price(shapes: Shapes) -> npt.NDArray[np.float64]:
        return priced(resize.shapes(shapes))

    plan: BatchPlan
    if data.batching == "pack":
        plan = TokenPacks(data.budget, length, price, too_long=data.too_long)
    else:
        plan = BucketBatches(data.batch, price)
    return ShardDataset(
        data.shards,
        batch=plan,
        split=None if split == "all" else split,
        buckets=data.buckets,
        captions=data.rendered(drop=split != "val"),
        transform=resize,
        native=NativeLimit(data.native.short_side, data.native.frames),
        seed=data.seed,
        shuffle=split != "val",
        workers=data.workers if workers is None else workers,
    )


def resize_of(data: Data, model: ModelConfig) -> Resize:
    """How clips are brought to whole patches of this model."""
    return Resize(model.patch, data.resize.short_side, data.resize.frames)


def endless(dataset: ShardDataset) -> Generator[Batch, None, None]:
    """The batches of one epoch after the other."""
    while True:
        yield from dataset


@dataclass
class Clips:
    """One pack of S clips.

    ids, captions: of each. latents: float32 (T, C, H, W), RGB in -1..1. times: float64 (T,),
    seconds from its first frame. weight: float32 (S,), 0 only where a rank has no work and still
    takes part. seconds: of video.
    """

    ids: list[str]
    captions: list[str]
    latents: list[Tensor]
    times: list[Tensor]
    weight: Tensor
    seconds: float


def clips(batch: Batch, resize: Resize) -> Clips:
    """The clips of a batch that can be learnt from; without one, its smallest, with weight 0."""
    assert batch.times is not None
    slots = [i for i, weight in enumerate(batch.weight.tolist()) if weight > 0]
    real = bool(slots)
    if not real:
        slots = [min(range(len(batch)), key=lambda i: batch.video[i].numel())]
    latents, times, seconds = [], [], 0.0
    for i in slots:
        video = batch.video[i]
        latents.append(video.float() / 127.5 - 1)
        if real:
            own = batch.times[i][resize.chosen(len(batch.times[i]))]
            at = torch.from_numpy(own - own[0])
        else:
            at = torch.zeros(len(video), dtype=torch.float64)
        times.append(at)
        if len(at) > 1:
            seconds += float(at[-1] - at[0]) * len(at) / (len(at) - 1)
    return Clips(
        [batch.sample_ids[i] for i in slots],
        [batch.captions[i] for i in slots],
        latents,
        times,
        torch.full((len(slots),), float(real)),
        seconds if real else 0.0,
    )
