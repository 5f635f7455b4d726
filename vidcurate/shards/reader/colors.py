"""Colour of video tensors (..., 3, height, width), as torchvision.transforms.v2 changes it.

uint8 (0 to 255) or float (0 to 1); the type stays, the input too. Integers are truncated, not
rounded, as there. The luma weights are those of ITU-R BT.601, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LUMA = (0.2989, 0.587, 0.114)


def adjust_brightness(video: torch.Tensor, factor: float) -> torch.Tensor:
    """Every value times factor (>= 0): 0 is black, 1 changes nothing."""
    return video.mul(factor).clamp_(0, _top(video)).to(video.dtype)


def adjust_contrast(video: torch.Tensor, factor: float) -> torch.Tensor:
    """Each frame's distance from its mean luma times factor (>= 0): 0 is flat grey."""
    return _blend(video, _luma(video).mean(dim=(-3, -2, -1), keepdim=True), factor)


def adjust_saturation(video: torch.Tensor, factor: float) -> torch.Tensor:
    """Each pixel's distance from its luma times factor (>= 0): 0 is black and white."""
    return _blend(video, _luma(video), factor)


def adjust_hue(video: torch.Tensor, turn: float) -> torch.Tensor:
    """Hue turned by that share of the circle, -0.5 to 0.5; greys stay.

    Works on one frame after the other: the intermediate values of a whole clip take many times
    its memory.
    """
    import torch

    frames = video.reshape(-1, *video.shape[-3:])
    turned = torch.empty_like(frames)
    for frame, out in zip(frames, turned, strict=True):
        out.copy_(_turn_hue(frame, turn))
    return turned.reshape(video.shape)


def _turn_hue(frame: torch.Tensor, turn: float) -> torch.Tensor:
    """One frame (3, height, width), through hue and chroma (Smith 1978, "HSV")."""
    import torch

    pixels = frame if frame.is_floating_point() else frame.to(torch.float32).mul_(1 / 255)
    red, green, blue = pixels
    low, value = torch.aminmax(pixels, dim=0)
    chroma = value - low
    range_ = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / range_,
        torch.where(value == green, (blue - red) / range_ + 2, (red - green) / range_ + 4),
    )
    hue = hue.add_(6 * turn)  # in sixths of the circle; below, k is where each channel stands
    channels = []
    for place in (5, 3, 1):
        k = hue.add(place).remainder_(6)
        channels.append(value - torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma))
    made = torch.stack(channels)
    if frame.is_floating_point():
        return made.clamp_(0, 1)
    return made.mul_(255.999).to(frame.dtype)  # as v2: equal shares of 0..1 to the 256 values


def _top(video: torch.Tensor) -> float:
    return 1.0 if video.is_floating_point() else 255.0


def _luma(video: torch.Tensor) -> torch.Tensor:
    """Float (..., 1, height, width), of whole numbers where the video is of integers."""
    red, green, blue = video.unbind(dim=-3)
    luma = red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze(-3)
    return luma if video.is_floating_point() else luma.floor_()


def _blend(video: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """share of the video and the rest of the other, within the values that there are."""
    mixed = video.mul(share).add_(other, alpha=1 - share)
    return mixed.clamp_(0, _top(video)).to(video.dtype)
