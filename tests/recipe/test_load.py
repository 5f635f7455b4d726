# ruff: noqa: E501 (tables of mistakes read better with one a line)

import json
import os
from pathlib import Path

import pytest

from vidcurate.errors import RecipeError
from vidcurate.recipe.load import from_raw, load, parse, preset, shipped
from vidcurate.recipe.model import Acquire, Buckets, Encode, Selection

WHOLE = """\
name: whole
source: {folder: {path: "${VIDEOS}"}}
split:
  - timestamps
  - scenes: {detector: adaptive, trim: 0.3s, max_length: 16s, keep: longest}
edit:
  - borders
audit: 1%
score:
  - technical: {short_side: {min: 480}, codec: [h264, hevc]}
  - motion: {p95: {min: 0.5}, gate: true, on_error: skip}
  - motion: {id: motion_2, report_only: true}
  - sharpness: {min: 4, on_null: drop}
select:
  base: {where: "motion_p95 > 1", per_video: 3}
  all:
pack:
  buckets: {short_side: [256, 480], aspect: [16:9, 1:1], frames: [1, 49]}
  encode: {codec: hevc, crf: 20}
  shard_size: 64MiB
acquire: {timeout: 5m, allow_hosts: ["localhost:8000"]}
limits: {memory: 2GiB}
commit: {every: 10s}
media: clips
hdr: refuse
profile: fast
executor: {ray: {address: "ray://head:10001"}}
output: out
"""


def test_a_whole_recipe(monkeypatch):
    monkeypatch.setenv("VIDEOS", "/videos")
    recipe = parse(WHOLE, path="whole.yaml")
    assert recipe.name == "whole"
    assert [s.id for s in recipe.sources] == ["folder"]
    assert str(recipe.source_operators[0].path) == "/videos"
    assert [s.id for s in recipe.split] == ["timestamps", "scenes"]
    assert recipe.splitters[1].trim == 0.3
    assert recipe.splitters[1].max_length == 16.0
    assert recipe.editors[0].name == "borders"
    assert [s.id for s in recipe.score] == ["technical", "motion", "motion_2", "sharpness"]
    technical, motion, second, sharpness = recipe.score
    assert technical.thresholds["short_side"].min == 480
    assert technical.thresholds["codec"].allow == ("h264", "hevc")
    assert (motion.gate, motion.on_error, motion.thresholds["p95"].min) == (True, "skip", 0.5)
    assert second.report_only
    assert second.columns == ["motion_2_mean", "motion_2_p95", "motion_2_residual"]
    assert sharpness.thresholds[""].min == 4
    assert sharpness.thresholds[""].on_null == "drop"
    assert recipe.select == {
        "base": Selection(where="motion_p95 > 1", per_video=3),
        "all": Selection(),
    }
    assert recipe.pack.buckets == Buckets(
        short_side=(256, 480), aspect=("16:9", "1:1"), frames=(1, 49)
    )
    assert recipe.pack.encode == Encode(codec="hevc", crf=20)
    assert recipe.pack.shard_size == 64 * 2**20
    assert recipe.acquire == Acquire(timeout=300.0, allow_hosts=("localhost:8000",))
    assert recipe.limits.memory == 2 * 2**30
    assert recipe.commit.every == 10.0
    assert (recipe.audit, recipe.media, recipe.hdr, recipe.profile) == (
        0.01,
        "clips",
        "refuse",
        "fast",
    )
    assert (recipe.executor, recipe.address) == ("ray", "ray://head:10001")
    assert recipe.output == "out"
    assert recipe.path == "whole.yaml"


def test_only_source_and_output_are_needed(recipe):
    bare = recipe("")
    assert bare.name == "f"
    assert bare.split == bare.edit == bare.score == bare.group == bare.annotate == ()
    assert bare.select == {"default": Selection()}
    assert bare.pack is None
    assert (bare.executor, bare.address, bare.audit) == ("inline", None, 0.0)


def test_a_key_without_a_value_stands_for_its_defaults(recipe):
    bare = recipe("select:\npack:\nlimits:\nscore:\naudit:\n")
    assert bare.select == {"default": Selection()}
    assert bare.pack is not None
    assert bare.pack.encode == "copy"
    assert bare.score == ()


