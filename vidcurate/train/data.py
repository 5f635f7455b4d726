"""Shards to what the trainer's loop takes: clips at sizes of whole patches, in packs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcurate.shards import (
    Batch,
    BatchPlan,
    BucketBatches,
    NativeLimit,
    Shapes,
    ShardDataset,
    TokenPacks,
)
from vidcurate.shards.tar_samples import DERIVED_SUFFIX
from vidcurate.train.codes import NO_CODES, PIXELS, Codes
from vidcurate.train.config import Data
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.flops import Compression, cost, tokens
from vidcurate.train.model.layout import Patch
from vidcurate.train.resize import Resize


def dataset(
    data: Data,
    model: ModelConfig,
    codes: Codes = NO_CODES,
    *,
    split: Literal["train", "val", "all"],
    workers: int | None = None,
) -> ShardDataset:
    """This rank's batches of clips. For "val" they come in the index's order, all with captions.

    Those of precached sets hold the bytes of each sample; else pixels, of sizes that `codes` asks.

    Raises:
        UserError: no samples, or a clip of more tokens than the budget, or none of a patch's size.
        RunDirectoryError: no index.
    """
    resize = resize_of(data, model, codes.compression)
    cached = codes.sets is not None
    counted, priced = tokens(model, codes.compression), cost(model, codes.compression)

    def length(shapes: Shapes) -> npt.NDArray[np.int64]:
        return counted(shapes if cached else resize.shapes(shapes))

    def price(shapes: Shapes) -> npt.NDArray[np.float64]:
        return priced(shapes if cached else resize.shapes(shapes))

    plan: BatchPlan
    if data.batching == "pack":
        plan = TokenPacks(data.budget, length, price, too_long=data.too_long)
    else:
        plan = BucketBatches(data.batch, price)
    what: dict[str, Any] = {
        "fit": resize,
        "native": NativeLimit(data.native.short_side, data.native.frames),
    }
    if cached:
        what = {"decode": None, "members": [DERIVED_SUFFIX]}
    return ShardDataset(
        data.shards if codes.sets is None else codes.sets,
        batch=plan,
        split=None if split == "all" else split,
        buckets=data.buckets,
        captions=data.rendered(drop=split != "val"),
        seed=data.seed,
        shuffle=split != "val",
        workers=data.workers if workers is None else workers,
        **what,
    )


def resize_of(data: Data, model: ModelConfig, compression: Compression = PIXELS) -> Resize:
    """How clips are brought to whole patches of this model, or of its VAE's latents."""
    size = data.resize
    return Resize(model.patch, size.short_side, size.frames, compression, size.step)


def endless(dataset: ShardDataset) -> Generator[Batch, None, None]:
    """The batches of one epoch after the other."""
    while True:
        yield from dataset


Last = Callable[[int], tuple[Tensor, Tensor]]


@dataclass
class Clips:
    """One pack of S clips.

    ids, captions: of each. latents: float32 (T, C, H, W), of a VAE, or RGB in -1..1. times: float64
    (T,), seconds from its first frame. weight: float32 (S,), 0 only where a rank has no work and
    still takes part. seconds: of video.
    texts: rows (L, width) of each, of a frozen encoder; None where the model reads the captions.
    last: of latents that are chained (see `Codes`): last(i) is the last frame of clip i encoded
    alone, (1, C, H, W), and its time, float64 (1,).
    """

    ids: list[str]
    captions: list[str]
    latents: list[Tensor]
    times: list[Tensor]
    weight: Tensor
    seconds: float
    texts: list[Tensor] | None = None
    last: Last | None = None


def slots(batch: Batch) -> list[int]:
    """Places of a batch that can be learnt from."""
    return [i for i, weight in enumerate(batch.weight.tolist()) if weight > 0]


def clips(batch: Batch, patch: Patch) -> Clips:
    """The clips of a batch that can be learnt from, in pixels; without one, a blank one."""
    real = slots(batch)
    if not real:
        return blank(patch)
    found = [pixels(batch, i) for i in real]
    return Clips(
        [batch.sample_ids[i] for i in real],
        [batch.captions[i] for i in real],
        [video for video, _ in found],
        [times for _, times in found],
        torch.ones(len(real)),
        sum(seconds_of(times) for _, times in found),
    )


def pixels(batch: Batch, slot: int) -> tuple[Tensor, Tensor]:
    """A clip of a batch: float32 (T, 3, H, W), RGB in -1..1, and times float64 (T,) from 0."""
    assert batch.times is not None
    own = batch.times[slot]
    return batch.video[slot].float() / 127.5 - 1, torch.from_numpy(own - own[0])


def blank(patch: Patch, channels: int = 3, text_width: int | None = None) -> Clips:
    """A clip of one token and one row of text, of weight 0: for a rank without work."""
    frames, height, width = patch
    return Clips(
        [""],
        [""],
        [torch.zeros(frames, channels, height, width)],
        [torch.zeros(frames, dtype=torch.float64)],
        torch.zeros(1),
        0.0,
        None if text_width is None else [torch.zeros(1, text_width)],
    )


def rate_of(times: Tensor, along: int = 1) -> float:
    """Frames of video a second, of the times (T,) of latent frames of `along` frames each but the
    first; 1 of a picture, or where there are no times."""
    if len(times) < 2 or times[-1] <= times[0]:
        return 1.0
    # The last latent frame stands in the middle of its frames.
    steps = along * (len(times) - 1) - (along - 1) / 2
    return float(steps / (times[-1] - times[0]))


def seconds_of(times: Tensor, along: int = 1) -> float:
    """Seconds of video in such latent frames; 0 of a picture."""
    frames = 1 + along * (len(times) - 1)
    return frames / rate_of(times, along) if frames > 1 else 0.0
