"""The demo of the trainer, whole, on a few clips: what it measures, and that it can fail."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import train_demo as demo

from vidcurate.train.config import load
from vidcurate.train.data import clips, dataset

TESTS = Path(__file__).resolve().parent.parent
RECIPE = TESTS.parent / "recipes" / "train" / "dit_demo.yaml"
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def _of_training():
    """The fixtures of the trainer's own tests."""
    path = TESTS / "train" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fixtures_of_training", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shapes = _of_training().shapes


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(folder, output, *more):
    """`--set` of the shipped recipe for a few clips of 16 x 16 pixels."""
    return [
        f"data.shards={folder}", "data.split=all", "data.budget=240", "data.captions=source",
        "data.buckets=null", "data.workers=0",
        "model.width=64", "model.depth=2", "model.heads=2", "model.patch=[1, 4, 4]",
        "model.text_width=16", "optimizer.lr=5e-3", "validate=null", f"output={output}", *more,
    ]  # fmt: skip


def run(folder, output, *more):
    sets = [f for value in small(folder, output, *more) for f in ("--set", value)]
    return demo.main(["--recipe", str(RECIPE), *sets, "--show", "clip001", "--show", "clip002"])


def test_the_demo_trains_checks_and_shows(shapes, tmp_path, capsys):
    assert run(shapes(6), tmp_path, "steps=80") == 0
    said = capsys.readouterr().out
    assert "(to be under 0.8)" in said
    figures = json.loads((tmp_path / "demo.json").read_text())
    fit = figures["fit"]
    assert fit["model"] < 0.8 * fit["constant"]
    # Six clips of 80 tokens are two packs of 240: nothing is empty, both cost alike.
    assert figures["run"]["padding"] == pytest.approx(0)
    assert figures["run"]["balance_two_ranks"] == pytest.approx(1)
    assert [one["sample"] for one in figures["shown"]] == ["clip001", "clip002"]
    assert figures["shown"][0]["caption"] == "a green square moves right"
    for one in figures["shown"]:
        assert one["moved"] < one["untrained"]
    with av.open(str(tmp_path / "sample.gif")) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == 5
    assert (tmp_path / "sample.mp4").stat().st_size > 0


def test_a_model_that_learnt_nothing_fails(shapes, tmp_path, capsys):
    assert run(shapes(6), tmp_path, "steps=2", "optimizer.warm_up=1", "optimizer.lr=1e-9") == 1
    said = capsys.readouterr().err
    assert "of the best constant predictor's" in said
    assert "frame 2 of clip001 is no nearer to frame 1" in said


def test_a_clip_that_is_not_there_is_told(shapes, tmp_path, capsys):
    raw = small(shapes(3), tmp_path, "steps=1", "optimizer.warm_up=1")
    sets = [f for value in raw for f in ("--set", value)]
    assert demo.main(["--recipe", str(RECIPE), *sets, "--show", "bunny"]) == 2
    assert "no clip of more than one frame comes from 'bunny'" in capsys.readouterr().err


def test_the_best_constant_is_the_variance_of_the_targets(shapes, tmp_path):
    config = load(RECIPE, overrides=[*small(shapes(6), tmp_path), "objective.masked=0"])
    batches = dataset(config.data, config.model, split="all", workers=0)
    packs = [clips(batch, config.model.patch) for batch in batches]
    torch.manual_seed(0)
    network = demo.untrained(config)
    fitted = demo.fit(network, packs, config)
    # A velocity is noise less pixel: its variance is 1 and that of each of a token's 48 numbers.
    video = torch.cat([latent for own in packs for latent in own.latents])  # (T, 3, 16, 16)
    tokens = video.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
    assert fitted.constant == pytest.approx(1 + float(tokens.var(0).mean()), rel=0.02)
    # An untrained model says 0: its loss is the mean square, of noise and of pixels.
    assert fitted.model == pytest.approx(1 + float(tokens.square().mean()), rel=0.02)


def test_the_picture_has_what_was_given_what_was_made_and_the_clip():
    rng = np.random.default_rng(0)
    clip, made = rng.integers(0, 256, (2, 3, 8, 12, 3)).astype(np.uint8)
    made[0] = clip[0]
    film = demo.picture([(clip, made), (clip[:2], made[:2])])
    assert len(film) == 3
    width, gap, top = 12 * 4, 6, 22
    columns = [film[:, top : top + 32, gap + n * (width + gap) :][:, :, :width] for n in range(3)]
    given, generated, real = columns
    assert (given[2] == given[0]).all()
    assert (generated[0] == given[0]).all()
    assert (generated[1] != real[1]).any()
    assert (real[1] != real[0]).any()
