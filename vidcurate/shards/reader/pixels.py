"""Frames and pixels of video tensors: what the transforms are made of.

Tensors are (..., frames, 3, height, width), uint8 or float. Results agree with those of
torchvision.transforms.v2.functional; the input is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidcurate.errors import UserError

if TYPE_CHECKING:
    import torch


def uniform_temporal_subsample(video: torch.Tensor, frames: int) -> torch.Tensor:
    """`frames` frames at even distances, the first and the last among them (one: the first).

    Raises:
        UserError: the clip has fewer.
    """
    import torch

    have = _frames(video)
    if have < frames:
        raise UserError(
            f"a clip of {have} frames has no {frames}; ask for at most {have}, or read buckets "
            f"of {frames} frames and more"
        )
    places = torch.linspace(0, have - 1, frames, device=video.device).long()
    return video.index_select(-4, places)


def temporal_subsample(video: torch.Tensor, step: int) -> torch.Tensor:
    """Every step-th frame, the first one first: 97 frames at step 2 are 49."""
    _frames(video)
    return video[..., ::step, :, :, :]


def resize(video: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear with anti-aliasing; integers are rounded."""
    import torch
    from torch.nn.functional import interpolate

    if size_of(video) == (height, width):
        return video
    frames = video.reshape(-1, *video.shape[-3:])
    # Off the CPU torch has no kernel for integers.
    native = video.is_floating_point() or video.device.type == "cpu"
    made = interpolate(
        frames if native else frames.to(torch.float32),
        size=(height, width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    if not native:
        made = made.round_().clamp_(0, 255).to(video.dtype)
    return made.reshape(*video.shape[:-2], height, width)


def short_side_scale(video: torch.Tensor, size: int) -> torch.Tensor:
    """Scaled so that the shorter side has `size` pixels; the longer one is rounded down."""
    height, width = size_of(video)
    if height <= width:
        return resize(video, size, size * width // height)
    return resize(video, size * height // width, size)


def crop(video: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """That part of every frame.

    Raises:
        UserError: it is not within the picture.
    """
    high, wide = size_of(video)
    if not (0 <= top <= high - height and 0 <= left <= wide - width):
        raise UserError(
            f"a crop of {width}x{height} at ({left}, {top}) is not within a picture of "
            f"{wide}x{high}; scale first (ShortSideScale), or crop less"
        )
    return video[..., top : top + height, left : left + width]


def center_crop(video: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of every frame.

    Raises:
        UserError: the picture is smaller.
    """
    high, wide = size_of(video)
    # Half a pixel goes to the even place, as in torchvision.
    return crop(video, round((high - height) / 2), round((wide - width) / 2), height, width)


def horizontal_flip(video: torch.Tensor) -> torch.Tensor:
    """Left and right exchanged."""
    return video.flip(-1)


def normalize(video: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(value - mean) / std of each of the three channels.

    Raises:
        UserError: a video of integers.
    """
    if not video.is_floating_point():
        raise UserError(f"Normalize takes floats, not {video.dtype}: put ToFloat before it")
    shape = (3, 1, 1)
    return video.sub(video.new_tensor(mean).view(shape)).div_(video.new_tensor(std).view(shape))


def to_float(video: torch.Tensor, *, signed: bool = False) -> torch.Tensor:
    """uint8 to float32: 0 to 1, or -1 to 1 where signed.

    Raises:
        UserError: a video that is not uint8.
    """
    import torch

    if video.dtype != torch.uint8:
        raise UserError(f"ToFloat takes uint8, not {video.dtype}: it stands once, at the change")
    if signed:
        return video.to(torch.float32).mul_(2 / 255).sub_(1)
    return video.to(torch.float32).mul_(1 / 255)


def _frames(video: torch.Tensor) -> int:
    size_of(video)
    if video.ndim < 4:
        raise UserError(f"frames are taken of a clip (frames, 3, height, width), {_is(video)}")
    return int(video.shape[-4])


def size_of(video: torch.Tensor) -> tuple[int, int]:
    """Height and width; refuses what is no video."""
    if video.ndim < 3 or video.shape[-3] != 3:
        raise UserError(f"a clip is a tensor (frames, 3, height, width), {_is(video)}")
    return int(video.shape[-2]), int(video.shape[-1])


def _is(video: torch.Tensor) -> str:
    hint = "; move the channels: video.movedim(-1, -3)" if video.shape[-1] == 3 else ""
    return f"not {tuple(video.shape)}{hint}"
