import json
import shutil

import pytest
from typer.testing import CliRunner

from vidcurate.cli.main import app

RECIPE = """\
name: tiny
source: {folder: {path: FOLDER}}
split: [fixed: {length: 2s}]
score: [brightness]
select:
  first: {}
  one: {limit: 1}
  none: {where: "false"}
output: OUT
"""


@pytest.fixture(scope="module")
def run_once(footage, tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    (root / "videos").mkdir()
    shutil.copy(footage("static"), root / "videos")
    text = RECIPE.replace("FOLDER", str(root / "videos")).replace("OUT", str(root / "out"))
    (root / "tiny.yaml").write_text(text)
    result = CliRunner().invoke(app, ["run", str(root / "tiny.yaml")])
    assert result.exit_code == 0, result.output
    return root / "out"


@pytest.fixture
def out(run_once, tmp_path):
    return shutil.copytree(run_once, tmp_path / "out")


def test_the_first_selection_goes_below_out(out, command):
    result = command("export", out, "--format", "csv")
    assert result.exit_code == 0, result.output
    path = out / "exports" / "first.csv"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("path,start,end,caption,id,license,")
    n = len(lines) - 1
    assert result.stdout == f"{n} clip{'s' * (n > 1)} of 1 video: {path}\n"


def test_json_and_another_selection(out, command, tmp_path):
    target = tmp_path / "one.jsonl"
    result = command(
        "export", out, "--format", "jsonl", "--selection", "one", "--to", target, "--json"
    )
    assert json.loads(result.stdout) == {
        "path": str(target), "clips": 1, "videos": 1, "left_out": {},
    }  # fmt: skip
    assert len(target.read_text().splitlines()) == 1


def test_default_names_tell_selection_and_format(out, command):
    assert command("export", out, "--format", "hf", "--all").exit_code == 0
    assert command("export", out, "--format", "hf", "--selection", "one").exit_code == 0
    assert command("export", out, "--format", "jsonl").exit_code == 0
    names = {p.name for p in (out / "exports").iterdir()}
    assert names == {"all-clips-hf", "one-hf", "first.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "panda"], "there is no format 'panda'; did you mean 'panda70m'? (known: "),
        (
            ["--format", "csv", "--selection", "frist"],
            "the run has no selection 'frist'; did you mean 'first'? (known: first, none, one)",
        ),
        (["--format", "csv", "--all", "--selection", "one"], "--all and --selection do not go"),
        (
            ["--format", "csv", "--selection", "none"],
            "there is no clip to export as csv; the selection is empty",
        ),
        (["--format", "internvid"], "left out: not of YouTube, whose ids alone InternVid's table"),
        (["--format", "csv", "--to", "s3://mine/x.csv"], "s3://mine/x.csv is a URL"),
        (["--format", "csv", "--to", "/"], "/ is there and no file, as csv needs"),
    ],
)
def test_mistakes_are_told_and_write_nothing(out, command, arguments, message):
    result = command("export", out, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not any(p.is_file() for p in (out / "exports").glob("**/*"))


def test_a_file_that_is_there_is_replaced_only_by_force(out, command):
    assert command("export", out, "--format", "csv").exit_code == 0
    again = command("export", out, "--format", "csv")
    assert again.exit_code == 2
    assert "first.csv is there already; choose another --to, or give --force" in again.stderr
    assert command("export", out, "--format", "csv", "--selection", "one").exit_code == 0
    assert command("export", out, "--format", "csv", "--force").exit_code == 0


def test_what_is_no_run_directory_is_told(command, tmp_path):
    result = command("export", tmp_path, "--format", "csv")
    assert result.exit_code == 2
    assert "is no run directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_selection_of_an_unfinished_select_is_told(out, command):
    shutil.rmtree(out / "selections")
    result = command("export", out, "--format", "csv")
    assert result.exit_code == 2
    assert f"the run has no selection 'first'; `vidcurate select {out}` makes" in result.stderr
    assert command("export", out, "--format", "csv", "--all").exit_code == 0
