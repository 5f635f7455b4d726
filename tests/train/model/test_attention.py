"""Attention within groups, against masks over all tokens."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from vidcurate.train.model.attention import Groups, grouped_attention, self_attention
from vidcurate.train.model.layout import lay_out, offsets_of

GRIDS = [(3, 2, 3), (1, 4, 2), (3, 2, 3), (2, 1, 1)]


def masked(q, k, v, mask):
    """Attention (N, heads, width) where `mask` (N, N) allows it."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def drawn(count: int, heads: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, heads, 8, dtype=torch.float64, generator=generator)


def equal(x: torch.Tensor) -> torch.Tensor:
    return x[:, None] == x[None, :]


def test_each_kind_sees_its_tokens_and_no_others():
    layout = lay_out(GRIDS, [torch.arange(t) / 8 for t, _, _ in GRIDS])
    count = int(layout.offsets[-1])
    q, k, v = drawn(3 * count).chunk(3)
    sample = equal(layout.sample)
    frame = equal(layout.frame)
    place = sample & equal(layout.position[:, 1]) & equal(layout.position[:, 2])
    for kind, mask in {"full": sample, "space": frame, "time": place}.items():
        torch.testing.assert_close(
            self_attention(q, k, v, layout, kind), masked(q, k, v, mask), rtol=0, atol=1e-12
        )
    split = self_attention(q, k, v, layout, "split")
    halves = [
        masked(*(x[:, part] for x in (q, k, v)), mask)
        for part, mask in ((slice(0, 2), frame), (slice(2, 4), place))
    ]
    torch.testing.assert_close(split, torch.cat(halves, dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("texts", [[2, 2, 7], [5, 1, 1], [3, 3, 3]])
def test_queries_and_keys_may_differ_in_number(texts):
    tokens = [4, 4, 6]
    q, k, v = drawn(14), drawn(sum(texts)), drawn(sum(texts)) + 1
    seen = grouped_attention(
        q,
        k,
        v,
        Groups(offsets_of(torch.tensor(tokens)), max(tokens)),
        Groups(offsets_of(torch.tensor(texts)), max(texts)),
    )
    of_token = torch.arange(3).repeat_interleave(torch.tensor(tokens))
    of_text = torch.arange(3).repeat_interleave(torch.tensor(texts))
    expected = masked(q, k, v, of_token[:, None] == of_text[None, :])
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)


def test_as_many_groups_of_keys_as_of_queries():
    x = drawn(4)
    two = Groups(torch.tensor([0, 2, 4], dtype=torch.int32), 2)
    one = Groups(torch.tensor([0, 4], dtype=torch.int32), 4)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        grouped_attention(x, x, x, two, one)


class Calls(TorchDispatchMode):
    """Which attention was called, and with which longest groups of queries and keys."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attn" in str(func) or "attention" in str(func):
            self.seen.append((str(func), args[5:7]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "longest"), [("full", 18), ("space", 8), ("time", 3)])
def test_a_gpu_does_all_groups_at_once(kind, longest):
    """With tensors that are said to be on a GPU: whether it is right there, a GPU must tell."""
    layout = lay_out(GRIDS, [torch.arange(t) / 8 for t, _, _ in GRIDS])
    count = int(layout.offsets[-1])
    with FakeTensorMode(), Calls() as calls:
        there = replace(
            layout,
            **{
                field.name: torch.empty(given.shape, dtype=given.dtype, device="cuda")
                for field in fields(layout)
                if isinstance(given := getattr(layout, field.name), torch.Tensor)
            },
        )
        q, k, v = (torch.empty(count, 4, 8, device="cuda", dtype=torch.bfloat16) for _ in "qkv")
        seen = self_attention(q, k, v, there, kind)
    assert seen.shape == q.shape
    assert calls.seen == [("torch_attn._varlen_attn.default", (longest, longest))]
