"""Rotary positions."""

from __future__ import annotations

import pytest
import torch

from vidcurate.train.model.rope import turned, turns


def products(position: torch.Tensor, width: int) -> torch.Tensor:
    """Of two fixed vectors, turned by each two of the positions."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, width, dtype=torch.float64, generator=generator)
    by = turns(position, width, torch.float64)
    return turned(q, by).squeeze(1) @ turned(k, by).squeeze(1).T


@pytest.mark.parametrize("width", [8, 64, 72])
def test_only_differences_of_position_matter(width):
    position = torch.tensor([[0, 0.5, 0.5], [0.25, 3.5, 7.5], [2, 1.5, 0.5]]).double()
    moved = position + torch.tensor([7.0, 5.0, 11.0]).double()
    torch.testing.assert_close(products(position, width), products(moved, width))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [8, 64])
def test_each_axis_is_seen(axis, width):
    position = torch.zeros(2, 3, dtype=torch.float64)
    position[1, axis] = 1
    seen = products(position, width)
    assert abs(seen[0, 1] - seen[0, 0]) > 1e-2


def test_turning_keeps_lengths_and_shape():
    position = torch.rand(5, 3) * 50
    x = torch.randn(5, 4, 16)
    y = turned(x, turns(position, 16, torch.float32))
    assert y.shape == x.shape
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


def test_half_precision_is_turned_in_float32():
    position = torch.tensor([[59.9, 40.5, 80.5]])
    x = torch.randn(1, 1, 64).bfloat16()
    by = turns(position, 64, torch.float32)
    assert torch.equal(turned(x, by), turned(x.float(), by))


def test_a_second_is_eight_rows():
    by_time = turns(torch.tensor([[1.0, 0, 0]]), 24, torch.float64)[0].squeeze()
    by_row = turns(torch.tensor([[0, 8.0, 0]]), 24, torch.float64)[0].squeeze()
    torch.testing.assert_close(by_time[:4], by_row[4:8])
