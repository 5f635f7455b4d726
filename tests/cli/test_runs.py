import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import vidcurate
from vidcurate.cli.main import app
from vidcurate.operator import registry
from vidcurate.run.lease import Lease

RECIPE = """\
name: tiny
source: {folder: {path: FOLDER}}
split: [scenes: {max_length: 8s}]
score:
  - technical
  - brightness
  - static: {max: 0.9}
select:
  base: {}
  one: {where: "brightness_mean > percentile(brightness_mean, 50)", per_video: 1}
pack: {}
output: OUT
"""


@pytest.fixture(scope="module")
def made(footage, tmp_path_factory):
    """A folder of three videos: four moving scenes, a still, and an empty file; its run."""
    root = tmp_path_factory.mktemp("runs")
    videos = root / "videos"
    videos.mkdir()
    for name in ("cuts", "static", "zero"):
        shutil.copy(footage(name), videos)
    recipe = root / "tiny.yaml"
    out = root / "out"
    recipe.write_text(RECIPE.replace("FOLDER", str(videos)).replace("OUT", str(out)))
    return recipe, out, CliRunner().invoke(app, ["run", str(recipe)])


@pytest.fixture
def recipe(made):
    return made[0]


@pytest.fixture
def out(made, tmp_path):
    """A copy of the finished run: the test may change it."""
    return Path(shutil.copytree(made[1], tmp_path / "copy"))


def cells(text):
    return [line.split() for line in text.splitlines()]


# --------------------------------------------------------------------------- run


def test_run_ends_with_a_table_and_the_paths(made):
    _, out, result = made
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    table = lines[: lines.index(f"report  {out}/report.html") - 1]
    assert [" ".join(line.split()) for line in table[:-1]] == [
        "videos 3",
        "failed 1",
        "clips 5",
        "",
        "base one",
        "kept 4 1",
        "minutes 0.2 0.0",
        "dropped 1 4",
        "static > 0.9 1 1",
        "where: brightness_mean > percentile(brightness_mean, 50) 0 2",
        "per_video 1 0 1",
        "failed 0 0",
        "",
    ]
    assert len({len(line) for line in table[4:-2]}) == 1, "columns are aligned to the right"
    label, speed = table[-1].rsplit(None, 1)
    assert label == "seconds of video per CPU second"
    assert float(speed) > 0
    base, one = lines[lines.index(f"report  {out}/report.html") + 1 :][:2]
    assert base == f"shards  {out}/shards/base  4 samples in 1 shard"
    assert one == f"        {out}/shards/one   1 sample in 1 shard"
    assert (out / "report.html").stat().st_size > 1000
    assert list((out / "shards/base").rglob("*.tar"))
    assert lines[-1] == f"1 in the quarantine (1 RefusedMediaError): vidcurate status {out}"


def test_run_tells_its_progress_on_stderr(made):
    told = made[2].stderr.splitlines()
    assert any(line.startswith("score: 3 of 3 videos, 5 clips, 1 failed") for line in told)
    assert any(line.startswith("pack: base, 4 of 4 clips") for line in told)


def test_a_second_run_does_nothing_twice(command, made):
    recipe, out, first = made
    parts = sorted((out / "clips").iterdir())
    again = command("run", recipe)
    assert again.exit_code == 0
    assert again.stdout == re.sub(
        r"(?m)^(.*/shards/.* samples? in .*)$", r"\1 (no clip came or left)", first.stdout
    )
    assert "3 videos done before" in again.stderr
    assert sorted((out / "clips").iterdir()) == parts


def test_a_run_directory_goes_on_by_its_own_name(command, out, footage):
    shutil.copy(footage("static"), out.parent / "x.mp4")
    result = command("score", out, "--input", out.parent / "x.mp4")
    assert result.exit_code == 0, result.output
    assert cells(result.stdout)[:3] == [["videos", "4"], ["failed", "1"], ["clips", "6"]]


def test_limit_then_the_rest_then_fresh(command, recipe, tmp_path):
    def videos(*options):
        result = command("score", recipe, "--output", tmp_path / "o", *options)
        assert result.exit_code == 0, result.output
        return cells(result.stdout)[0][1], result.stderr

    assert videos("--limit", 1)[0] == "1"
    count, told = videos()
    assert count == "3"
    assert "1 video done before" in told
    assert videos("--limit", 1, "--fresh")[0] == "1"


