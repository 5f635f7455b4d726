"""Training recipes: what they hold, and how mistakes are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from vidcurate.errors import RecipeError
from vidcurate.train.config import from_raw, load
from vidcurate.train.tau import DEFAULT_WEIGHTS

SMALL = """
data:
  shards: ${SHARDS}
  captions: {mix: {long: 2, short: 1}, drop: 20%}
model: {width: 32, depth: 2, heads: 4}
steps: 10
output: out
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDS", "/shards/base")

    def write(text: str = SMALL) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return path

    return write


def test_a_recipe_has_its_defaults_and_variables(recipe):
    config = load(recipe())
    assert config.name == "small"
    assert config.data.shards == "/shards/base"
    assert config.data.batching == "pack"
    assert config.objective.modes == DEFAULT_WEIGHTS
    assert config.objective.masked == 0.25
    assert config.validate_.every is None
    assert config.ema == 0.9999


def test_overrides_go_before_the_file(recipe):
    config = load(
        recipe(),
        overrides=["optimizer.lr=1e-3", "model.preset=DiT-B", "ema=null", "validate.every=5"],
    )
    assert config.optimizer.lr == 1e-3
    assert (config.model.width, config.model.preset) == (32, "DiT-B")
    assert config.ema is None
    assert config.validate_.every == 5


def test_what_is_encoded_is_by_default_pixels_and_bytes(recipe):
    config = load(recipe())
    assert (config.encode.vae, config.encode.text) == (None, None)
    assert (config.encode.precached, config.encode.variants) == ("auto", 4)
    given = ["encode.vae=a/b/vae@main", "encode.text=a/b/text_encoder", "encode.dtype=fp32"]
    encode = load(recipe(), overrides=given).encode
    assert (encode.vae, encode.text) == ("a/b/vae@main", "a/b/text_encoder")
    assert encode.max_text_tokens == 512


def test_captions_take_the_rate_of_dropping_from_where_it_is_given(recipe):
    own = load(recipe()).data
    assert own.rendered(drop=True).drop == 0.2
    assert own.rendered(drop=False).drop == 0.0
    given = load(recipe(), overrides=["data.captions=long", "data.drop_captions=0.3"]).data
    assert given.rendered(drop=True).drop == 0.3
    assert dict(given.rendered(drop=True).mix) == {"{long}": 1.0}


def test_every_mistake_is_told_with_its_line_and_the_nearest_name(recipe):
    text = SMALL.replace("steps: 10", "steps: 0\noptimiser: {lr: 1}\nobjective: {modes: {jion: 1}}")
    with pytest.raises(RecipeError) as error:
        load(recipe(text.replace("heads: 4", "heads: 4, patsh: [1, 4, 4]")))
    said = "\n".join(error.value.problems)
    assert "small.yaml:5: model.patsh: unknown key 'patsh'; did you mean 'patch'?" in said
    assert "small.yaml:6: steps: should be greater than or equal to 1, is 0" in said
    assert "small.yaml:7: optimiser: unknown key 'optimiser'; did you mean 'optimizer'?" in said
    assert "small.yaml:8: objective.modes.jion: 1 is not possible here" in said
    assert len(error.value.problems) == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.captions={long: 0}", "every weight in mix is 0"),
        ("optimizer.warm_up=11", "11 steps are more than the 10"),
        ("data.shards={a: 0}", "greater than 0"),
        ("precision=fp16", "bf16"),
        ("steps=null", "'steps' is missing"),
        ("encode.vea=a/b", "did you mean 'vae'"),
        ("encode.precached=never", "auto"),
        ("encode.variants=0", "greater than or equal to 1"),
    ],
)
def test_values_that_cannot_be_are_refused(recipe, override, said):
    with pytest.raises(RecipeError, match=said):
        load(recipe(), overrides=[override])


def test_what_is_no_recipe_is_told(tmp_path, recipe, monkeypatch):
    recipe()
    with pytest.raises(RecipeError, match=r"no training recipe .*smal\.yaml.*small\.yaml"):
        load(tmp_path / "smal.yaml")
    with pytest.raises(RecipeError, match="no mapping of keys"):
        load(recipe("- a"))
    monkeypatch.delenv("SHARDS")
    with pytest.raises(RecipeError, match="SHARDS is not set"):
        load(recipe())


def test_a_config_cannot_be_changed(recipe):
    with pytest.raises(ValidationError, match="frozen"):
        load(recipe()).steps = 11


def test_plain_values_are_as_good_as_a_file():
    raw = {"data": {"shards": "a"}, "model": {"preset": "DiT-S"}, "steps": 1, "output": "o"}
    assert from_raw(raw).model.width == 384


def test_reading_a_recipe_and_the_command_line_need_no_torch():
    code = (
        "import sys, vidcurate.train.config, vidcurate.train.codes, "
        "vidcurate.train.resize, vidcurate.cli.main; "
        "sys.exit(sorted(m for m in sys.modules if m in ('torch', 'ray', 'decord')) != [])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
