"""Transforms of decoded clips, as video trainers expect them: what pytorchvideo offered.

Functions and small callables on torch tensors (..., frames, 3, height, width), uint8 or float: the
layout of video in torchvision.transforms.v2, whose results these give (`UniformTemporalSubsample`,
`CenterCrop`, `ColorJitter` and others bear its names), so that both can stand in one Compose. A
random choice is one for all frames of a clip, drawn from torch's global generator, as there;
`seeded` makes it a function of a seed. The input is never changed.

Nothing is invented: where v2 pads (a crop larger than the picture) or repeats frames (more than
the clip has), these raise UserError.

None of this needs torchvision. torch is imported when a transform is called.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidcurate.errors import UserError
from vidcurate.shards.reader.colors import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from vidcurate.shards.reader.pixels import (
    center_crop,
    crop,
    horizontal_flip,
    normalize,
    resize,
    short_side_scale,
    size_of,
    temporal_subsample,
    to_float,
    uniform_temporal_subsample,
)

if TYPE_CHECKING:
    import torch

Transform = Callable[["torch.Tensor"], "torch.Tensor"]
_TRIES = 10  # of RandomResizedCrop, as in torchvision


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch (CPU), numpy and `random`, and give them their states back at the end.

    seed: any integer; its low 64 bits count, of which torch's CPU generator takes the low 32.
    The three states belong to the process: not for several threads at once. CUDA's generators are
    left alone. Where torch is not installed, only the other two are seeded.
    """
    try:
        from torch import default_generator as generator
    except ImportError:
        generator = None
    seed %= 2**64
    ours, numpys = random.getstate(), np.random.get_state()
    torchs = None if generator is None else generator.get_state()
    try:
        random.seed(seed)
        np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
        if generator is not None:
            generator.manual_seed(seed)
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        if generator is not None:
            generator.set_state(torchs)


@dataclass(frozen=True)
class Compose:
    """One after the other; any callables from tensor to tensor, torchvision's v2 among them."""

    transforms: Sequence[Transform]

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The video through all of them."""
        for transform in self.transforms:
            video = transform(video)
        return video


@dataclass(frozen=True)
class UniformTemporalSubsample:
    """See `uniform_temporal_subsample`."""

    frames: int

    def __post_init__(self) -> None:
        _positive(self, "frames", self.frames)

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """`frames` frames of the clip."""
        return uniform_temporal_subsample(video, self.frames)


@dataclass(frozen=True)
class TemporalSubsample:
    """See `temporal_subsample`."""

    step: int

    def __post_init__(self) -> None:
        _positive(self, "step", self.step)

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """Every step-th frame of the clip."""
        return temporal_subsample(video, self.step)


@dataclass(frozen=True)
class ShortSideScale:
    """See `short_side_scale`."""

    size: int

    def __post_init__(self) -> None:
        _positive(self, "size", self.size)

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The clip with a shorter side of `size`."""
        return short_side_scale(video, self.size)


@dataclass(frozen=True)
class RandomShortSideScale:
    """`short_side_scale` to a size from min_size to max_size, both included, all equally likely."""

    min_size: int
    max_size: int

    def __post_init__(self) -> None:
        _positive(self, "min_size", self.min_size)
        if self.max_size < self.min_size:
            raise UserError(f"{self}: max_size is at least min_size")

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The clip, scaled."""
        return short_side_scale(video, _integer(self.min_size, self.max_size))


@dataclass(frozen=True)
class CenterCrop:
    """See `center_crop`. size: pixels, (height, width) or one number for both."""

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        _positive(self, "size", *_pair(self.size))

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The middle of the clip."""
        return center_crop(video, *_pair(self.size))


