"""Sampling against closed forms: the exact velocity of a Gaussian leads to its samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from vidcurate.errors import ModelError, UserError
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.dit import DiT
from vidcurate.train.model.layout import Layout, Patch, patchify
from vidcurate.train.objective import Name, Objective, coefficients
from vidcurate.train.sampling.sampler import Sampler, to_pixels
from vidcurate.train.sampling.starts import Start, edit, image_to_video, join, text_to_video
from vidcurate.train.tau import tau_for
from vidcurate.train.text import ByteText

SPREAD = 0.5
PATCH: Patch = (1, 2, 2)
NAMES: tuple[Name, ...] = ("flow", "epsilon")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of a few numbers: threads cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Length:
    """A text encoder whose rows say how long the caption is: the mean of what is generated."""

    width = 1

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([[float(len(c))] for c in captions], dtype=torch.float64)
        return rows, torch.arange(len(captions) + 1, dtype=torch.int32)


@dataclass
class Gaussian:
    """The exact prediction where all data are normal around the text's number, by SPREAD."""

    name: Name = "flow"
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, level: Tensor, layout: Layout, text: Tensor) -> Tensor:
        assert level.dtype == torch.float32
        self.seen.append(level)
        mean = text[layout.text_offsets[:-1].long()][layout.sample].to(x.dtype)
        data, noise = (c[:, None] for c in coefficients(level.to(x.dtype)[layout.frame], self.name))
        rest = (x - data * mean) / (data**2 * SPREAD**2 + noise**2)
        if self.name == "epsilon":
            return noise * rest
        return noise * rest - (mean + data * SPREAD**2 * rest)


def sampler(name: Name = "flow", **settings: object) -> Sampler:
    chosen = {"steps": 400, "guidance": 1.0, "objective": Objective(name), **settings}
    return Sampler(Gaussian(name), Length(), PATCH, **chosen)  # type: ignore[arg-type]


