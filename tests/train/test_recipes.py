"""Each training recipe that ships: its head says what it needs, and it trains ten steps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.media.frame_files import save_frames
from vidcurate.train.checkpoint import checkpoints
from vidcurate.train.config import load
from vidcurate.train.loop import train
from vidcurate.train.metrics import read

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "train"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

BASED = "finetune"  # in the names of those that begin with another training's weights
SIZE = 32  # pixels: two patches of two latents of eight pixels
TINY = {"model.width": 32, "model.depth": 2, "model.heads": 2, "optimizer.warm_up": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def frozen(checkpoint) -> dict[str, dict[str, object]]:
    """Tiny models in place of those that a recipe names, and the widths of their codes."""
    wan, t5 = checkpoint("vae", "AutoencoderKLWan"), checkpoint("text_encoder", "umt5")
    kl, clip = checkpoint("vae", "AutoencoderKL"), checkpoint("clip_text")
    of_wan = {"encode.vae": wan, "encode.text": t5, "model.text_width": 32}
    return {
        "dit_wan": of_wan,
        "finetune_lora": of_wan,
        "latte": {"encode.vae": kl, "encode.text": clip, "model.text_width": 32},
    }


def precached(name: str, changes: dict[str, object]) -> None:
    """Precache what a shipped recipe encodes, as its head says."""
    sets = [word for value in _given(changes) for word in ("--set", value)]
    sets += ["--set", "data.workers=0", "--set", "optimizer.warm_up=0"]
    done = CliRunner().invoke(app, ["precache", str(FOLDER / f"{name}.yaml"), *sets])
    assert done.exit_code == 0, done.output


def trained(name: str, output: Path, changes: dict[str, object], steps: int) -> Path:
    """Train a shipped recipe; the output."""
    always = {"data.workers": 0, "device": "cpu", "parallel": "ddp", "steps": steps}
    always |= {"validate.every": steps, "validate.sampling_steps": 2, "validate.videos": 1}
    always |= {"output": output}
    config = load(
        FOLDER / f"{name}.yaml",
        overrides=[f"{key}={value}" for key, value in (TINY | changes | always).items()],
    )
    assert train(config, show=lambda _: None, write=save_frames).step == steps
    return output


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_its_head_names_what_it_needs(name, monkeypatch):
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    head = text.partition("\nname:")[0]
    assert f"recipes/train/{name}.yaml" in head
    for variable in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(variable, "given")
        assert f"{variable}=" in head
    config = load(FOLDER / f"{name}.yaml")
    assert config.output.split("/")[-1] in head  # where its samples come from


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_ten_steps(name, shapes, tmp_path, frozen):
    shards = shapes(6, sizes=((5, SIZE, SIZE),), val=0.5)
    changes: dict[str, object] = {"data.shards": shards, **frozen.get(name, {})}
    if name in frozen:  # what is precached stands beside its shards
        changes["data.shards"] = copytree(shards, tmp_path / "shards")
        precached(name, {**changes, "init_from.checkpoint": "none"} if BASED in name else changes)
        changes["encode.precached"] = "only"
    if name == "dit_demo":
        # These clips have no scores, and are of other buckets.
        changes |= {"data.captions": "source", "data.buckets": "null"}
    if BASED in name:
        changes["init_from.checkpoint"] = trained("dit_wan", tmp_path / "base", changes, 2)
    output = trained(name, tmp_path / "out", changes, 10)
    lines = read(output / "metrics.jsonl")
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()
    assert np.isfinite([line["val_loss"] for line in lines if "val_loss" in line]).all()
    averaged = load(FOLDER / f"{name}.yaml", overrides=_given(changes)).ema is not None
    videos = sorted(path.name[:3] for path in (output / "samples").rglob("*.mp4"))
    assert videos == (["ema", "raw"] if averaged else ["raw"])
    said = json.loads((checkpoints(output / "checkpoints")[-1] / "train.json").read_text())
    assert said["step"] == 10
    if name in frozen:
        assert said["encode"]["compression"] == [1 if name == "latte" else 4, 8, 8]
    assert bool(said.get("lora")) == (BASED in name)


def _given(changes: dict[str, object]) -> Sequence[str]:
    return [f"{key}={value}" for key, value in changes.items()]


def test_the_lora_recipe_is_of_the_model_of_its_base():
    base, tuned = (
        yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
        for name in ("dit_wan", "finetune_lora")
    )
    assert tuned["model"] == base["model"]
    for section in ("encode", "objective"):
        same = tuned[section].items() & base[section].items()
        assert same == tuned[section].items()