def test_a_folder_alone_takes_the_preset(command, footage, tmp_path, monkeypatch):
    folder = tmp_path / "Films"
    folder.mkdir()
    shutil.copy(footage("static"), folder)
    monkeypatch.chdir(folder)
    for told in ("1 of 1 videos", "1 video done before"):
        result = command("run", ".")  # the output lies in the input: it is not read as input
        assert result.exit_code == 0, result.output
        assert told in result.stderr
        assert cells(result.stdout)[:2] == [["videos", "1"], ["clips", "1"]]
        assert f"report  {folder}/Films-curated/report.html" in result.stdout
        assert "nothing was kept: see the histograms" in result.stdout
    monkeypatch.chdir(tmp_path)  # the recorded source does not depend on where one stands
    assert "1 video done before" in command("score", "Films/Films-curated").stderr


def test_own_operators(command, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("ops", "new", "own").exit_code == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.read_text().replace("- technical", "- own"))
    unknown = command("run", mine)
    assert unknown.exit_code == 2
    assert "mine.yaml:5: score.own: unknown scorer 'own'" in unknown.stderr
    out = tmp_path / "o"
    done = command("score", mine, "--operators", "own.py", "--output", out)
    assert done.exit_code == 0, done.output
    registry._user.clear()  # as in a new process
    assert command("score", out).exit_code == 0


