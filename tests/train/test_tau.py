"""Start-noise vectors: which frames are kept, by mode, and how often."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import pytest
import torch

from vidcurate.errors import UserError
from vidcurate.train.tau import DEFAULT_WEIGHTS, FEWEST, Kind, draw_tau, tau_for

KINDS: tuple[Kind, ...] = get_args(Kind)


def drawn(kind: Kind, frames: int, draws: int = 60) -> set[tuple[float, ...]]:
    generator = torch.Generator().manual_seed(frames)
    taus = [draw_tau({kind: 1.0}, frames, generator, masked=1.0) for _ in range(draws)]
    assert {tau.dtype for tau in taus} == {torch.float64}
    return {tuple(tau.tolist()) for tau in taus}


def is_run(tau: tuple[float, ...]) -> bool:
    """Zeros, then ones, at least one of each."""
    return sorted(tau) == list(tau) and {*tau} == {0.0, 1.0}


SHAPES: dict[Kind, Callable[[tuple[float, ...]], bool]] = {
    "image_to_video": lambda tau: tau[0] == 0 and set(tau[1:]) == {1.0},
    "forward": is_run,
    "backward": lambda tau: is_run(tau[::-1]),
    "join": lambda tau: (
        tau[0] == 0 == tau[-1] and [(a, b) for a, b in pairwise(tau) if a != b] == [(0, 1), (1, 0)]
    ),
    "interpolate": lambda tau: (
        {*tau} == {0.0, 1.0} and any(tau == every_nth(len(tau), n) for n in range(2, len(tau)))
    ),
    "random": lambda tau: {*tau} == {0.0, 1.0},
    "edit": lambda tau: all(0 < value <= 1 for value in tau) and len({*tau}) == len(tau),
}


def every_nth(frames: int, n: int) -> tuple[float, ...]:
    return tuple(float(i % n > 0) for i in range(frames))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_each_kind_keep_what_the_kind_says(kind: Kind) -> None:
    for frames in range(FEWEST[kind], 10):
        assert all(SHAPES[kind](tau) for tau in drawn(kind, frames)), frames
        assert all(len(tau) == frames for tau in drawn(kind, frames, 1))
    for frames in range(1, FEWEST[kind]):
        assert drawn(kind, frames, 1) == {(1.0,) * frames}, "too few frames: generated whole"


def test_draws_reach_every_length_that_a_kind_can_have() -> None:
    assert len(drawn("forward", 5)) == len(drawn("backward", 5)) == 4  # 1 to 4 kept
    assert len(drawn("join", 5)) == 4  # 1 or 2 at either end
    assert len(drawn("interpolate", 5)) == 3  # each 2nd, 3rd or 4th
    assert len(drawn("random", 3, 200)) == 6  # all of 8 but none and everything


def test_a_quarter_is_masked_and_kinds_have_their_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    weights: dict[Kind, float] = {"image_to_video": 3, "join": 1}
    taus = [tuple(draw_tau(weights, 5, generator).tolist()) for _ in range(4000)]
    masked = [tau for tau in taus if min(tau) == 0]
    assert abs(len(masked) / 4000 - 0.25) < 0.02  # 3 standard deviations of 0.0068
    images = sum(tau == (0, 1, 1, 1, 1) for tau in masked)
    assert abs(images / len(masked) - 0.75) < 0.045  # 3 of 0.014


def test_an_image_is_generated_whole_whatever_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    assert draw_tau(DEFAULT_WEIGHTS, 1, generator, masked=1.0).tolist() == [1]
    assert draw_tau({}, 9, generator, masked=1.0).tolist() == [1] * 9
    assert draw_tau({"join": 0.0}, 9, generator, masked=1.0).tolist() == [1] * 9


def test_what_the_sampler_is_asked_by() -> None:
    asked = {
        "text_to_video": tau_for("text_to_video", 5),
        "image_to_video": tau_for("image_to_video", 5),
        "forward": tau_for("forward", 5, keep=2),
        "backward": tau_for("backward", 5, keep=2),
        "join": tau_for("join", 5, keep=2),
        "interpolate": tau_for("interpolate", 8, every=3),
        "edit": tau_for("edit", 3, strength=0.25),
    }
    assert {kind: tau.tolist() for kind, tau in asked.items()} == {
        "text_to_video": [1, 1, 1, 1, 1],
        "image_to_video": [0, 1, 1, 1, 1],
        "forward": [0, 0, 1, 1, 1],
        "backward": [1, 1, 1, 0, 0],
        "join": [0, 0, 1, 0, 0],
        "interpolate": [0, 1, 1, 0, 1, 1, 0, 0],
        "edit": [0.25, 0.25, 0.25],
    }


def test_nothing_to_generate_or_to_keep_is_refused() -> None:
    with pytest.raises(UserError, match="all 4 latent frames are kept; ask for more frames"):
        tau_for("join", 4, keep=2)
    with pytest.raises(UserError, match="all 1 latent frames are kept"):
        tau_for("image_to_video", 1)
    with pytest.raises(UserError, match="keep at least 1 frame"):
        tau_for("forward", 4, keep=0)
    with pytest.raises(UserError, match="every 2nd"):
        tau_for("interpolate", 4, every=1)
    with pytest.raises(UserError, match=r"strength above 0 and up to 1, not 0\.0"):
        tau_for("edit", 4, strength=0.0)
    with pytest.raises(UserError, match="are for training"):
        tau_for("random", 4)
