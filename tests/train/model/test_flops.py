"""The operations of a pack, against torch's own count."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidcurate.shards.reader.shapes import Shapes
from vidcurate.shards.reader.token_packs import TokenPacks
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.dit import DiT
from vidcurate.train.model.flops import TRAINING, cost, flops, tokens
from vidcurate.train.model.layout import lay_out

GRIDS = [(3, 2, 3), (1, 4, 2), (2, 5, 1)]
TEXTS = [3, 1, 4]


def counted(config: ModelConfig) -> tuple[int, int]:
    """Torch's count of a forward pass and of one with its backward pass."""
    net = DiT(config)
    layout = lay_out(GRIDS, [torch.arange(t) / 8 for t, _, _ in GRIDS])
    layout = layout.with_text(torch.tensor([0, 3, 4, 8]))
    given = (
        torch.randn(len(layout.frame), config.token_width),
        torch.rand(len(layout.frame_sample)),
        layout,
        torch.randn(8, config.text_width),
    )
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention is not counted by torch
        with FlopCounterMode(display=False) as forward:
            velocity = net(*given)
        with FlopCounterMode(display=False) as backward:
            velocity.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("long_skips", [False, True])
@pytest.mark.parametrize("blocks", ["full", "interleaved", "late", "both", "split"])
def test_it_is_what_torch_counts(blocks, long_skips):
    config = ModelConfig(
        width=32,
        depth=3,
        heads=4,
        text_width=20,
        patch=(1, 2, 2),
        mlp_ratio=3.5,
        blocks=blocks,
        long_skips=long_skips,
    )
    forward, backward = counted(config)
    assert flops(config, GRIDS, TEXTS) == forward
    # Two products for each of forward, but one where the inputs are given, not computed.
    assert 0.96 < backward / forward / (TRAINING - 1) < 1


def shapes(sizes: list[tuple[int, int, int]]) -> Shapes:
    frames, height, width = np.array(sizes, np.int32).T
    seconds = frames / 24.0
    return Shapes(frames, height, width, seconds, np.zeros(len(sizes), np.int16), ("native",))


def test_tokens_and_cost_of_samples():
    config = ModelConfig(preset="DiT-XL", blocks="split", channels=16)
    pixels = [(121, 720, 1280), (1, 480, 640), (49, 256, 256)]
    count = tokens(config, (4, 8, 8))(shapes(pixels))
    assert count.tolist() == [31 * 45 * 80, 30 * 40, 13 * 16 * 16]
    grids = [(31, 45, 80), (1, 30, 40), (13, 16, 16)]
    predicted = cost(config, (4, 8, 8), text=77)(shapes(pixels))
    each = [3 * flops(config, [grid], [77]) for grid in grids]
    np.testing.assert_allclose(predicted, each, rtol=1e-12)
    assert 3 * flops(config, grids, [77] * 3) == sum(each)


def test_pixels_are_their_own_latent():
    config = ModelConfig(width=32, depth=2, heads=4, patch=(1, 8, 8))
    assert tokens(config)(shapes([(9, 64, 48)])).tolist() == [9 * 8 * 6]


def test_packs_are_planned_by_them():
    config = ModelConfig(width=32, depth=2, heads=4, patch=(1, 8, 8))
    plan = TokenPacks(1000, tokens(config), cost(config))
    planned = plan.batches(shapes([(9, 64, 48), (17, 64, 48), (1, 64, 64)]), remainder="keep")
    assert sorted(len(pack) for pack in planned.batches) == [1, 2]


def test_they_travel_to_workers():
    config = ModelConfig(width=32, depth=2, heads=4)
    sizes = shapes([(9, 64, 48)])
    for made in (tokens(config), cost(config)):
        copy = pickle.loads(pickle.dumps(made))  # noqa: S301 (our own bytes)
        np.testing.assert_array_equal(copy(sizes), made(sizes))