@dataclass(frozen=True)
class RandomCrop:
    """A part of `size`, all places equally likely.

    size: pixels, (height, width) or one number for both.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        _positive(self, "size", *_pair(self.size))

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """A part of the clip.

        Raises:
            UserError: the picture is smaller.
        """
        return _crop_anywhere(video, *_pair(self.size))


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of random area and aspect, scaled to `size`: "Inception" cropping.

    As torchvision draws it: Szegedy et al. 2015, "Going deeper with convolutions".

    size: pixels, (height, width) or one number for both. scale: shares of the picture's area, low
    and high. ratio: width over height of the part before it is scaled, low and high, drawn evenly
    on a log scale. Where 10 draws do not fit into the picture, its middle is taken, at the nearest
    aspect within `ratio`.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _positive(self, "size", *_pair(self.size))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"{self}: scale is (low, high), shares of the area above 0, up to 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"{self}: ratio is (low, high), both above 0")

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """A part of the clip at the new size."""
        high, wide = size_of(video)
        low, top = self.ratio
        for _ in range(_TRIES):
            area = high * wide * _uniform(*self.scale)
            ratio = math.exp(_uniform(math.log(low), math.log(top)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= wide and 0 < height <= high:
                part = _crop_anywhere(video, height, width)
                break
        else:
            ratio = min(max(wide / high, low), top)
            part = center_crop(
                video, min(high, round(wide / ratio)), min(wide, round(high * ratio))
            )
        return resize(part, *_pair(self.size))


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Left and right exchanged with probability p. Not for clips with writing in them."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UserError(f"{self}: p is a probability, 0 to 1")

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The clip, or its mirror image."""
        return horizontal_flip(video) if _uniform(0, 1) < self.p else video


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, each by a random amount, in random order.

    brightness, contrast, saturation: factors drawn from 1 - x to 1 + x (not below 0), or from
    (low, high). hue: turn of the colour circle drawn from -x to x, or from (low, high), within
    -0.5 to 0.5. 0 leaves that one out. Floats must lie within 0 and 1: jitter before Normalize.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            low, high = _around(getattr(self, name), 1.0)
            if not (0 <= low <= high):
                raise UserError(f"{self}: {name} is a number, or (low, high), not below 0")
        low, high = _around(self.hue, 0.0)
        if not -0.5 <= low <= high <= 0.5:
            raise UserError(f"{self}: hue is a number up to 0.5, or (low, high) in -0.5 to 0.5")

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The clip in other colours.

        Raises:
            UserError: floats that are not within 0 and 1.
        """
        import torch

        if video.is_floating_point() and not (video.min() >= 0 and video.max() <= 1):
            raise UserError(
                "ColorJitter takes floats from 0 to 1; put it before Normalize and "
                "ToFloat(signed=True)"
            )
        size_of(video)
        order = torch.randperm(4).tolist()
        # Drawn in one order whatever comes first, and not at all where there is no choice.
        amounts = [
            None if low == high == center else _uniform(low, high)
            for (low, high), center in (
                (_around(self.brightness, 1.0), 1.0),
                (_around(self.contrast, 1.0), 1.0),
                (_around(self.saturation, 1.0), 1.0),
                (_around(self.hue, 0.0), 0.0),
            )
        ]
        adjust = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        for place in order:
            amount = amounts[place]
            if amount is not None:
                video = adjust[place](video, amount)
        return video


@dataclass(frozen=True)
class Normalize:
    """See `normalize`. mean, std: one number a channel; ImageNet's by default."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UserError(f"{self}: mean and std have 3 numbers each, those of std above 0")

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The clip, normalized."""
        return normalize(video, self.mean, self.std)


@dataclass(frozen=True)
class ToFloat:
    """See `to_float`. signed: -1 to 1, as video VAEs take it."""

    signed: bool = False

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """The clip as float32."""
        return to_float(video, signed=self.signed)


def _crop_anywhere(video: torch.Tensor, height: int, width: int) -> torch.Tensor:
    high, wide = size_of(video)
    top = _integer(0, max(0, high - height))
    return crop(video, top, _integer(0, max(0, wide - width)), height, width)


def _uniform(low: float, high: float) -> float:
    import torch

    return float(torch.empty(1).uniform_(low, high))


def _integer(low: int, high: int) -> int:
    """Any of low to high, both included."""
    import torch

    return int(torch.randint(low, high + 1, (1,)))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _around(amount: float | tuple[float, float], center: float) -> tuple[float, float]:
    """Low and high of what is drawn; of factors (center 1) low is not below 0."""
    if isinstance(amount, int | float):
        low = center - amount
        return (max(0.0, low) if center and amount >= 0 else low), center + amount
    return amount


def _positive(owner: object, name: str, *values: int) -> None:
    if any(value < 1 for value in values):
        raise UserError(f"{owner}: {name} is at least 1")