def noise_of(seed: int, start: Start) -> Tensor:
    """The noise of a start, as a latent."""
    tokens, _ = patchify([start.latent], [start.times], PATCH)
    drawn = torch.randn(
        tokens.shape, generator=torch.Generator().manual_seed(seed), dtype=tokens.dtype
    )
    t, c, h, w = start.latent.shape
    cut = drawn.reshape(t, h // 2, w // 2, 2, 2, c)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(t, c, h, w)


def doubled(start: Start) -> Start:
    return replace(start, latent=start.latent.double())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_noise_becomes_the_samples_of_a_gaussian(name: Name, solver: str) -> None:
    """x_t = a mean + sqrt(a^2 SPREAD^2 + b^2) z with the same z at all t."""
    starts = [
        doubled(text_to_video((3, 2, 4, 6), 8.0)),
        doubled(text_to_video((1, 2, 2, 2), 8.0)),
    ]
    made = sampler(name, solver=solver)(starts, ["four", ""], [11, 12])
    data, noise = (c.item() for c in coefficients(torch.ones((), dtype=torch.float64), name))
    for latent, start, mean, seed in zip(made, starts, [4, 0], [11, 12], strict=True):
        z = (noise * noise_of(seed, start) - data * mean) / (data**2 * SPREAD**2 + noise**2) ** 0.5
        assert latent.shape == start.latent.shape
        assert (latent - (mean + SPREAD * z)).abs().max() < (0.02 if solver == "euler" else 2e-3)


def test_heun_is_of_second_order_and_euler_of_first() -> None:
    start = doubled(text_to_video((1, 1, 4, 4), 8.0))
    want = 4 + SPREAD * noise_of(5, start)

    def error(solver: str, steps: int) -> float:
        made = sampler(solver=solver, steps=steps)([start], ["four"], [5])[0]
        return (made - want).abs().max().item()

    assert error("euler", 40) / error("euler", 80) == pytest.approx(2, rel=0.1)
    assert error("heun", 40) / error("heun", 80) == pytest.approx(4, rel=0.25)


def test_guidance_goes_past_the_prompt_from_the_empty_one() -> None:
    start = doubled(text_to_video((2, 1, 4, 4), 8.0))
    made = sampler(guidance=3.0)([start], ["four"], [5])[0]
    assert (made - (3 * 4 + SPREAD * noise_of(5, start))).abs().max() < 0.06
    made = sampler(guidance=3.0, negative="one ")([start], ["seven.."], [5])[0]
    assert (made - (4 + 3 * 3 + SPREAD * noise_of(5, start))).abs().max() < 0.06


def test_guidance_of_1_asks_the_model_once_a_step_and_heun_but_once_for_the_last() -> None:
    start = doubled(text_to_video((1, 1, 2, 2), 8.0))
    counts = {}
    for guidance, solver in [(1.0, "euler"), (2.0, "euler"), (1.0, "heun")]:
        made = sampler(guidance=guidance, solver=solver, steps=5)
        made([start], ["a"], [1])
        counts[guidance, solver] = len(made.model.seen)  # type: ignore[attr-defined]
    assert counts == {(1.0, "euler"): 5, (2.0, "euler"): 10, (1.0, "heun"): 9}


def test_guidance_without_a_prompt_has_nothing_to_do() -> None:
    start = doubled(text_to_video((1, 1, 2, 2), 8.0))
    guided, plain, one = (sampler(guidance=g, steps=4) for g in (4.0, 1.0, 4.0))
    made = guided([start], [""], [1])
    assert torch.equal(made[0], plain([start], [""], [1])[0])
    assert len(guided.model.seen) == 4  # type: ignore[attr-defined]
    one([start, start], ["", "a"], [1, 1])
    assert len(one.model.seen) == 8  # type: ignore[attr-defined]


def test_times_are_shifted_by_the_tokens_of_each_sample() -> None:
    starts = [
        doubled(text_to_video((1, 1, 2, 2), 8.0)),
        doubled(text_to_video((1, 1, 4, 4), 8.0)),
    ]  # 1 token and 4
    made = sampler(steps=2, objective=Objective(shift=3, shift_tokens=4))
    made(starts, ["", ""], [1, 1])
    seen = torch.stack(made.model.seen)  # type: ignore[attr-defined]
    want = torch.tensor([[1, 1], [0.6, 0.75]])  # of 0.5 by factors of 1.5 and 3
    assert torch.allclose(seen, want)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(
    "tau",
    [
        tau_for("image_to_video", 5),
        tau_for("forward", 5, keep=2),
        tau_for("backward", 5, keep=3),
        tau_for("join", 5),
        tau_for("interpolate", 5, every=2),
        torch.tensor([0, 0.3, 1, 0.7, 0], dtype=torch.float64),
    ],
    ids=["image_to_video", "forward", "backward", "join", "interpolate", "mixed"],
)
def test_kept_frames_come_out_bit_for_bit(name: Name, solver: str, tau: Tensor) -> None:
    latent = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    latent[0, 0, 0, 0] = -0.0
    latent[-1, 0, 0, 0] = 1e-40  # no normal number
    start = Start(latent, torch.arange(5) / 8.0, tau)
    made = sampler(name, solver=solver, steps=3, guidance=2.0)([start], ["four"], [3])[0]
    kept = tau == 0
    assert made.dtype == torch.float32
    assert torch.equal(made[kept].view(torch.int32), latent[kept].view(torch.int32))
    assert all((made[i] != latent[i]).all() for i in (~kept).nonzero())


@pytest.mark.parametrize("strength", [0.2, 0.7, 1.0])
def test_edit_goes_as_far_from_the_clip_as_its_strength(strength: float) -> None:
    """The ODE from level `strength` on: its z there is that of the clip with some noise."""
    clip = torch.full((2, 1, 4, 4), 9.0, dtype=torch.float64)
    start = edit(clip, strength, 8.0)
    made = sampler()([start], ["four"], [5])[0]
    begun = (1 - strength) * clip + strength * noise_of(5, start)
    z = (begun - (1 - strength) * 4) / ((1 - strength) ** 2 * SPREAD**2 + strength**2) ** 0.5
    assert (made - (4 + SPREAD * z)).abs().max() < 0.05


def test_a_clip_is_the_same_in_whatever_pack() -> None:
    small, large = (doubled(text_to_video(shape, 8.0)) for shape in [(2, 1, 2, 2), (3, 1, 4, 6)])
    both = sampler(steps=4)([large, small], ["a", "b"], [1, 2])
    alone = sampler(steps=4)([small], ["b"], [2])
    assert torch.equal(both[1], alone[0])


def test_the_model_sees_kept_frames_at_level_0_and_others_at_tau_times_t() -> None:
    start = Start(
        torch.zeros(3, 1, 2, 2), torch.arange(3.0), torch.tensor([0, 0.5, 1], dtype=torch.float64)
    )
    made = sampler(steps=4)
    made([start], [""], [1])
    seen = torch.stack(made.model.seen)  # type: ignore[attr-defined]
    time = torch.tensor([1, 0.75, 0.5, 0.25])
    assert torch.allclose(seen, time[:, None] * torch.tensor([0, 0.5, 1]))


def test_with_the_real_model_what_is_kept_and_the_prompt_tell() -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=32, depth=2, heads=2, text_width=16, patch=PATCH)
    model = DiT(config).eval()
    with torch.no_grad():  # it begins as zero
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    make = Sampler(model, ByteText(16), PATCH, steps=3, guidance=2.0, solver="heun")
    picture = torch.rand(3, 4, 6) * 2 - 1
    starts = [image_to_video(picture, 3, 8.0), image_to_video(-picture, 3, 8.0)]
    one, two, three = (
        make([start], [prompt], [7])[0]
        for start, prompt in [(starts[0], "a"), (starts[1], "a"), (starts[0], "b")]
    )
    assert torch.equal(one[0], picture)
    assert not one.requires_grad
    assert not torch.allclose(one[1:], two[1:], atol=1e-3)
    assert not torch.allclose(one[1:], three[1:], atol=1e-3)
    packed = make(starts, ["a", "a"], [7, 7])
    assert torch.allclose(packed[0], one, atol=1e-5)
    assert torch.allclose(packed[1], two, atol=1e-5)


