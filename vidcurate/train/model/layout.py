"""Clips as one sequence of tokens, and what the model must know of each token.

Packs of samples at their native sizes follow NaViT ("Patch n' Pack", arXiv 2307.06304).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vidcurate.errors import DataError

Patch = tuple[int, int, int]
"""Latent frames, rows and columns in one token."""
Grid = tuple[int, int, int]
"""Tokens of a sample along time, height and width."""


@dataclass(frozen=True)
class Layout:
    """One pack of S samples, M frame rows and N tokens.

    A frame row is one step of tokens along the time of one sample (a latent frame, where a patch
    holds one): its tokens share a noise level. Tokens are ordered by sample, time, row, column.

    grids: of each sample. position: float32 (N, 3), seconds, row and column of each token: its
    middle, rows and columns counted in patches from the upper left corner. place: float32 (N, 2),
    how far down and across its picture that is, 0 to 1. frame: int64 (N,), its
    frame row. frame_sample: int64 (M,), the sample of each frame row. sample: int64 (N,).
    offsets: int32 (S + 1,), where each sample's tokens begin; text_offsets: int32 (S + 1,), where
    its rows of text begin, at least one each; set them by `with_text`.
    space_offsets: int32 (M + 1,), where the tokens of each frame row begin. time_order: int64 (N,),
    tokens ordered by sample, row, column, time; time_back: int64 (N,), its inverse; time_offsets:
    int32, where the tokens of each place begin in that order.
    text_longest: rows of the longest text. longest: tokens of the largest sample and of the largest
    frame row, and frame rows of the longest sample. Plain numbers: known without asking the device,
    and a compiled block, unlike with `grids`, serves every pack.
    """

    grids: list[Grid]
    position: Tensor
    place: Tensor
    frame: Tensor
    frame_sample: Tensor
    sample: Tensor
    offsets: Tensor
    text_offsets: Tensor
    space_offsets: Tensor
    time_order: Tensor
    time_back: Tensor
    time_offsets: Tensor
    longest: tuple[int, int, int]
    text_longest: int = 1

    def with_text(self, text_offsets: Tensor) -> Layout:
        """The same pack with the rows of text int32 (S + 1,) given to its samples."""
        lengths = text_offsets.diff()
        assert len(lengths) == len(self.grids), "one text a sample"
        assert int(lengths.min()) >= 1, "the empty prompt is one row of text at least"
        return replace(
            self,
            text_offsets=sent(text_offsets.to(self.offsets.dtype), self.offsets.device),
            text_longest=int(lengths.max()),
        )

    def to(self, device: torch.device | str) -> Layout:
        """The same pack with its tensors on `device`."""
        moved = {
            f.name: sent(value, device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def patchify(
    latents: Sequence[Tensor], times: Sequence[Tensor], patch: Patch
) -> tuple[Tensor, Layout]:
    """Tokens (N, pt * p * p * C) of latents (T, C, H, W), and their layout.

    Args:
        latents: of the samples of a pack, at least one, on one device and of one dtype.
        times: (T,) of each, seconds from the clip's first frame.
        patch: frames, rows, columns of a token.

    Raises:
        DataError: a latent has no whole number of patches.
    """
    tokens = []
    grids = []
    middles = []
    for latent, seconds in zip(latents, times, strict=True):
        t, h, w = grid = grid_of(latent.shape, patch)
        pt, ph, pw = patch
        cut = latent.reshape(t, pt, latent.shape[1], h, ph, w, pw)
        tokens.append(cut.permute(0, 3, 5, 1, 4, 6, 2).reshape(t * h * w, -1))
        grids.append(grid)
        middles.append(torch.as_tensor(seconds).reshape(t, pt).mean(dim=1))
    return torch.cat(tokens), lay_out(grids, middles).to(tokens[0].device)


def unpatchify(tokens: Tensor, layout: Layout, patch: Patch, channels: int) -> list[Tensor]:
    """Latents (T, C, H, W) of tokens (N, pt * p * p * C): the exact inverse of `patchify`."""
    pt, ph, pw = patch
    latents = []
    for (t, h, w), own in zip(
        layout.grids, tokens.split([math.prod(g) for g in layout.grids]), strict=True
    ):
        cut = own.reshape(t, h, w, pt, ph, pw, channels).permute(0, 3, 6, 1, 4, 2, 5)
        latents.append(cut.reshape(t * pt, channels, h * ph, w * pw))
    return latents


def grid_of(shape: Sequence[int], patch: Patch) -> Grid:
    """Tokens along time, height and width of a latent of shape (T, C, H, W).

    Raises:
        DataError: it has no whole number of patches.
    """
    size = (shape[0], shape[2], shape[3])
    if any(n < p or n % p for n, p in zip(size, patch, strict=True)):
        raise DataError(
            f"a latent of {size[0]} frames, {size[1]} rows and {size[2]} columns has no whole "
            f"number of patches {patch}; crop it to multiples of them, or set a smaller patch"
        )
    return size[0] // patch[0], size[1] // patch[1], size[2] // patch[2]


def lay_out(grids: Sequence[Grid], times: Sequence[Tensor]) -> Layout:
    """The layout of samples of some grids, on the CPU, with one row of text each.

    times: seconds of each of a sample's frame rows.
    """
    assert grids, "a pack holds a sample at least"
    frames = torch.tensor([t for t, _, _ in grids])
    area = torch.tensor([h * w for _, h, w in grids])
    count = frames * area
    row_area = area.repeat_interleave(frames)
    positions = []
    places = []
    orders = []
    start = 0
    for (t, h, w), seconds in zip(grids, times, strict=True):
        rows = torch.arange(h) + 0.5
        columns = torch.arange(w) + 0.5
        axes = torch.meshgrid(seconds.cpu().float(), rows, columns, indexing="ij")
        positions.append(torch.stack(axes, dim=-1).reshape(-1, 3))
        places.append(positions[-1][:, 1:] / torch.tensor([h, w]))
        own = torch.arange(start, start + t * h * w)
        orders.append(own.reshape(t, h * w).T.reshape(-1))
        start += t * h * w
    order = torch.cat(orders)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return Layout(
        grids=list(grids),
        position=torch.cat(positions),
        place=torch.cat(places),
        frame=torch.arange(len(row_area)).repeat_interleave(row_area),
        frame_sample=torch.arange(len(grids)).repeat_interleave(frames),
        sample=torch.arange(len(grids)).repeat_interleave(count),
        offsets=offsets_of(count),
        text_offsets=torch.arange(len(grids) + 1, dtype=torch.int32),
        space_offsets=offsets_of(row_area),
        time_order=order,
        time_back=back,
        time_offsets=offsets_of(frames.repeat_interleave(area)),
        longest=(int(count.max()), int(area.max()), int(frames.max())),
    )


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; to a GPU by pinned memory, so that nobody waits for what it is at."""
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def offsets_of(lengths: Tensor) -> Tensor:
    """int32 (G + 1,): where each of G groups begins, of their lengths (G,)."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)
