"""The network as a module: what it reads, and what stands in the place of what it may not see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vidcurate.train.config import from_raw
from vidcurate.train.data import Clips, blank
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.network import Network, objective_of, optimizer_of, pack_of
from vidcurate.train.objective import Objective
from vidcurate.train.tau import causal_weights, tail_alone

MODEL = ModelConfig(width=16, depth=1, heads=2, channels=4, text_width=8)
CPU = torch.device("cpu")


def clips(*frames: int, texts: list[torch.Tensor] | None = None) -> Clips:
    """Clips of so many latent frames; ids a, b, ..."""
    return Clips(
        [chr(97 + i) for i in range(len(frames))],
        ["red", ""][: len(frames)] + [""] * (len(frames) - 2),
        [torch.randn(n, 4, 4, 4) for n in frames],
        [torch.arange(n, dtype=torch.float64) / 2 for n in frames],
        torch.ones(len(frames)),
        1.0,
        texts,
    )


def test_rows_of_a_frozen_encoder_go_straight_to_the_dit():
    network = Network(MODEL, rows=True)
    assert network.text is None
    assert all(name.startswith("dit.") for name, _ in network.named_parameters())
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    texts = [torch.randn(3, 8), torch.randn(1, 8)]
    own = clips(2, 3, texts=texts)
    pack = pack_of(own, network, Objective(), CPU, seed=0, step=0)
    assert pack.texts == [3, 1]
    assert pack.layout.text_offsets.tolist() == [0, 3, 4]
    direct = network.dit(pack.noised.inputs, pack.noised.level, pack.layout, torch.cat(texts))
    assert torch.equal(pack.through(network), direct)
    other = replace(own, texts=[texts[0] + 1, texts[1]])
    changed = pack_of(other, network, Objective(), CPU, seed=0, step=0).through(network)
    first = pack.layout.sample == 0
    assert not torch.allclose(changed[first], direct[first])
    torch.testing.assert_close(changed[~first], direct[~first])


def test_learned_bytes_are_as_before():
    network = Network(MODEL)
    pack = pack_of(clips(2, 3), network, Objective(), CPU, seed=0, step=0)
    assert pack.texts == [4, 1]
    ids, places, _ = network.text.tokenize(["red", ""])
    assert torch.equal(pack.text[0], ids)
    assert torch.equal(pack.text[1], places)


@pytest.mark.parametrize(
    ("tau", "made", "alone"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1], False),  # nothing is kept
        ([0, 0, 1, 1], [0, 0, 1, 1], False),  # forward: codes of a prefix tell of nothing after it
        ([1, 1, 0, 0], [1, 1, 1, 0], True),  # backward
        ([1, 0, 0, 0], [1, 1, 1, 0], True),
        ([0, 0, 1, 0, 0], [0, 0, 1, 1, 0], True),  # join
        ([0, 1, 0, 1, 0], [0, 1, 1, 1, 0], True),  # kept in the middle
        ([0, 1, 0, 1], [0, 1, 1, 1], False),
        ([0.2, 0.7, 1, 0.1], [0.2, 0.7, 1, 0.1], False),  # edit
        ([0, 0, 0], [0, 0, 0], False),
        ([1], [1], False),
    ],
)
def test_a_tail_that_is_kept_is_one_frame(tau, made, alone):
    given = torch.tensor(tau, dtype=torch.float64)
    before = given.clone()
    found, stands = tail_alone(given)
    assert found.tolist() == pytest.approx(made)
    assert stands == alone
    assert torch.equal(given, before)


def test_kinds_that_a_causal_vae_cannot_train_have_no_weight():
    weights = {"forward": 2, "backward": 1, "join": 1, "interpolate": 1, "random": 3, "edit": 1}
    of_one = causal_weights(weights, 1)
    assert of_one == weights | {"interpolate": 0, "random": 0}
    of_two = causal_weights(weights, 2)
    assert {kind for kind, weight in of_two.items() if weight} == {"forward", "edit"}


def test_what_is_generated_is_not_seen_in_what_is_kept():
    """The kept row holds the frame encoded alone, at its time; noise and loss are on the others."""
    last, at = torch.full((1, 4, 4, 4), 7.0), torch.tensor([1.25], dtype=torch.float64)
    asked: list[int] = []

    def alone(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(i)
        return last, at

    own = replace(clips(3, 1, 4), last=alone)
    network = Network(MODEL)
    objective = Objective(masked=1, modes={"backward": 1})
    pack = pack_of(own, network, objective, CPU, seed=3, step=1)
    assert asked == [0, 2], "a picture has no tail"
    rows = pack.noised.level.split([3, 1, 4])
    assert [[bool(level) for level in row] for row in rows] == [[1, 1, 0], [1], [1, 1, 1, 0]]
    kept = (pack.noised.level == 0)[pack.layout.frame]
    assert (pack.noised.inputs[kept] == 7).all()
    assert (pack.noised.inputs[~kept] != 7).all()
    assert (pack.layout.position[kept, 0] == 1.25).all()
    assert torch.equal(pack.noised.real, ~kept)
    assert pack.real == int(pack.noised.real.sum()) == (2 + 1 + 3) * 4
    assert float(own.times[0][-1]) == 1.0, "the clip itself is as it was"


def test_a_blank_clip_takes_part_without_a_trace():
    for network, width in ((Network(MODEL), None), (Network(MODEL, rows=True), 8)):
        pack = pack_of(
            blank((1, 2, 2), 4, width), network, Objective(), CPU, seed=0, step=0, time=0.5
        )
        assert pack.layout.grids == [(1, 1, 1)]
        assert pack.texts == [1]
        assert pack.real == 0
        assert not pack.noised.real.any()


def test_objective_and_optimiser_of_a_recipe():
    raw = {
        "data": {"shards": "a"},
        "model": {"width": 16, "depth": 1, "heads": 2},
        "optimizer": {"weight_decay": 0.1},
        "objective": {"shift": 3.0},
        "steps": 1,
        "output": "o",
    }
    config = from_raw(raw)
    plain, chained = objective_of(config), objective_of(config, chained=True)
    assert plain.shift == chained.shift == 3.0
    assert plain.modes["random"] > 0 == chained.modes["random"]
    decays, others = optimizer_of(Network(config.model), config).param_groups
    assert (decays["weight_decay"], others["weight_decay"]) == (0.1, 0)
    assert all(weight.ndim > 1 for weight in decays["params"])
    assert sum(weight.ndim > 1 for weight in others["params"]) == 1, "the table of bytes"
