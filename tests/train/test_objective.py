"""Noise, targets and loss: against their formulas, and over the right tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidcurate.train.model.layout import Layout, patchify
from vidcurate.train.objective import (
    Draws,
    Name,
    Noised,
    Objective,
    by_quartile,
    coefficients,
    draw,
    errors,
    loss,
    noised,
    shifted,
    step,
)

NAMES: tuple[Name, ...] = ("flow", "epsilon")


def pack(
    *shapes: tuple[int, int, int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Layout]:
    """Tokens of 3 x 1 x 1 pixels and their layout, of clips of some (frames, rows, columns)."""
    generator = torch.Generator().manual_seed(7)
    latents = [torch.randn(t, 3, h, w, generator=generator, dtype=dtype) for t, h, w in shapes]
    times = [torch.arange(t, dtype=torch.float64) for t, _, _ in shapes]
    return patchify(latents, times, (1, 1, 1))


def given(tokens: Tensor, time: list[float], tau: list[float]) -> Draws:
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(3)).to(tokens)
    return Draws(
        torch.tensor(time, dtype=torch.float64), torch.tensor(tau, dtype=torch.float64), noise
    )


def test_flow_mixes_and_targets_by_the_formula_at_the_level_of_each_frame() -> None:
    tokens, layout = pack((3, 1, 2), (1, 2, 2))
    draws = given(tokens, [0.8, 0.3], [0, 0.5, 1, 1])
    seen = noised(tokens, layout, draws, torch.ones(2))
    levels = [0, 0.4, 0.8, 0.3]
    assert seen.level.dtype == torch.float32
    assert torch.allclose(seen.level, torch.tensor(levels))
    t = torch.tensor([levels[f] for f in [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]], dtype=torch.float64)
    want = (1 - t[:, None]) * tokens + t[:, None] * draws.noise
    assert torch.allclose(seen.inputs, want, rtol=0, atol=1e-15)
    assert torch.equal(seen.target, draws.noise - tokens)
    assert seen.weight.tolist() == [1] * 10


def test_kept_frames_go_in_bit_for_bit_and_give_no_loss() -> None:
    tokens, layout = pack((3, 1, 2), dtype=torch.float32)
    tokens[0] = -0.0
    seen = noised(tokens, layout, given(tokens, [0.9], [0, 1, 0]), torch.ones(1))
    kept = [0, 1, 4, 5]
    assert torch.equal(seen.inputs[kept].view(torch.int32), tokens[kept].view(torch.int32))
    assert seen.level[[0, 2]].tolist() == [0, 0]
    assert seen.real.tolist() == [False, False, True, True, False, False]
    prediction = seen.target.clone()
    prediction[kept] += 100
    assert [part.item() for part in loss(prediction, seen)] == [0, 2]


@pytest.mark.parametrize("name", NAMES)
def test_one_step_along_the_true_target_gives_the_data_back(name: Name) -> None:
    tokens, layout = pack((2, 2, 2))
    seen = noised(tokens, layout, given(tokens, [0.6], [1, 0.7]), torch.ones(1), name)
    level = seen.level.double()[layout.frame]
    p, q = step(level, torch.zeros_like(level), name)
    back = p[:, None] * seen.inputs + q[:, None] * seen.target
    assert torch.allclose(back, tokens, rtol=0, atol=1e-6)  # the level is float32


def test_epsilon_has_the_schedule_of_ddpm_and_weights_of_min_snr() -> None:
    # DDPM: 1,000 steps of beta from 1e-4 to 0.02, the products of 1 - beta
    steps = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    time = torch.arange(1, 1001, dtype=torch.float64) / 1000
    data, noise = coefficients(time, "epsilon")
    # its steps are coarse: 1 - beta is not exp(-beta)
    assert torch.allclose((data**2)[:700], steps[:700], rtol=0.05, atol=0)
    assert torch.allclose(data**2 + noise**2, torch.ones_like(data))
    clean = coefficients(torch.zeros(1), "epsilon")
    assert [part.item() for part in clean] == [1, 0]
    tokens, layout = pack((2, 1, 1))
    seen = noised(tokens, layout, given(tokens, [0.5], [0.2, 1]), torch.ones(1), "epsilon")
    data, noise = coefficients(torch.tensor([0.1, 0.5], dtype=torch.float64), "epsilon")
    snr = (data / noise) ** 2
    assert snr[0] > 5 > snr[1]
    assert seen.weight.tolist() == pytest.approx([5 / snr[0].item(), 1])
    # the error of one token counts by its weight, the number of tokens does not
    total, count = loss(seen.target + 2, seen)
    assert total.item() == pytest.approx(4 * (5 / snr[0].item() + 1), rel=1e-6)
    assert count.item() == 2


def test_time_is_logit_normal() -> None:
    tokens, layout = pack(*[(1, 1, 1)] * 2000)
    settings = Objective(mean=-0.4, std=1.3, masked=0)
    time = draw(tokens, layout, range(2000), settings).time
    logit = torch.logit(time)
    assert logit.mean().item() == pytest.approx(-0.4, abs=0.1)  # 3 x 1.3 / sqrt(2000)
    assert logit.std().item() == pytest.approx(1.3, abs=0.07)
    quarters = torch.quantile(logit, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert torch.allclose(quarters, torch.tensor([-1.277, 0.477], dtype=torch.float64), atol=0.12)


def test_time_of_epsilon_is_uniform() -> None:
    tokens, layout = pack(*[(1, 1, 1)] * 2000)
    time = draw(tokens, layout, range(2000), Objective(name="epsilon")).time
    counts = torch.histc(time, 4, 0, 1)
    assert (counts - 500).abs().max() < 65  # 3 x 19.4


def test_shift_moves_the_logit_by_the_root_of_the_tokens() -> None:
    tokens, layout = pack((1, 1, 1), (1, 4, 4), (2, 4, 8))  # 1, 16 and 64 tokens
    plain = draw(tokens, layout, [5, 5, 5], Objective(masked=0)).time
    moved = draw(tokens, layout, [5, 5, 5], Objective(masked=0, shift=3, shift_tokens=16)).time
    assert plain[0] == plain[1] == plain[2]
    change = torch.logit(moved) - torch.logit(plain)
    want = [math.log(3 / 4), math.log(3), math.log(3 * 2)]
    assert torch.allclose(change, torch.tensor(want, dtype=torch.float64))
    ends = shifted(torch.tensor([0.0, 1.0]), 64, 3, 16)
    assert ends.tolist() == [0, 1]
    # SD3's equation with a factor of 3, for all alike without shift_tokens
    assert shifted(torch.tensor(0.5), 64, 3).item() == pytest.approx(0.75)


def test_draws_of_a_sample_are_its_own_in_any_pack() -> None:
    settings = Objective(masked=1, shift_tokens=4)
    tokens, layout = pack((4, 2, 2), (3, 1, 2))
    both = draw(tokens, layout, [2**64 - 1, 12], settings)
    tokens, layout = pack((3, 1, 2))
    alone = draw(tokens, layout, [12], settings)
    assert both.time[1] == alone.time[0]
    assert torch.equal(both.tau[4:], alone.tau)
    assert torch.equal(both.noise[16:], alone.noise)
    other = draw(tokens, layout, [13], settings)
    assert other.time != alone.time
    assert not torch.equal(other.noise, alone.noise)


def test_validation_draws_one_time_and_masks_nothing() -> None:
    tokens, layout = pack((4, 2, 2), (3, 1, 2))
    draws = draw(tokens, layout, [1, 2], Objective(masked=1), time=0.3)
    assert draws.time.tolist() == [0.3, 0.3]
    assert draws.tau.tolist() == [1] * 7
    noise = draw(tokens, layout, [1, 2], Objective(masked=1), time=0.7).noise
    assert torch.equal(noise, draws.noise)


def test_loss_is_the_mean_over_real_tokens_of_all_packs_alike() -> None:
    """Two packs of unequal sizes against both in one: the same sum and number."""
    tokens, layout = pack((2, 2, 2), (3, 1, 2), (1, 1, 4))
    draws = given(tokens, [0.5, 0.7, 0.2], [0, 1, 1, 0.5, 0, 1])
    weight = torch.ones(3)
    whole = noised(tokens, layout, draws, weight)
    prediction = whole.target * 0.5
    total, count = loss(prediction, whole)
    assert count.item() == 4 + 4 + 4
    squares = (whole.target * 0.5).square().mean(1)
    real = [*range(4, 8), *range(8, 12), *range(14, 18)]
    assert total.item() == pytest.approx(squares[real].sum().item(), rel=1e-12)

    first = Noised(*(v[:8] for v in _fields(whole)))
    second = Noised(*(v[8:] for v in _fields(whole)))
    parts = [loss(prediction[:8], first), loss(prediction[8:], second)]
    assert sum(p[0] for p in parts).item() == pytest.approx(total.item(), rel=1e-12)
    assert sum(p[1] for p in parts).item() == 12


def _fields(seen: Noised) -> tuple[Tensor, ...]:
    return seen.inputs, seen.level, seen.target, seen.real, seen.weight


def test_a_sample_of_weight_0_gives_no_loss_and_no_gradient() -> None:
    tokens, layout = pack((2, 2, 2), (1, 1, 2))
    seen = noised(tokens, layout, given(tokens, [0.5, 0.5], [1, 1, 1]), torch.tensor([0.0, 1.0]))
    assert seen.real.tolist() == [False] * 8 + [True] * 2
    prediction = torch.zeros_like(tokens, requires_grad=True)
    total, count = loss(prediction, seen)
    total.backward()
    assert prediction.grad is not None
    assert prediction.grad[:8].abs().max() == 0
    assert prediction.grad[8:].abs().min() > 0
    assert count.item() == 2


def test_a_pack_without_work_gives_a_loss_of_0_that_joins_the_backward_pass() -> None:
    tokens, layout = pack((2, 2, 2))
    seen = noised(tokens, layout, given(tokens, [0.5], [1, 1]), torch.zeros(1))
    prediction = torch.zeros_like(tokens, requires_grad=True)
    total, count = loss(prediction, seen)
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


def test_loss_of_half_precision_is_summed_in_single() -> None:
    tokens, layout = pack((2, 2, 2), dtype=torch.float32)
    seen = noised(tokens, layout, given(tokens, [0.5], [1, 1]), torch.ones(1))
    assert errors(seen.target.bfloat16(), seen).dtype == torch.float32


def test_loss_by_quartile_of_the_level() -> None:
    tokens, layout = pack((4, 1, 1), (2, 1, 2))
    draws = given(tokens, [1.0, 0.6], [0.1, 0.25, 0, 1, 1, 0.5])
    seen = noised(tokens, layout, draws, torch.ones(2))
    error = errors(seen.target + torch.arange(8)[:, None] ** 0.5, seen)
    sums, counts = by_quartile(error, seen, layout)
    # levels: 0.1, 0.25, kept, 1, then 0.6 twice and 0.3 twice; the error is the token's number
    assert counts.tolist() == [1, 3, 2, 1]
    assert torch.allclose(sums, torch.tensor([0, 1 + 6 + 7, 4 + 5, 3], dtype=sums.dtype))
    assert sums.sum().item() == pytest.approx(loss(seen.target + 0, seen)[0].item() + 26)
