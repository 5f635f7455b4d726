"""Starts of frames on latents: what the model is given of kept frames, and where its own come out.

The sampler of these tests knows the answer: it gives the code of a clip that the test has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.models import load_vae
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.coding import CLOSING, Coding
from vidcurate.train.sampling.starts import Start

Vaes = Callable[[str], Coding]
FPS = 8.0


@pytest.fixture(scope="module")
def coding(checkpoint: Callable[..., Path]) -> Vaes:
    torch.set_num_threads(1)
    kept: dict[str, Coding] = {}

    def make(kind: str) -> Coding:
        if kind not in kept:
            kept[kind] = Coding(load_vae(str(checkpoint("vae", kind)), device="cpu"))
        return kept[kind]

    return make


class Oracle:
    """Answers with the code of a clip wherever something is to be made; remembers the starts."""

    def __init__(self, vae: Coding, clip: Tensor) -> None:
        assert vae.vae is not None
        self.code = vae.vae.encode(clip)
        self.seen: list[Start] = []
        self.seeds: list[int] = []

    def __call__(
        self, begun: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        self.seen += begun
        self.seeds += seeds
        made = []
        for start in begun:
            latent = start.latent.clone()
            new = start.tau > 0
            latent[new] = self.code[: len(new)][new]
            made.append(latent)
        return made


def clip(frames: int, seed: int = 0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.rand(frames, 3, 16, 24, generator=noise) * 2 - 1


def sample(vae: Coding, oracle: Oracle, start: Start) -> Tensor:
    (made,) = vae.sample(oracle, [start], ["a"], [3])
    kept = start.tau == 0
    assert made.shape == start.latent.shape
    assert torch.equal(made[kept], start.latent[kept])
    return made


def test_pixels_go_through_as_they_are() -> None:
    start = starts.image_to_video(clip(1)[0], 3, FPS)
    seen: list[Start] = []

    def sampler(begun: Sequence[Start], *_: object) -> list[Tensor]:
        seen.extend(begun)
        return [begun[0].latent + 1]

    plain = Coding()
    assert (plain.every, plain.scale) == (1, (1, 1))
    assert torch.equal(plain.sample(sampler, [start], ["a"], [0])[0], start.latent + 1)
    assert seen == [start]


def test_a_vae_of_single_frames_keeps_any_frame(coding: Vaes) -> None:
    vae, truth = coding("AutoencoderTiny"), clip(5)
    assert vae.vae is not None
    assert (vae.every, vae.scale) == (1, (8, 8))
    oracle = Oracle(vae, truth)
    made = sample(vae, oracle, starts.interpolate(truth[::2], 1, FPS))
    (start,) = oracle.seen
    assert start.latent.shape == (5, 4, 2, 3)
    assert start.times.tolist() == [0, 0.125, 0.25, 0.375, 0.5]
    assert torch.equal(start.latent[::2], vae.vae.encode(truth[::2]))
    assert not start.latent[1::2].any()  # nothing is told of what is to be made
    assert torch.allclose(made[1::2], vae.vae.decode(oracle.code)[1::2], atol=1e-5)


def test_an_edit_begins_with_the_whole_code(coding: Vaes) -> None:
    for kind, rows in (("AutoencoderTiny", 5), ("AutoencoderKLWan", 2)):
        vae, truth = coding(kind), clip(5)
        oracle = Oracle(vae, clip(5, seed=1))
        made = sample(vae, oracle, starts.edit(truth, 0.5, FPS))
        assert vae.vae is not None
        assert oracle.seen[0].tau.tolist() == [0.5] * rows
        assert torch.allclose(oracle.seen[0].latent, vae.vae.encode(truth), atol=1e-6)
        assert torch.allclose(made, vae.vae.decode(oracle.code), atol=1e-5)


def test_a_causal_vae_keeps_a_beginning_of_whole_latent_frames(coding: Vaes) -> None:
    """What is kept has the code that it has in the whole clip, so the rest comes out right."""
    vae, truth = coding("AutoencoderKLWan"), clip(13)
    assert vae.vae is not None
    whole = vae.vae.decode(vae.vae.encode(truth))
    for keep, rows in ((1, 1), (5, 2), (9, 3)):
        oracle = Oracle(vae, truth)
        made = sample(vae, oracle, starts.forward(truth[:keep], 13 - keep, FPS))
        (start,) = oracle.seen
        assert start.tau.tolist() == [0] * rows + [1] * (4 - rows)
        assert torch.allclose(start.latent[:rows], oracle.code[:rows], atol=1e-5)
        assert not start.latent[rows:].any()
        assert start.times.tolist() == [0, 2.5 / FPS, 6.5 / FPS, 10.5 / FPS]
        assert torch.allclose(made[keep:], whole[keep:], atol=1e-4)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_causal_vae_keeps_one_frame_at_the_end_encoded_alone(coding: Vaes, before: int) -> None:
    vae, truth = coding("AutoencoderKLWan"), clip(13)
    assert vae.vae is not None
    oracle = Oracle(vae, truth)
    if before:
        start = starts.join(truth[:before], truth[12:], 12 - before, FPS)
    else:
        start = starts.backward(truth[12:], 12, FPS)
    made = sample(vae, oracle, start)
    first, second = oracle.seen
    rows = (before + 3) // 4
    assert first.tau.tolist() == [0] * rows + [1] * (3 - rows) + [0]
    assert first.times.tolist() == [0, 2.5 / FPS, 6.5 / FPS, 12 / FPS]
    alone = vae.vae.encode(truth[12:])
    assert torch.allclose(first.latent[3:], alone, atol=1e-6)
    assert not torch.allclose(alone, oracle.code[3:], atol=0.1)  # the tail's own code says more
    assert torch.allclose(first.latent[:rows], oracle.code[:rows], atol=1e-5)

    # The second pass makes the group that ends with it, after all that the first one made.
    assert second.tau.tolist() == [0, 0, 0, CLOSING]
    assert second.times.tolist() == [0, 2.5 / FPS, 6.5 / FPS, 10.5 / FPS]
    assert torch.allclose(second.latent[:3], oracle.code[:3], atol=1e-5)
    shown = vae.vae.decode(oracle.code[:3])
    share = torch.tensor([0.25, 0.5, 0.75, 1])[:, None, None, None]
    faded = torch.cat([shown, shown[-1:] * (1 - share) + truth[12:] * share])
    assert torch.allclose(second.latent[3:], vae.vae.encode(faded)[3:], atol=1e-4)
    assert len(set(oracle.seeds)) == 2  # other noise

    whole = vae.vae.decode(oracle.code)
    assert torch.allclose(made[before:12], whole[before:12], atol=1e-3)


def test_frames_after_the_first_of_a_tail_are_not_looked_at(coding: Vaes) -> None:
    vae, truth = coding("AutoencoderKLWan"), clip(9)
    made = [
        sample(vae, Oracle(vae, truth), starts.backward(tail, 8, FPS))
        for tail in (truth[:1], truth[:3])
    ]
    assert torch.equal(made[0][:8], made[1][:8])
    assert torch.equal(made[1][8:], truth[:3])


def test_a_blend_on_a_causal_vae_is_a_join_that_begins_as_a_cross_fade(coding: Vaes) -> None:
    vae, one, two = coding("AutoencoderKLWan"), clip(8, seed=1), clip(8, seed=2)
    assert vae.vae is not None
    oracle = Oracle(vae, clip(9))
    start = starts.blend(one, two, 7, FPS, 0.75)  # a frame, 7 of both, a frame
    sample(vae, oracle, start)
    first, second = oracle.seen
    assert first.tau.tolist() == [0, 0.75, 0]
    assert second.tau.tolist() == [0, 0, 0.75]
    code = vae.vae.encode(start.latent)
    assert torch.allclose(first.latent[:2], code[:2], atol=1e-5)
    assert torch.allclose(first.latent[2:], vae.vae.encode(two[7:]), atol=1e-5)
    assert torch.allclose(second.latent[2:], code[2:], atol=1e-5)


def test_what_a_causal_vae_cannot_do_is_refused_with_the_reason(coding: Vaes) -> None:
    vae, truth = coding("AutoencoderKLWan"), clip(9)
    oracle = Oracle(vae, truth)
    for start, message in (
        (starts.interpolate(truth[::4], 3, FPS), "cannot keep frames in the middle of a clip"),
        (starts.forward(truth[:3], 6, FPS), r"keeps 1 \+ 4 k frames at the beginning, not 3"),
        (
            starts.forward(truth[:1], 5, FPS),
            r"takes 1 \+ 4 k frames, not 6: 1 that are kept, 5 new",
        ),
        (starts.join(truth[:1], truth[:1], 3, FPS), "needs 7 new frames before one .* not 3"),
    ):
        with pytest.raises(UserError, match=message):
            sample(vae, oracle, start)
