"""Runs that reach their budget: they pause, and go on to the same end."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import threading

import pytest
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.recipe.model import Budget
from vidcurate.run import passes
from vidcurate.run.budget import BudgetReachedError, Meter, folder_size, size
from vidcurate.run.record import read_record

# Four videos of one and two seconds, in pieces of half a second; each is committed by itself.
SECTIONS = {"split": [{"fixed": {"length": "500ms"}}], "commit": {"every": "1ms"}}


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(passes, "available_cores", lambda: 1)
    monkeypatch.setattr("vidcurate.run.score.available_cores", lambda: 1)


def score(runs, **sections):
    """The score pass; gives the meter at its end and what paused it."""
    recipe = runs.recipe(**SECTIONS | sections)
    try:
        with passes.session(recipe, recipe.output) as work:
            passes.run_score(work)
    except BudgetReachedError as error:
        return work.meter, str(error)
    return work.meter, None


def shards(out):
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (out / "shards").rglob("*.tar")
    }


def test_a_meter_without_a_budget_is_never_reached(tmp_path):
    meter = Meter(Budget(), tmp_path)
    (tmp_path / "file").write_bytes(bytes(10))
    meter.measure()
    meter.add(10**15, 10**15)
    assert meter.reached() is None


def test_a_meter_of_disk_counts_files_and_downloads(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(bytes(600))
    meter = Meter(Budget(disk=1000), tmp_path)
    assert meter.reached() is None  # not measured yet
    meter.measure()
    meter.add(300, 99)
    assert meter.reached() is None
    meter.add(1)
    reason = meter.reached()
    assert reason.startswith(
        "budget.disk (1 kB) is reached: the run takes 1 kB, 99 B of it downloads. "
    )
    assert "--set budget.disk=2kB" in reason
    meter.measure()  # the counted bytes were not written
    assert meter.reached() is None


def test_a_meter_of_time_counts_from_its_making(tmp_path):
    assert Meter(Budget(time=3600.0), tmp_path).reached() is None
    with pytest.raises(BudgetReachedError, match=r"budget\.time \(0 s\) is reached"):
        Meter(Budget(time=0.0), tmp_path).check()


def test_a_growing_folder_is_walked_again(tmp_path):
    (tmp_path / "other").write_bytes(bytes(500))
    meter = Meter(Budget(disk=1000), tmp_path)
    check = meter.watch(tmp_path / "shards")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a").write_bytes(bytes(500))
    with pytest.raises(BudgetReachedError, match="takes 1 kB"):
        check()


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (999_999, "1 MB"), (1_250_000_000, "1.25 GB"), (4e12, "4 TB")],
)
def test_sizes_are_written_as_in_recipes(n_bytes, text):
    assert size(n_bytes) == text


def test_a_run_pauses_at_its_disk_and_goes_on_to_the_same_end(runs, one_core):
    runs.add(a="odd_size", b="vfr", c="static", d="zero")
    score(runs, output=str(runs.folder / "whole"))
    whole = runs.tables(runs.folder / "whole")
    _, reason = score(runs, budget={"disk": "1B"})
    assert reason.startswith("budget.disk (1 B) is reached")
    assert runs.tables()["videos"] == []
    # A byte more than there is: the first video that is done goes past it.
    _, reason = score(runs, budget={"disk": f"{folder_size(runs.out) + 200}B"})
    assert reason is not None
    part = runs.tables()
    assert 0 < len(part["videos"]) < 4
    assert all(row in whole["clips"] for row in part["clips"])
    record = read_record(runs.out)
    assert (record.state, record.paused) == ("paused", reason)
    assert record.passes["score"]["videos"] == len(part["videos"])
    assert score(runs, budget={"disk": "1GB"})[1] is None
    assert runs.tables() == whole
    assert (read_record(runs.out).state, read_record(runs.out).paused) == ("done", None)
    # All is done: there is nothing to pause.
    assert score(runs, budget={"disk": "1B"})[1] is None


def test_what_is_counted_is_what_was_written(runs, one_core):
    runs.add(a="odd_size", b="vfr")
    meter, _ = score(runs, media="clips", budget={"disk": "1GB"})
    counted = meter._stored
    meter.measure()
    # Besides media and parts there are only manifests and run.json.
    rest = folder_size(runs.out / "manifests") + (runs.out / "run.json").stat().st_size
    assert folder_size(runs.out / "media") > 10_000
    assert meter._stored - counted == pytest.approx(rest, abs=3_000)


def test_downloads_that_are_kept_count(runs, footage, monkeypatch, tmp_path, one_core):
    monkeypatch.setenv("VIDCURATE_CACHE", str(tmp_path / "cache"))
    runs.add("odd_size")
    n_bytes = (runs.videos / "odd_size.mp4").stat().st_size
    handler = functools.partial(_Quiet, directory=str(runs.videos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        table = tmp_path / "videos.csv"
        table.write_text(f"url\nhttp://{host}/odd_size.mp4\n")
        sections = {
            "source": {"table": {"path": str(table)}},
            "media": "clips",
            "budget": {"disk": "1GB"},
        }
        for keep, expected in (("always", n_bytes), ("never", 0)):
            acquire = {"allow_hosts": [host], "keep_sources": keep}
            out = str(runs.folder / keep)
            meter, _ = score(runs, acquire=acquire, output=out, **sections)
            assert meter.downloads == expected
            if keep == "always":  # of an earlier call
                again, _ = score(runs, acquire=acquire, output=out, **sections)
                # With the note that the cache keeps beside it.
                assert n_bytes < again.downloads < n_bytes + 1_000
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_pack_pauses_and_goes_on_to_the_same_bytes(runs, one_core):
    runs.add(a="odd_size", b="vfr")
    sections = SECTIONS | {"pack": {}}
    with passes.session(runs.recipe(**sections), runs.out) as work:
        passes.run_score(work)
        passes.run_select(work)
    out = shutil.copytree(runs.out, runs.folder / "other")
    with passes.session(runs.recipe(**sections), runs.out) as work:
        passes.run_pack(work)
    whole = shards(runs.out)
    command = ["pack", str(out), "--set"]
    result = CliRunner().invoke(app, [*command, f"budget.disk={folder_size(out)}B"])
    assert result.exit_code == 3, result.output
    assert not (out / "shards").exists()
    # Room for run.json to grow, but not for a clip.
    result = CliRunner().invoke(app, [*command, f"budget.disk={folder_size(out) + 500}B"])
    assert result.exit_code == 3, result.output
    assert len(list((out / "shards").rglob("*.json"))) == 1
    assert read_record(out).state == "paused"
    result = CliRunner().invoke(app, [*command, "budget.disk=1GB"])
    assert result.exit_code == 0, result.output
    assert shards(out) == whole


def test_the_command_tells_what_was_reached_and_how_to_go_on(runs):
    runs.add("odd_size")
    file = runs.write(**SECTIONS, budget={"disk": "10B"})
    result = CliRunner().invoke(app, ["score", str(file)])
    assert result.exit_code == 3, result.output
    assert "paused: budget.disk (10 B) is reached" in result.stderr
    assert f"Go on with: vidcurate run {runs.out}" in result.stderr
    assert CliRunner().invoke(app, ["score", str(runs.out)]).exit_code == 3
    status = CliRunner().invoke(app, ["status", str(runs.out)]).stdout
    assert status.splitlines()[0].endswith(f": paused; go on with: vidcurate run {runs.out}")
    assert "paused: budget.disk (10 B) is reached" in status
    result = CliRunner().invoke(app, ["score", str(runs.out), "--set", "budget.disk=1GB"])
    assert result.exit_code == 0, result.output
    assert [v["state"] for v in runs.tables()["videos"]] == ["done"]