def test_raw_gives_the_same_recipe_and_holds_no_secrets(monkeypatch):
    monkeypatch.setenv("VIDEOS", "/secret")
    recipe = parse(WHOLE, path="whole.yaml", overrides=["score.motion.p95.min=0.7"])
    text = json.dumps(recipe.raw)
    assert "/secret" not in text
    assert "${VIDEOS}" in text
    again = from_raw(json.loads(text), path="whole.yaml")
    assert again == recipe
    assert again.step("motion").thresholds["p95"].min == 0.7
    assert from_raw(recipe.raw, overrides=["audit=0"]).audit == 0
    assert recipe.raw["audit"] == "1%"


def test_input_output_executor_and_address_replace_what_the_recipe_says(monkeypatch):
    monkeypatch.delenv("VIDEOS", raising=False)
    recipe = parse(WHOLE, input="/other", output="there", executor="inline")
    assert str(recipe.source_operators[0].path) == "/other"
    assert recipe.output == recipe.raw["output"] == "there"
    assert (recipe.executor, recipe.address) == ("inline", None)
    assert parse(WHOLE, input="/x").address == "ray://head:10001"
    named = "source: {name: folder, id: mine, path: x}\noutput: out"
    assert str(parse(named, input="/y").source_operators[0].path) == "/y"
    assert parse(named, address="auto").executor == "ray"
    assert parse(named, address="auto").address == "auto"


def test_all_mistakes_are_told_at_once_in_the_order_of_lines(problems):
    found = problems(
        """\
        audit: 3
        scores: []
        score:
          - motion: {p59: {min: 0.5}}
          - motoin
        limits: {time: 5}
        """,
        overrides=["nonsense"],
    )
    assert [p.partition(": ")[0] for p in found] == [
        "f.yaml:3",
        "f.yaml:4",
        "f.yaml:6",
        "f.yaml:7",
        "f.yaml:8",
        "--set nonsense",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audit: 3", "f.yaml:3: audit: a share lies between 0 and 1 (0% and 100%) (is 3)"),
        ("scores: []", "f.yaml:3: unknown key 'scores'; did you mean 'score'? (known: source, "),
        ("media: clip", "f.yaml:3: media: \"clip\" is not possible here; did you mean 'clips'?"),
        ("name: 5", "f.yaml:3: name: should be text, is 5"),
        ("limits:\n  time: 5", "f.yaml:4: limits.time: a duration needs a number and a unit"),
        ("limits: {memory: 3}", "f.yaml:3: limits.memory: a size needs a number and a unit"),
        ("limits: {tmie: 3s}", "limits.tmie: unknown key 'tmie'; did you mean 'time'?"),
        ("limits: 3", "f.yaml:3: limits: should be a mapping of keys: Limits, is 3"),
        ("commit: {clips: x}", "commit.clips: should be a whole number, is \"x\""),
        ("commit: {clips: 0}", "commit.clips: should be greater than or equal to 1, is 0"),
        ("pack: {buckets: {short_side: [250], frames: [1]}}", "250 is no multiple of 16; try 256"),
        ("pack: {buckets: {short_side: [256], frames: [48]}}", "48 is not of the form 4k+1; try 49"),
        ("pack: {buckets: {short_side: [256]}}", "f.yaml:3: pack.buckets: 'frames' is missing"),
        ("pack: {buckets: atuo}", "f.yaml:3: pack.buckets: \"atuo\" is not possible here; did you mean 'auto'?"),
        ("pack: {buckets: {short_side: [256], frames: [1], skip: [256p_16x9_5f]}}", "f.yaml:3: pack.buckets: skip '256p_16x9_5f' is none of the groups"),
        ("pack:\n  buckets:\n    short_side: 256\n    frames: [1]", "f.yaml:5: pack.buckets.short_side: should be a list, is 256"),
        ("pack: {encode: {codec: h246}}", "pack.encode.codec: \"h246\" is not possible here; did you mean 'h264'?"),
        ("pack: {encode: {crff: 1}}", "pack.encode.crff: unknown key 'crff'; did you mean 'crf'? (known: codec, crf, preset)"),
        ("pack: {encode: cpy}", "f.yaml:3: pack.encode: \"cpy\" is not possible here; did you mean 'copy'?"),
        ("select: {base: {were: a}}", "select.base.were: unknown key 'were'; did you mean 'where'?"),
        ("select: {a/b: {}}", "f.yaml:3: select.a/b: a selection's name becomes a folder"),
        ("select: {base: 5}", "f.yaml:3: select.base: should be a mapping of keys"),
        ("executor: rai", "f.yaml:3: executor: \"rai\" is not possible here; did you mean 'ray'?"),
        ("executor: {ray: {adress: x}}", "executor.ray.adress: unknown key 'adress'; did you mean 'address'?"),
        ("score: {motion: {}}", "f.yaml:3: score: should be a list of steps, each `- name: {...}`"),
        ("pack: {}\nmedia: none", "f.yaml:3: pack: media: none keeps nothing that could be packed"),
        ("acquire: {keep_sources: never}", "f.yaml:3: acquire.keep_sources: never needs media: clips"),
        ("acquire: {download: {sections: true}}", "f.yaml:3: acquire.download.sections: needs a split that begins with the dataset's own intervals"),
        ("acquire: {download: {sections: true}}\nsplit: [fixed: {length: 2s}]", "acquire.download.sections: needs a split that begins"),
        ("acquire: {download: {sections: true}}\nsplit: [timestamps]\nprofile: fast", "acquire.download.sections: profile: fast looks at all of a video"),
        ("score: []\nscore: []", "f.yaml:4: score: duplicate key 'score' (first on line 3)"),
        ("operators: [nowhere.py]", "f.yaml:3: operators: cannot read the operator file"),
    ],
)  # fmt: skip
def test_mistakes_in_plain_keys(problems, text, message):
    (problem,) = problems(text)
    assert message in problem


