"""The model: samples of a pack never see each other, and every input tells."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.dit import DiT
from vidcurate.train.model.layout import patchify

VARIANTS = ["full", "interleaved", "late", "both", "split"]
SIZES = [(3, 4, 6), (1, 8, 4), (2, 4, 4), (3, 2, 2)]  # the second an image
TEXTS = [3, 1, 5, 5]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes) -> ModelConfig:
    given = {"width": 32, "depth": 2, "heads": 4, "text_width": 12, "mlp_ratio": 2.0}
    return ModelConfig(**{**given, **changes})


def model(dtype: torch.dtype = torch.float64, **changes) -> DiT:
    """One whose every weight matters: at first most of them are zeros."""
    torch.manual_seed(0)
    made = DiT(config(**changes)).to(dtype)
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(torch.randn(weights.shape).to(dtype), alpha=0.2)
    return made


def samples(dtype: torch.dtype = torch.float64):
    """(latent, times, levels, text) of each."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for i, ((t, h, w), text) in enumerate(zip(SIZES, TEXTS, strict=True)):
        latent = torch.randn(t, 3, h, w, generator=generator).to(dtype)
        times = torch.arange(t).double() / (6 + i)
        levels = torch.rand(t, generator=generator).to(dtype)
        made.append([latent, times, levels, torch.randn(text, 12, generator=generator).to(dtype)])
    return made


def run(net: DiT, pack) -> list[torch.Tensor]:
    """The velocity of each sample's tokens."""
    latents, times, levels, texts = zip(*pack, strict=True)
    tokens, layout = patchify(latents, times, net.config.patch)
    lengths = torch.tensor([0] + [len(text) for text in texts])
    layout = layout.with_text(lengths.cumsum(0))
    velocity = net(tokens, torch.cat(levels), layout, torch.cat(texts))
    assert velocity.shape == tokens.shape
    return list(velocity.split(layout.offsets.diff().tolist()))


@pytest.mark.parametrize("long_skips", [False, True])
@pytest.mark.parametrize("blocks", VARIANTS)
def test_packed_equals_each_sample_alone(blocks, long_skips):
    net = model(blocks=blocks, long_skips=long_skips, depth=3)
    packed = run(net, samples())
    for sample, together in zip(samples(), packed, strict=True):
        (alone,) = run(net, [sample])
        assert alone.abs().max() > 0.1
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("blocks", VARIANTS)
def test_packed_equals_each_sample_alone_in_float32(blocks):
    net = model(torch.float32, blocks=blocks)
    packed = run(net, samples(torch.float32))
    for sample, together in zip(samples(torch.float32), packed, strict=True):
        (alone,) = run(net, [sample])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", VARIANTS)
def test_gradients_of_a_pack_are_the_sum_of_those_alone(blocks):
    net = model(blocks=blocks, long_skips=True)
    sum(x.square().sum() for x in run(net, samples())).backward()
    packed = {name: weights.grad.clone() for name, weights in net.named_parameters()}
    net.zero_grad()
    for sample in samples():
        run(net, [sample])[0].square().sum().backward()
    for name, weights in net.named_parameters():
        assert weights.grad.abs().max() > 0, name
        scale = float(weights.grad.abs().max())
        torch.testing.assert_close(packed[name], weights.grad, rtol=0, atol=1e-10 * scale)


def test_other_samples_change_nothing():
    net = model()
    before = run(net, samples())
    changed = samples()
    for part in (0, 2, 3):
        changed[1][part] = changed[1][part] * 0.5
    after = run(net, changed)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, False, True, True]


@pytest.mark.parametrize("part", ["latent", "times", "level", "text"])
@pytest.mark.parametrize("blocks", VARIANTS)
def test_every_input_tells(part, blocks):
    net = model(blocks=blocks)
    sample = samples()[0]
    (before,) = run(net, [sample])
    place = ["latent", "times", "level", "text"].index(part)
    sample[place] = sample[place] * 0.7
    (after,) = run(net, [sample])
    assert (before - after).abs().max() > 1e-4


