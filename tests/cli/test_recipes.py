import json

import pytest

from vidcurate.operator import registry

RECIPE = """\
source: {folder: {path: .}}
output: out
split: [scenes: {max_length: 16s}]
score:
  - technical
  - motion: {p95: {min: 0.5}, gate: true}
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE)
    return file


def test_a_valid_recipe_is_shown(command, recipe):
    result = command("validate", recipe)
    assert result.exit_code == 0
    assert f"{recipe}: the recipe 'mine' is valid; it writes to out" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["split", "scenes", "scenes", "max_length=16.0"] in lines
    assert ["score", "motion", "motion", "p95", "min=0.5", "(gate)"] in lines


def test_as_json(command, recipe):
    result = command(
        "validate", recipe, "--json", "--set", "score.motion.p95.min=2", "--output", "x"
    )
    facts = json.loads(result.stdout)
    assert (facts["name"], facts["output"]) == ("mine", "x")
    assert [(s["pass"], s["id"]) for s in facts["steps"]] == [
        ("source", "folder"),
        ("split", "scenes"),
        ("score", "technical"),
        ("score", "motion"),
    ]
    assert facts["steps"][3]["thresholds"]["p95"]["min"] == 2.0
    assert facts["steps"][1]["parameters"]["max_length"] == 16.0


def test_a_recipe_of_training_is_checked_by_its_own_rules(command, tmp_path):
    file = tmp_path / "dit.yaml"
    file.write_text(
        "data: {shards: out}\nmodel: {width: 64, depth: 2, heads: 2}\nsteps: 5\noutput: x\n"
    )
    result = command("validate", file, "--output", "y")
    assert result.stdout == f"{file}: the training recipe 'dit' is valid; it writes to y\n"
    facts = json.loads(command("validate", file, "--json").stdout)
    assert (facts["name"], facts["model"]["width"], facts["validate"]["every"]) == ("dit", 64, None)
    result = command("validate", file, "--set", "optimizer.warm_up=9")
    assert result.exit_code == 2
    assert result.stderr == f"error: {file}:1: optimizer.warm_up: 9 steps are more than the 5\n"


def test_mistakes_end_with_2(command, recipe):
    result = command("validate", recipe, "--set", "score.motion.p59.min=2")
    assert result.exit_code == 2
    assert "error: --set score.motion.p59.min=2: score.motion.p59: unknown key 'p59'; did" in (
        result.stderr
    )


def test_own_operators(command, recipe, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from vidcurate import column, scorer\n"
        "@scorer('own', columns=column('float32'))\n"
        "def own(clip):\n    'Ours.'\n    return 1.0\n"
    )
    recipe.write_text(RECIPE + "  - own\n")
    assert command("validate", recipe).exit_code == 2
    assert command("validate", recipe, "--operators", own).exit_code == 0
    schema = json.loads(command("schema", "--operators", own).stdout)
    assert schema["$defs"]["scorer.own"]["description"] == "Ours."


def test_the_schema(command):
    schema = json.loads(command("schema").stdout)
    assert schema["title"] == "vidcurate recipe"
    assert "scorer.motion" in schema["$defs"]


def test_the_extras_of_a_step_follow_from_its_parameters(command, recipe, monkeypatch):
    asked = [*(registry.requires("vidcurate") or []), 'not-there>=1; extra == "models"']
    monkeypatch.setattr(registry, "requires", lambda _: asked)
    assert "not-there" not in command("validate", recipe).stdout
    for change in ("detector=transnetv2", "stitch.piece=5s"):
        found = command("validate", recipe, "--set", f"split.scenes.{change}")
        assert "needs not-there" in found.stdout
        assert "pip install 'vidcurate[models]'" in found.stdout