def test_a_patch_of_two_frames_is_kept_or_made_as_one() -> None:
    clip = torch.ones(4, 1, 2, 2)
    deep = replace(sampler(steps=2), patch=(2, 2, 2))
    made = deep([join(clip[:2], clip[:2], 2, 8.0)], ["a"], [1])[0]
    assert torch.equal(made[[0, 1, 4, 5]], clip)
    with pytest.raises(UserError, match="a patch spans 2 latent frames"):
        deep([image_to_video(clip[0], 4, 8.0)], ["a"], [1])


def test_bad_requests_are_refused() -> None:
    start = text_to_video((1, 1, 2, 2), 8.0)
    with pytest.raises(UserError, match=r"1 starts need as many prompts \(2\) and seeds \(1\)"):
        sampler()([start], ["a", "b"], [1])
    with pytest.raises(UserError, match="at least 1, not 0"):
        sampler(steps=0)([start], ["a"], [1])
    broken = replace(sampler(), model=lambda x, level, layout, text: x * float("nan"))
    with pytest.raises(ModelError, match="not finite; take a checkpoint from before"):
        broken([start], ["a"], [1])


def test_pixels_are_rounded_and_bounded() -> None:
    values = torch.tensor([-2, -1, -1 + 1 / 255, 0, 1, 3.0])
    latent = values.reshape(1, 1, 1, 6).expand(2, 3, 1, 6)
    pixels = to_pixels(latent)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (2, 1, 6, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 128, 255, 255]  # 0.5 rounds to even
    every = torch.arange(256, dtype=torch.uint8)
    back = to_pixels((every / 127.5 - 1).reshape(1, 1, 1, 256).expand(1, 3, 1, 256))
    assert torch.equal(back[0, 0, :, 0], every)