def test_source_and_output_are_missing():
    with pytest.raises(RecipeError) as caught:
        parse("name: x\n", path="f.yaml")
    assert caught.value.problems == (
        "f.yaml:1: 'source' is missing; for example source: {folder: {path: .}}",
        "f.yaml:1: 'output' is missing",
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "word"])
def test_what_is_no_recipe_at_all(text):
    with pytest.raises(RecipeError, match="it needs at least source and output"):
        parse(text)


def test_values_of_variables_do_not_show_in_messages(problems, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    (problem,) = problems("commit: {clips: '${TOKEN}'}")
    assert "${TOKEN}" in problem
    assert "s3cret" not in problem


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "panda.yaml").write_text("a: 1")
    with pytest.raises(RecipeError, match=r"no recipe .*pnada\.yaml; did you mean 'panda\.yaml'"):
        load(tmp_path / "pnada.yaml")
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*directory"):
        load(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file in UTF-8"):
        load(tmp_path / "bytes.yaml")


def test_a_file_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("source: {folder: {path: .}}\noutput: out\n", encoding="utf-8-sig")
    recipe = load(file)
    assert recipe.name == "r"
    assert recipe.path == str(file)


OWN = '''\
from vidcurate import column, scorer

@scorer("own_score", columns=column("float32", range=(0, 1)))
def own_score(clip, *, gain: float = 1.0):
    """Ours."""
    return gain
'''


def test_operators_beside_the_recipe_and_from_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    recipe_file = tmp_path / "r.yaml"
    text = "source: {folder: {path: .}}\noutput: out\nscore: [own_score: {gain: 2, max: 0.5}]\n"
    recipe_file.write_text(text + "operators: [own.py]\n")
    recipe = load(recipe_file)
    assert recipe.operators == (str(tmp_path / "own.py"),)
    assert recipe.score[0].operator.gain == 2.0
    assert recipe.score[0].thresholds[""].max == 0.5

    recipe_file.write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = load(recipe_file, operators=["own.py"])
    assert recipe.operators == (os.path.realpath(tmp_path / "own.py"),)
    assert from_raw(recipe.raw, path="/elsewhere/run.json").operators == recipe.operators


def test_a_broken_operator_file_is_told_with_both_places(tmp_path, problems):
    (tmp_path / "bad.py").write_text("def x(:\n")
    found = problems(f"operators: [{tmp_path}/bad.py]")
    assert found[0].startswith(f"f.yaml:3: operators: {tmp_path}/bad.py:1: SyntaxError")


def test_the_preset_takes_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = tmp_path / "Holiday"
    videos.mkdir()
    recipe = preset(videos)
    assert str(recipe.source_operators[0].path) == str(videos)
    assert recipe.output == "Holiday-curated"
    assert recipe.pack is not None
    assert preset(videos, output="x", overrides=["audit=0"]).output == "x"


@pytest.mark.parametrize("name", ["default", "demo"])
def test_shipped_recipes_are_valid(name):
    recipe = load(shipped(name))
    assert recipe.name == name
    assert Path(recipe.path).read_text().startswith("# The ")


def test_an_unknown_shipped_recipe():
    with pytest.raises(RecipeError, match="did you mean 'default'"):
        shipped("defualt")