def test_a_frame_has_its_own_noise_level():
    """Without attention over time a frame's level reaches no other frame."""
    net = model(blocks=["space", "space"])
    sample = samples()[0]
    (before,) = run(net, [sample])
    sample[2] = torch.cat([torch.zeros(1, dtype=torch.float64), sample[2][1:]])
    (after,) = run(net, [sample])
    change = (before - after).reshape(3, -1).abs().amax(dim=1)
    assert change[0] > 1e-3
    assert change[1:].tolist() == [0, 0]


@pytest.mark.parametrize("blocks", VARIANTS)
def test_equal_tokens_are_told_apart_by_their_place_in_the_picture(blocks):
    grey = [torch.zeros(1, 3, 4, 6).double(), torch.zeros(1).double()]
    (said,) = run(
        model(blocks=blocks), [[*grey, torch.ones(1).double(), torch.ones(1, 12).double()]]
    )
    apart = torch.cdist(said, said) + torch.eye(len(said)).double()
    assert len(said) == 6
    assert apart.min() > 1e-2


def test_it_begins_at_zero_and_learns():
    torch.manual_seed(0)
    net = DiT(config(depth=4, long_skips=True))
    pack = samples(torch.float32)
    assert all(torch.equal(x, torch.zeros_like(x)) for x in run(net, pack))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = sum((x - 1).square().mean() for x in run(net, pack)) / len(pack)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == 1
    assert losses[-1] < 0.1


@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("blocks", VARIANTS)
def test_bfloat16_is_near_float32(how, blocks):
    exact = torch.cat(run(model(torch.float32, blocks=blocks), samples(torch.float32)))
    net = model(torch.float32, blocks=blocks)
    if how == "weights":
        net = net.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        rough = torch.cat(run(net, samples(torch.float32)))
    rough.float().sum().backward()
    assert rough.dtype == torch.bfloat16
    change = (rough.float() - exact).norm() / exact.norm()
    assert change.item() < 0.05


def test_sizes_of_the_paper():
    """Parameters of DiT's table 1, in millions; ours has a text instead of a class."""
    for preset, size in {"DiT-S": 33, "DiT-B": 130, "DiT-L": 458, "DiT-XL": 675}.items():
        with torch.device("meta"):
            net = DiT(ModelConfig(preset=preset, channels=4, blocks="interleaved"))
        text = sum(p.numel() for b in net.blocks for p in (*b.text.parameters(),))
        text += sum(p.numel() for p in net.text_in.parameters())
        count = sum(p.numel() for p in net.parameters()) - text
        assert count / 1e6 == pytest.approx(size, rel=0.02), preset


def test_variants_in_a_word():
    attention = {name: config(depth=4, blocks=name).attention for name in VARIANTS}
    assert attention == {
        "full": ("full",) * 4,
        "interleaved": ("space", "time", "space", "time"),
        "late": ("space", "space", "time", "time"),
        "both": ("space+time",) * 4,
        "split": ("split",) * 4,
    }
    assert config(blocks=["time", "full"]).attention == ("time", "full")
    assert ModelConfig(preset="DiT-XL", depth=3).depth == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 36}, "each head's width must be a multiple of 8"),
        ({"heads": 3}, "each head's width must be a multiple of 8"),
        ({"blocks": ["full"]}, "has 1 for a depth of 2; give one a block"),
        ({"blocks": "split", "width": 24, "heads": 3}, "an even number of heads, not 3"),
        ({"blocks": "spacey"}, "'interleaved'"),
        ({"widht": 64}, "widht"),
        ({"preset": "DiT-M"}, "'DiT-XL'"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        config(**changes)


def test_a_size_is_needed():
    with pytest.raises(ValidationError, match=r"width and heads: missing.*DiT-S, DiT-B"):
        ModelConfig(depth=3)


def test_the_config_and_the_count_need_no_torch():
    code = (
        "import sys, vidcurate.train.model.config, vidcurate.train.model.flops; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
