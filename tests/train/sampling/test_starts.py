"""What each mode of sampling starts from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.starts import Start


def numbered(first: int, frames: int) -> Tensor:
    """Latent frames (frames, 1, 2, 2), each full of its number."""
    return torch.arange(first, first + frames).float()[:, None, None, None].expand(-1, 1, 2, 2)


def told(start: Start) -> tuple[list[float], list[float]]:
    """The number of each frame, and its tau."""
    assert torch.allclose(start.times, torch.arange(len(start.tau), dtype=torch.float64) / 4)
    assert start.latent.shape[1:] == (1, 2, 2)
    return start.latent[:, 0, 0, 0].tolist(), start.tau.tolist()


def test_starts_lay_known_frames_out_in_time() -> None:
    clip, other = numbered(5, 2), numbered(8, 2)
    assert told(starts.text_to_video((3, 1, 2, 2), 4.0)) == ([0] * 3, [1] * 3)
    assert told(starts.image_to_video(clip[0], 3, 4.0)) == ([5, 0, 0], [0, 1, 1])
    assert told(starts.forward(clip, 2, 4.0)) == ([5, 6, 0, 0], [0, 0, 1, 1])
    assert told(starts.backward(clip, 1, 4.0)) == ([0, 5, 6], [1, 0, 0])
    assert told(starts.join(clip, other, 2, 4.0)) == ([5, 6, 0, 0, 8, 9], [0, 0, 1, 1, 0, 0])
    assert told(starts.interpolate(numbered(5, 3), 2, 4.0)) == (
        [5, 0, 0, 6, 0, 0, 7],
        [0, 1, 1, 0, 1, 1, 0],
    )
    assert told(starts.edit(clip, 0.5, 4.0)) == ([5, 6], [0.5, 0.5])


def test_blend_is_a_cross_fade_that_is_edited() -> None:
    first, second = torch.zeros(4, 1, 2, 2), torch.full((5, 1, 2, 2), 4.0)
    values, tau = told(starts.blend(first, second, 3, 4.0, strength=0.75))
    assert values == [0, 1, 2, 3, 4, 4]
    assert tau == [0, 0.75, 0.75, 0.75, 0, 0]
    whole = starts.blend(first[:2], second[:2], 2, 4.0)
    assert told(whole)[1] == [0.8, 0.8]


def test_gaps_of_key_frames_are_filled_a_few_at_once() -> None:
    """Twice over: 2 key frames to 3, to 9; a straight line between them stays one."""
    packs: list[tuple[int, list[int]]] = []

    def line(some: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        packs.append((len(some), list(seeds)))
        assert set(prompts) == {"a walk"}
        made = []
        for start in some:
            assert start.tau[[0, -1]].tolist() == [0, 0]
            assert start.tau[1:-1].tolist() == [1] * (len(start.tau) - 2)
            share = torch.linspace(0, 1, len(start.tau))[:, None, None, None]
            made.append(start.latent[:1] * (1 - share) + start.latent[-1:] * share)
        return made

    keys = numbered(0, 2) * 8
    some = starts.fill_gaps(line, "a walk", keys, 1, 1.0, seed=3)
    every = starts.fill_gaps(line, "a walk", some, 3, 4.0, seed=3, at_once=1)
    assert every[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert packs == [(1, [3]), (1, [3]), (1, [4])]
    packs.clear()
    starts.fill_gaps(line, "a walk", numbered(0, 6), 1, 4.0, seed=0, at_once=2)
    assert packs == [(2, [0, 1]), (2, [2, 3]), (1, [4])]


def test_what_has_nothing_to_make_or_does_not_fit_is_refused() -> None:
    clip = numbered(0, 3)
    with pytest.raises(UserError, match="at least 1 new latent frame, not 0"):
        starts.image_to_video(clip[0], 1, 4.0)
    with pytest.raises(UserError, match=r"of one size, not \(1, 2, 2\) and \(1, 2, 4\)"):
        starts.join(clip, torch.zeros(2, 1, 2, 4), 2, 4.0)
    with pytest.raises(UserError, match="an overlap of 1 to 3"):
        starts.blend(clip, clip, 4, 4.0)
    with pytest.raises(UserError, match="at least 2 key frames"):
        starts.interpolate(clip[:1], 2, 4.0)
    with pytest.raises(UserError, match="at least 2 key frames"):
        starts.fill_gaps(lambda *_: [], "", clip[:1], 2, 4.0, seed=0)
