"""`vidcurate models`, against a local server that speaks the hubs' HTTP."""

import json

import pytest
from hub_server import COMMIT

OPERATOR = '''
from vidcurate import Column, Frames, Scorer, models


class Seen(Scorer):
    """A scorer with weights."""

    name = "seen"
    columns = {"": Column("float32", description="Nothing.")}
    model: str = "me/model"
    hub: str | None = None

    def request(self):
        return Frames(count=1, short_side=32)

    def models(self):
        return (models.ModelRef(self.model, hub=self.hub),)

    def score(self, clip):
        return {"": 0.0}
'''


@pytest.fixture
def recipe(tmp_path):
    """A recipe with three steps that name weights, two of them the same."""
    (tmp_path / "seen.py").write_text(OPERATOR)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "source: {folder: {path: videos}}\noutput: out\noperators: [seen.py]\nscore:\n"
        "  - seen: {id: a}\n  - seen: {id: b}\n"
        f"  - seen: {{id: c, model: {tmp_path / 'mine'}}}\n"
    )
    return path


def test_pull_then_list(command, recipe, model_hub, tmp_path):
    before = json.loads(command("models", "list", recipe, "--json").stdout)
    assert [(row["model"], row["path"]) for row in before] == [
        ("me/model", None),
        (str(tmp_path / "mine"), str(tmp_path / "mine")),
    ]
    assert "what is missing: vidcurate models pull" in command("models", "list", recipe).stdout
    assert model_hub.asked == []

    result = command("models", "pull", recipe, "--json")
    assert result.exit_code == 0, result.output
    model, mine = json.loads(result.stdout[result.stdout.index("[\n") :])
    folder = tmp_path / f"weights/huggingface/models--me--model/snapshots/{COMMIT}"
    assert model == {
        "model": "me/model",
        "hub": "huggingface",
        "revision": COMMIT,
        "size": 200_000 + 21 + 4,  # the weights, config.json and vocab.txt
        "licence": "apache-2.0",
        "path": str(folder),
        "steps": ["a", "b"],
    }
    assert (mine["hub"], mine["size"], mine["licence"]) == ("local", 2, "unknown")
    assert mine["revision"].startswith("sha256:")

    [cached] = json.loads(command("models", "list", "--json").stdout)
    assert (cached["model"], cached["revision"]) == ("me/model", COMMIT)
    table = command("models", "list").stdout
    assert "apache-2.0" in table
    assert COMMIT[:12] in table
    assert "not here" not in command("models", "list", recipe).stdout


def test_pull_says_all_that_cannot_be_had(command, recipe, model_hub):
    result = command(
        "models",
        "pull",
        recipe,
        "--set",
        "score.a.model=me/gated",
        "--set",
        "score.c.model=./none",
    )
    assert result.exit_code == 2
    assert "accept its licence" in result.stderr
    assert "no file or folder ./none" in result.stderr
    assert "me/model" in result.stdout  # the others are fetched all the same


def test_a_recipe_without_weights(command, tmp_path, model_hub):
    path = tmp_path / "recipe.yaml"
    path.write_text("source: {folder: {path: videos}}\noutput: out\nscore: [sharpness]\n")
    assert command("models", "pull", path).stdout == f"no step of {path} names weights\n"
    assert command("models", "list").stdout == "no weights are cached on this machine\n"


def test_a_name_that_stands_for_nothing_is_told_with_its_step(command, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "source: {folder: {path: videos}}\noutput: out\nscore:\n"
        "  - embedding: {id: mine, model: ViT-B-32/opnai}\n"
    )
    result = command("models", "list", path)
    assert result.exit_code == 2
    assert "step 'mine': open_clip has no weights 'opnai' of ViT-B-32 on a hub" in result.stderr


def test_a_recipe_of_training_names_its_encoders(command, tmp_path, model_hub):
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    path = tmp_path / "train.yaml"
    path.write_text(
        "data: {shards: none}\nmodel: {preset: DiT-S}\nsteps: 1\noutput: out\n"
        f"encode: {{vae: me/model, text: {tmp_path / 'text_encoder'}}}\n"
    )
    rows = json.loads(command("models", "list", path, "--json").stdout)
    assert [(row["model"], row["steps"], row["hub"]) for row in rows] == [
        ("me/model", ["encode.vae"], "huggingface"),
        (str(tmp_path), ["encode.text"], "local"),  # with the tokenizer beside it
    ]
    pulled = command("models", "pull", path, "--set", "encode.text=null", "--json")
    assert pulled.exit_code == 0, pulled.output
    (row,) = json.loads(pulled.stdout[pulled.stdout.index("[\n") :])
    assert (row["model"], row["revision"]) == ("me/model", COMMIT)
