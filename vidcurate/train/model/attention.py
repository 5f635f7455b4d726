"""Attention within the groups of a pack: samples, frames, places, and a sample with its text."""

from __future__ import annotations

from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vidcurate.train.model.layout import Layout

Kind = Literal["full", "space", "time", "split"]

_ONE_KERNEL = ("cuda", "meta")  # meta: what a GPU would be asked can be looked at without one


class Groups(NamedTuple):
    """Groups of neighbouring rows.

    offsets: int32 (G + 1,), where each begins. longest: rows of the longest, or more.
    """

    offsets: Tensor
    longest: int


def samples(layout: Layout) -> Groups:
    """The tokens of each sample."""
    return Groups(layout.offsets, layout.longest[0])


def texts(layout: Layout) -> Groups:
    """The rows of text of each sample."""
    return Groups(layout.text_offsets, layout.text_longest)


def self_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, kind: Kind) -> Tensor:
    """Attention of the tokens (N, heads, width) of a pack to those that `kind` lets them see.

    full: their sample. space: their frame row. time: their place in all frame rows of the sample.
    split: the first half of the heads space, the second time.
    """
    if kind == "full":
        within = samples(layout)
        return grouped_attention(q, k, v, within, within)
    if kind == "space":
        within = Groups(layout.space_offsets, layout.longest[1])
        return grouped_attention(q, k, v, within, within)
    if kind == "time":
        within = Groups(layout.time_offsets, layout.longest[2])
        q, k, v = (x.index_select(0, layout.time_order) for x in (q, k, v))
        return grouped_attention(q, k, v, within, within).index_select(0, layout.time_back)
    heads = q.shape[1] // 2
    space = self_attention(q[:, :heads], k[:, :heads], v[:, :heads], layout, "space")
    time = self_attention(q[:, heads:], k[:, heads:], v[:, heads:], layout, "time")
    return torch.cat([space, time], dim=1)


def grouped_attention(
    q: Tensor, k: Tensor, v: Tensor, q_groups: Groups, k_groups: Groups
) -> Tensor:
    """Attention (Nq, heads, width) of each group of queries to its group of keys, none empty.

    Args:
        q: (Nq, heads, width). k, v: (Nk, heads, width); on a GPU width is a multiple of 8.
        q_groups, k_groups: equally many; group i of the queries sees group i of the keys.

    On CUDA in bfloat16 or float16 one kernel does all groups (torch's variable-length flash
    attention); else `scaled_dot_product_attention` does them, neighbours of one size at once.
    """
    if q.device.type in _ONE_KERNEL and q.dtype in (torch.bfloat16, torch.float16):
        # Of torch 2.10: elsewhere it is not needed.
        from torch.nn.attention.varlen import varlen_attn

        attended: Tensor = varlen_attn(
            q, k, v, q_groups.offsets, k_groups.offsets, q_groups.longest, k_groups.longest
        )
        return attended
    return _by_size(q, k, v, q_groups, k_groups)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it would compile for each pack anew
def _by_size(q: Tensor, k: Tensor, v: Tensor, q_groups: Groups, k_groups: Groups) -> Tensor:
    lengths = zip(q_groups.offsets.diff().tolist(), k_groups.offsets.diff().tolist(), strict=True)
    done = []
    q_start = k_start = 0
    for (q_length, k_length), alike in groupby(lengths):
        count = sum(1 for _ in alike)
        q_end = q_start + count * q_length
        k_end = k_start + count * k_length
        own = scaled_dot_product_attention(
            *(
                x.unflatten(0, (count, -1)).transpose(1, 2)
                for x in (q[q_start:q_end], k[k_start:k_end], v[k_start:k_end])
            )
        )
        done.append(own.transpose(1, 2).flatten(0, 1))
        q_start, k_start = q_end, k_end
    return torch.cat(done)
