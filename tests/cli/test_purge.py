import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vidcurate
from vidcurate.cli.main import app
from vidcurate.run import purge
from vidcurate.run.lease import Lease

RECIPE = """\
name: tiny
source: {table: {path: TABLE}}
split: [fixed: {length: 1s, max_length: 1s}]
score: [technical]
pack: {buckets: null}
output: OUT
"""


@pytest.fixture(scope="module")
def made(footage, tmp_path_factory):
    root = tmp_path_factory.mktemp("purge")
    # An id of a video host may well begin with a dash.
    (root / "table.csv").write_text(
        f"path,id\n{footage('static')},still\n{footage('odd_size')},-odd\n"
    )
    recipe = root / "tiny.yaml"
    text = RECIPE.replace("TABLE", str(root / "table.csv")).replace("OUT", str(root / "out"))
    recipe.write_text(text)
    for command in (["score", str(recipe)], ["select", root / "out"], ["pack", root / "out"]):
        result = CliRunner().invoke(app, [str(a) for a in command])
        assert result.exit_code == 0, result.output
    return root / "out"


@pytest.fixture
def out(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "out"))


def clips(out):
    """How many clips each of the two videos has."""
    with vidcurate.open(out) as run:
        rows = run.sql("SELECT dataset_id, count(*) AS n FROM clips GROUP BY ALL").to_pylist()
    return {row["dataset_id"]: row["n"] for row in rows}


def test_purge_tells_what_it_removed_and_what_held_it(out, command):
    n = clips(out)["still"]
    assert n > 0
    result = command("purge", out, "still", "no-such")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    (shard,) = [line for line in lines if line.startswith("held in ")]
    assert lines[:-1] == [
        "videos 1",
        f"clips {n}",
        "quarantine rows 0",
        "media files 0",
        "downloads 0",
        f"selection default: clips {n}",
        f"shards default: samples {n}",
        shard,
        lines[-2],
    ]
    assert shard.startswith("held in shards/default/native/")
    assert shard.endswith("-00000.tar")
    assert lines[-2].endswith(" freed")
    assert "uploaded shards: remove those there" in lines[-1]
    assert "not known here, and not purged: no-such" in result.stderr
    assert set(clips(out)) == {"-odd"}
    status = json.loads(command("status", out, "--json").stdout)
    assert status["state"] == "done"
    # Known by now, and nothing left to do.
    again = command("purge", out, "still", "--json")
    assert again.exit_code == 0
    found = json.loads(again.stdout)
    assert (found["clips"], found["videos"], found["samples"]) == (0, 0, {})
    assert (found["dry_run"], found["unknown"]) == (False, [])


def test_ids_from_a_file_and_after_a_dash(out, command, tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("\ufeff# taken down in May\n\n still \n", encoding="utf-8")
    before = clips(out)
    dry = command("purge", out, "--file", listed, "--dry-run", "--", "-odd")
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.startswith("would be removed (nothing was changed):\nvideos")
    assert "A later run" not in dry.stdout
    assert clips(out) == before
    done = command("purge", out, "--file", listed, "--json", "--", "-odd")
    assert json.loads(done.stdout)["clips"] == sum(before.values())
    assert clips(out) == {}
    assert not list((out / "shards").rglob("*.tar"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["who", "what"], "none of the 2 ids is known"),
        ([], "give ids to purge, or a list of them with --file"),
        (["--file", "gone.txt"], "gone.txt cannot be read as UTF-8 text"),
    ],
)
def test_mistakes_change_nothing_and_exit_with_2(made, command, arguments, message):
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.name != ".lock"}
    result = command("purge", made, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.name != ".lock"} == before


def test_no_run_directory_is_made(command, tmp_path):
    result = command("purge", tmp_path / "none", "x")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_run_that_is_at_work_is_left_alone(out, command):
    with Lease(out):
        result = command("purge", out, "still")
    assert result.exit_code == 2
    assert "in use by another run" in result.stderr


def test_ctrl_c_ends_after_a_step_and_the_same_command_goes_on(out, command, monkeypatch):
    real = purge.compact

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(purge, "compact", interrupted)
    result = command("purge", out, "still")
    assert result.exit_code == 130
    assert "stopping after the step at work" in result.stderr
    assert "stopped before all was removed: give the same command again" in result.stderr
    assert set(clips(out)) == {"-odd"}
    monkeypatch.setattr(purge, "compact", real)
    done = json.loads(command("purge", out, "still", "--json").stdout)
    assert (done["clips"], done["selections"].keys()) == (0, {"default"})
    assert done["samples"].keys() == {"default"}