def test_every_video_failed(command, footage, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    shutil.copy(footage("zero"), folder)
    result = command("run", folder, "--output", tmp_path / "o")
    assert result.exit_code == 1
    assert f"error: every video failed; see `vidcurate status {tmp_path}/o`" in result.stderr
    assert "bad: " not in result.stderr
    assert json.loads(command("status", tmp_path / "o", "--json").stdout)["state"] == "failed"


def test_every_annotated_clip_failed(command, footage, tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    shutil.copy(footage("odd_size"), folder)
    (tmp_path / "broken.py").write_text(
        "from vidcurate import Annotator, column\n"
        "class Broken(Annotator):\n"
        '    """Says nothing of any clip."""\n'
        "    name = 'broken'\n"
        "    columns = {'': column('string')}\n"
        "    def score(self, clip):\n"
        "        raise ValueError('no words')\n"
    )
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(
        f"source: {{folder: {{path: {folder}}}}}\noperators: [broken.py]\n"
        f"annotate: [broken]\noutput: {tmp_path}/o\n"
    )
    for arguments in (["run", recipe], ["annotate", tmp_path / "o"]):
        result = command(*arguments)
        assert result.exit_code == 1, result.output
        assert "error: every clip that was to be annotated failed; see" in result.stderr
    assert json.loads(command("status", tmp_path / "o", "--json").stdout)["state"] == "failed"


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "there is no recipe or folder nothing"),
        (["run", "tinny.yaml"], "there is no recipe tinny.yaml; did you mean 'tiny.yaml'?"),
        (["run", "empty"], "source folder: there are no videos in {here}/empty"),
        (["run", "texts"], "source folder: there are no videos in {here}/texts"),
        (["run", "tiny.yaml", "--input", "nothing"], "folder: {here}/nothing does not exist"),
        (["run", "texts/a.txt"], "texts/a.txt: not a text file in UTF-8"),
        (["run", "tiny.yaml", "--output", "tiny.yaml"], "{here}/tiny.yaml is a file"),
        (["run", "tiny.yaml", "--output", "texts"], "{here}/texts holds other files (a.txt)"),
        (["run", "tiny.yaml", "--output", "texts", "--fresh"], "{here}/texts holds other files"),
        (["run", "tiny.yaml", "--output", "s3://a/b"], "s3://a/b: a run directory is a local"),
        (["run", "tiny.yaml", "--set", "score.sttic.max=1"], "did you mean 'static'?"),
        (["run", "tiny.yaml", "--executor", "rya"], "did you mean 'ray'?"),
        (["status", "nothing"], "{here}/nothing does not exist; make it with `vidcurate run`"),
        (["status", "texts"], "{here}/texts is no run directory"),
        (["sql", "texts", "SELECT 1"], "{here}/texts is no run directory"),
        (["select", "texts"], "{here}/texts is no run directory"),
        (["select", "texts", "--recipe", "tiny.yaml"], "{here}/texts is no run directory"),
        (["pack", "nothing"], "{here}/nothing is no run directory"),
    ],
)
def test_mistakes_end_with_2_and_a_remedy(
    command, recipe, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(recipe, "tiny.yaml")
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_bytes(b"\xff\xfe\xfd")
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message.format(here=tmp_path) in result.stderr
    assert sorted(p.name for p in Path().rglob("*") if not p.name.startswith(".")) == [
        "a.txt",
        "empty",
        "texts",
        "tiny.yaml",
    ]


def test_fresh_never_removes_what_is_not_ours(command, recipe, tmp_path):
    own = tmp_path / "home/videos/holiday.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"dear")
    assert command("run", recipe, "--output", tmp_path / "home", "--fresh").exit_code == 2
    assert own.read_bytes() == b"dear"


def test_a_missing_extra_is_refused_before_work_starts(command, recipe, tmp_path, monkeypatch):
    asked = [*(registry.requires("vidcurate") or []), 'not-there>=1; extra == "ocr"']
    monkeypatch.setattr(registry, "requires", lambda _: asked)
    needs = tmp_path / "needs.yaml"
    needs.write_text(recipe.read_text().replace("- technical", "- text_area"))
    for name in ("run", "score"):
        result = command(name, needs, "--output", tmp_path / "o")
        assert result.exit_code == 2
        assert "not-there" in result.stderr
        assert "pip install 'vidcurate[ocr]'" in result.stderr
    assert not (tmp_path / "o").exists()
    assert command("plan", needs, "--output", tmp_path / "o").exit_code == 0


def test_a_directory_in_use(command, out):
    with Lease(out):
        result = command("run", out)
        assert result.exit_code == 2
        assert f"{out} is in use by another run (process {os.getpid()}" in result.stderr


# --------------------------------------------------------------------------- the other commands


def test_plan_says_what_runs_and_why(command, recipe, out, footage, tmp_path):
    def plan(*options):
        return json.loads(command("plan", recipe, "--json", *options).stdout)

    new = plan("--output", tmp_path / "new")
    assert {s["todo"] for s in new["steps"]} == {"3 new videos"}
    assert new["work"] == [f"{tmp_path}/new does not exist yet: 3 new videos"]
    frames = {s["step"]: s["frames"] for s in new["steps"]}
    assert frames["technical"] == "none"
    assert frames["brightness"] == "fps=2, short_side=256, color=gray"

    done = plan("--output", out)
    assert {s["todo"] for s in done["steps"]} == {"nothing"}
    assert done["work"] == [f"3 videos known in {out}", "nothing has to run again"]

    split = plan("--output", out, "--set", "split.scenes.max_length=1s")
    assert {s["todo"] for s in split["steps"]} == {"3 videos"}
    assert split["work"][1].startswith("3 videos to split again: the split steps")

    more = tmp_path / "more.yaml"
    more.write_text(recipe.read_text().replace("- technical", "- technical\n  - motion"))
    added = json.loads(command("plan", more, "--output", out, "--json").stdout)
    assert {s["step"]: s["todo"] for s in added["steps"]}["motion"] == "5 clips"
    why = "5 clips to score with motion: no result of its current fingerprint"
    assert why in added["work"]

    text = command("plan", more, "--output", out).stdout
    assert text.startswith("score   one decode of each video: 1 split, 0 edit, 4 score steps")
    assert why in text.splitlines()


def test_select_with_other_thresholds(command, out):
    result = command("select", out, "--set", "score.static.max=1")
    assert result.exit_code == 0
    assert ["kept", "5", "1"] in cells(result.stdout)
    assert f"next: vidcurate pack {out}" in result.stdout
    # The change is the run's from now on.
    facts = json.loads(command("select", out, "--json").stdout)
    assert facts["base"]["kept"] == 5
    assert facts["one"]["dropped"][-1] == {"by": "per_video", "reason": "per_video 1", "clips": 1}


def test_select_by_another_recipe(command, recipe, out, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("percentile(brightness_mean, 50)", "1000"))
    result = command("select", out, "--recipe", other)
    assert ["kept", "4", "0"] in cells(result.stdout)


def test_a_mistyped_condition_leaves_no_trace(command, out):
    before = (out / "run.json").read_text()
    result = command("select", out, "--set", "select.base.where=brightnes_mean > 3")
    assert result.exit_code == 2
    assert "select.base.where" in result.stderr
    assert "brightness_mean" in result.stderr
    assert (out / "run.json").read_text() == before


def test_unjudged_clips_are_told_of(command, recipe, out, tmp_path):
    more = tmp_path / "more.yaml"
    added = "- technical\n  - cadence: {dup_frames: {max: 1}}"
    more.write_text(recipe.read_text().replace("- technical", added))
    result = command("select", out, "--recipe", more)
    assert ["unjudged", "4", "4"] in cells(result.stdout)
    assert f"unjudged clips lack a score that a threshold needs: vidcurate run {out}" in (
        result.stdout
    )
    assert "nothing was kept" not in result.stdout


def test_pack(command, out):
    result = command("pack", out, "--selection", "one")
    assert result.exit_code == 0
    assert result.stdout == (
        f"shards  {out}/shards/one  1 sample in 1 shard (no clip came or left)\n"
    )
    facts = json.loads(command("pack", out, "--json").stdout)
    assert (facts["base"]["samples"], facts["base"]["failures"]) == (4, 0)
    unknown = command("pack", out, "--selection", "non")
    assert unknown.exit_code == 2
    assert "no selection 'non'; it has: base, one" in unknown.stderr


def test_pack_without_its_sources(command, recipe, footage, tmp_path):
    video = shutil.copy(footage("static"), tmp_path)
    out = tmp_path / "o"
    keeps = "score.static.max=1"
    assert (
        command("score", recipe, "--input", video, "--output", out, "--set", keeps).exit_code == 0
    )
    assert command("select", out).exit_code == 0
    assert command("pack", out, "--selection", "base").exit_code == 0
    before = {p: p.read_bytes() for p in (out / "shards").rglob("*") if p.is_file()}
    Path(video).unlink()
    result = command("pack", out, "--selection", "base", "--set", "pack.audio=false")
    assert result.exit_code == 1
    assert "error: base: none of the 1 selected clips can be packed" in result.stderr
    assert "AcquireError" in command("status", out).stdout
    assert {p: p.read_bytes() for p in (out / "shards").rglob("*") if p.is_file()} == before


def test_report(command, out):
    (out / "report.html").unlink()
    assert command("report", out).stdout == f"report  {out}/report.html\n"
    assert (out / "report.html").exists()


def test_passes_without_steps(command, out):
    for name in ("group", "annotate"):
        result = command(name, out)
        assert result.exit_code == 0
        assert result.stdout == f"the recipe names no {name} steps: nothing to do\n"


def test_status(command, out):
    text = command("status", out).stdout
    assert text.splitlines()[:5] == [
        "tiny: done",
        "videos: 2 done, 1 failed",
        "clips: 5 scored",
        "selection base: 4 of 5 clips kept",
        "selection one: 1 of 5 clips kept",
    ]
    assert ["decode", "RefusedMediaError", "permanent", "1"] in cells(text)
    facts = json.loads(command("status", out, "--json").stdout)
    assert facts["state"] == "done"
    assert facts["videos"] == {"done": 2, "failed": 1}
    assert facts["quarantine"][0]["error"] == "RefusedMediaError"
    assert facts["datasets"] == {}  # of folders there is no more to tell


def test_what_became_of_each_dataset(command, made, tmp_path):
    videos, out = made[0].parent / "videos", tmp_path / "o"
    for name, text in (
        ("a", "path,start,end\ncuts.mp4,0,1\ngone.mp4,0,1\ngone.mp4,1,2\n"),
        ("b", "path,start,end\ncuts.mp4,0,1\ncuts.mp4,2,x\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    sources = [
        {"table": {"id": name, "path": str(tmp_path / f"{name}.csv"), "base": str(videos)}}
        for name in "ab"
    ]
    recipe = tmp_path / "two.yaml"
    recipe.write_text(json.dumps({"source": sources, "split": ["timestamps"], "output": str(out)}))
    shown = cells(
        "a b\n\nrows that cannot be used 0 1\nclips that the metadata names 3 1\n"
        "in an earlier dataset, too 0 1\nexpected 3 0\nobtained 1 0\nlost 2 0\nnot to be had 2 0"
    )
    result = command("score", recipe)
    assert cells(result.stdout)[: len(shown)] == shown
    lines = cells(command("status", out).stdout)
    assert lines[4 : 4 + len(shown)] == shown
    assert json.loads(command("status", out, "--json").stdout)["datasets"]["a"] == {
        "source": "a",
        "named": 3,
        "filtered": 0,
        "excluded": 0,
        "shared": 0,
        "faults": 0,
        "expected": 3,
        "lost": {"not to be had": 2},
        "obtained": 1,
    }


def test_a_killed_run_is_not_running(command, out):
    file = out / "run.json"
    file.write_text(file.read_text().replace('"state": "done"', '"state": "running"'))
    assert f"tiny: interrupted; go on with: vidcurate run {out}" in command("status", out).stdout
    with Lease(out):
        assert "tiny: running; what follows is committed so far" in command("status", out).stdout


def test_sql(command, out):
    query = "SELECT location, count(*) AS n FROM clips JOIN videos USING (video_id) GROUP BY ALL"
    rows = json.loads(command("sql", out, query, "--json").stdout)
    assert sorted((Path(r["location"]).name, r["n"]) for r in rows) == [
        ("cuts.mp4", 4),
        ("static.mp4", 1),
    ]
    assert cells(command("sql", out, "SELECT 7 AS seven").stdout)[::2] == [["seven"], ["7"]]
    for bad in ("SELECT nope FROM clips", "DROP TABLE clips", "", "SELECT 1; SELECT 2"):
        result = command("sql", out, bad)
        assert result.exit_code == 2, bad
        assert result.stderr.startswith("error: the query ")


def test_retry(command, out):
    result = command("retry", out)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "nothing to try again",
        "1 in the quarantine are permanent: --all tries them too",
    ]
    again = command("retry", out, "--all")
    assert "1 video tried again: 0 clips scored, 1 failed again" in again.stdout


# --------------------------------------------------------------------------- signals


def test_ctrl_c_during_a_query(out):
    query = "SELECT sum(a.range + b.range) FROM range(9000000) a, range(9000000) b"
    process = subprocess.Popen(
        [sys.executable, "-m", "vidcurate", "sql", str(out), query],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Its CPU time tells that the query has begun: importing all takes about a second.
    while sum(psutil.Process(process.pid).cpu_times()[:2]) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT  # a shell shows 130


def test_ctrl_c_says_how_to_go_on(command, recipe, footage, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\n"
        "from vidcurate import column, scorer\n"
        "@scorer('slow', columns=column('float32'))\n"
        "def slow(clip):\n    'Takes its time.'\n    time.sleep(0.2)\n    return 1.0\n"
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.read_text().replace("- technical", "- slow\n  - technical"))
    out = tmp_path / "o"
    arguments = ["run", str(mine), "--operators", str(slow), "--output", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vidcurate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "manifests").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    facts = json.loads(command("status", out, "--json").stdout)
    assert facts["state"] == "running"
    assert json.loads(command("sql", out, "SELECT 1 AS n FROM clips", "--json").stdout) == []
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert f"stopped; what is committed is kept. Go on with: vidcurate run {out}" in stderr
    assert "Traceback" not in stderr
    assert json.loads(command("status", out, "--json").stdout)["state"] == "interrupted"

    rest = command("run", out)
    assert rest.exit_code == 0, rest.output
    assert cells(rest.stdout)[:3] == [["videos", "3"], ["failed", "1"], ["clips", "5"]]
    with vidcurate.open(out) as run:
        assert run.sql("SELECT count(DISTINCT clip_id) AS n FROM clips").to_pylist() == [{"n": 5}]
