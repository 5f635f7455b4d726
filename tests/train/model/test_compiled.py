"""What a GPU is asked: without one, tensors of the device `meta` take the same way.

They have shapes and types alone, so that whatever would wait for a GPU's values fails.
"""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.dit import DiT
from vidcurate.train.model.layout import Layout, lay_out
from vidcurate.train.model.rope import turns

PACKS = [  # grids, rows of text
    ([(3, 2, 3), (1, 4, 2), (2, 5, 1)], [3, 1, 4]),
    ([(2, 6, 3), (2, 4, 2)], [5, 7]),
    ([(4, 4, 4), (1, 2, 2), (5, 3, 1), (2, 2, 2)], [9, 1, 1, 2]),
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(before)


def config(blocks) -> ModelConfig:
    return ModelConfig(width=48, depth=1, heads=2, text_width=20, blocks=blocks)


def layout_of(grids, texts, device: str) -> Layout:
    layout = lay_out(grids, [torch.arange(t) / 8 for t, _, _ in grids])
    return layout.with_text(torch.tensor([0, *texts]).cumsum(0)).to(device)


def block_takes(config: ModelConfig, grids, texts, device: str, dtype: torch.dtype):
    """What a block is called with; the first three want gradients."""
    layout = layout_of(grids, texts, device)
    rows = (len(layout.frame), len(layout.frame_sample), sum(texts))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(n, config.width, generator=generator) for n in rows]
    leaves = [x.to(device, dtype).requires_grad_() for x in drawn]
    return [*leaves, layout, turns(layout.position, config.head_width, torch.float32)]


@pytest.mark.parametrize("blocks", ["full", "interleaved", "late", "both", "split"])
def test_nothing_waits_for_the_device(blocks):
    made = config(blocks).model_copy(update={"depth": 2, "long_skips": True})
    with torch.device("meta"):
        net = DiT(made).bfloat16()
    grids, texts = PACKS[0]
    layout = layout_of(grids, texts, "meta")
    tokens = torch.empty(len(layout.frame), made.token_width, device="meta")
    level = torch.empty(len(layout.frame_sample), device="meta")
    velocity = net(tokens, level, layout, torch.empty(sum(texts), 20, device="meta"))
    assert velocity.dtype == torch.bfloat16
    velocity.sum().backward()
    assert {w.grad.shape == w.shape for w in net.parameters()} == {True}


def test_a_compiled_block_is_one_graph_and_serves_every_pack():
    made = config("split")
    with torch.device("meta"):
        block = DiT(made).bfloat16().blocks[0]
    counter = CompileCounter()
    compiled = torch.compile(block, dynamic=True, fullgraph=True, backend=counter)
    for grids, texts in PACKS:
        given = block_takes(made, grids, texts, "meta", torch.bfloat16)
        assert compiled(*given).shape == given[0].shape
    # The second is for the sizes of the first pack that were equal by chance.
    assert counter.frame_count <= 2


# torch itself looks at the gradients of what goes from one graph to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_block_computes_the_same():
    made = config("full")
    torch.manual_seed(0)
    block = DiT(made).blocks[0]
    with torch.no_grad():
        for weights in block.parameters():
            weights.add_(torch.randn(weights.shape), alpha=0.2)
    compiled = torch.compile(block, dynamic=True, backend="aot_eager")
    for grids, texts in PACKS[:2]:
        found = []
        for called in (block, compiled):
            given = block_takes(made, grids, texts, "cpu", torch.float32)
            out = called(*given)
            out.square().sum().backward()
            found.append([out.detach(), *(x.grad for x in given[:3])])
        for eager, ours in zip(*found, strict=True):
            assert eager.abs().max() > 0.01
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
