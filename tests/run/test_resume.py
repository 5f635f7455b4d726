"""Runs that end early: killed, interrupted, out of disk; and the run that goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.run.lease import Lease
from vidcurate.run.score import Retry

# Slow enough to be met at work, quick enough for a test; fails on a clip of each video.
SLOW = """
import time
from vidcurate import Clip, column, scorer

@scorer("slow", columns=column("float32"))
def slow(clip: Clip, *, seconds: float = 0.05) -> float:
    \"\"\"Takes its time.\"\"\"
    time.sleep(seconds)
    if 0.9 < clip.start < 1.1:
        raise ValueError("never the second")
    return clip.start
"""


@pytest.fixture
def slow(runs):
    """Sections of a recipe with many short clips, a slow scorer and frequent commits."""
    runs.add(a="cuts", b="odd_size", c="vfr", d="zero")
    (runs.folder / "slow.py").write_text(SLOW)
    return {
        "operators": [str(runs.folder / "slow.py")],
        "split": [{"fixed": {"length": "250ms"}}],
        "score": ["technical", "slow"],
        "commit": {"every": "50ms"},
    }


@contextlib.contextmanager
def driver(runs, **sections):
    """`vidcurate score` in a process of its own; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "vidcurate", "score", str(runs.write(**sections))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def clip_parts(runs):
    """How many parts with clips are committed."""
    files = (runs.out / "manifests").glob("[0-9]*.json")
    return sum(len(json.loads(f.read_text())["parts"].get("clips", ())) for f in files)


def committed(runs):
    """Ids of committed clips."""
    return {r["clip_id"] for r in runs.rows("SELECT clip_id FROM clips")}


def wait_for(condition, timeout=60.0):
    """Poll until the condition holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(runs, slow):
    rng = random.Random(4)
    seen = set()
    for _ in range(2):
        had = clip_parts(runs)
        with driver(runs, **slow) as process:
            # Any moment from the first new commit on: so that the run gets somewhere.
            wait_for(lambda had=had: clip_parts(runs) > had or process.poll() is not None)
            time.sleep(rng.random() * 0.3)
            process.kill()
            process.wait()
        found = committed(runs)
        assert seen <= found
        seen = found
    assert len(seen) > 0
    result = runs.score(**slow)
    runs.score(out=runs.folder / "whole", **slow)
    whole = runs.tables(runs.folder / "whole")
    assert result.stats.clips == len(whole["clips"]) - len(seen)
    assert len(whole["quarantine"]) == 4
    assert runs.tables() == whole
    assert runs.score(**slow).stats.videos == 0


def test_killed_children_are_replaced(runs, slow):
    with driver(runs, **slow) as process:
        wait_for(lambda: clip_parts(runs))
        for child in psutil.Process(process.pid).children():
            child.kill()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    runs.score(out=runs.folder / "whole", **slow)
    assert runs.tables() == runs.tables(runs.folder / "whole")


def test_children_die_with_their_driver(runs, slow):
    slow["score"][1] = {"slow": {"seconds": 30.0}}
    with driver(runs, **slow) as process:
        wait_for(lambda: len(psutil.Process(process.pid).children()) > 0)
        children = psutil.Process(process.pid).children()
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.parametrize("seconds", [0.05, 30.0])
def test_ctrl_c_commits_what_is_done(runs, slow, seconds):
    runs.score(score=["technical"], limit=1, **{k: slow[k] for k in ("operators", "split")})
    slow["score"][1] = {"slow": {"seconds": seconds}}
    slow["commit"]["every"] = "1h"
    with driver(runs, **slow) as process:
        wait_for(lambda: psutil.Process(process.pid).children())
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert time.monotonic() - began < 10
    assert "Traceback" not in output
    record = (runs.out / "run.json").read_text()
    assert '"state": "interrupted"' in record
    if seconds < 1:
        slow["score"][1] = {"slow": {"seconds": seconds}}
        runs.score(**slow)
        runs.score(out=runs.folder / "whole", **slow)
        assert runs.tables() == runs.tables(runs.folder / "whole")


def test_a_recipe_that_changed_between_kill_and_resume(runs, slow):
    """A video that was never finished has clips of another splitter, or without a score."""
    with driver(runs, **slow) as process:
        wait_for(lambda: clip_parts(runs) or process.poll() is not None)
        process.kill()
        process.wait()
    assert runs.rows("SELECT * FROM clips ANTI JOIN videos USING (video_id)")
    shutil.copytree(runs.out, runs.folder / "killed")
    for changed in (
        {"split": [{"fixed": {"length": "500ms"}}]},
        {"score": [*slow["score"], "brightness"]},
    ):
        runs.score(**slow | changed)
        runs.score(out=runs.folder / "whole", fresh=True, **slow | changed)
        assert runs.tables() == runs.tables(runs.folder / "whole")
        shutil.rmtree(runs.out)
        shutil.copytree(runs.folder / "killed", runs.out)


def test_a_full_disk_is_told_and_the_next_run_goes_on(runs):
    """The limit on the size of files stands in for a disk without space."""
    runs.add(a="odd_size", b="rotated")
    runs.score(limit=1)
    before = runs.tables()
    command = [sys.executable, "-m", "vidcurate", "score", str(runs.write())]
    size = 6_000  # run.json and manifests fit, parts do not
    done = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert runs.tables() == before
    runs.score()
    runs.score(out=runs.folder / "whole")
    assert runs.tables() == runs.tables(runs.folder / "whole")
    stray = {p.name for p in runs.out.rglob("*") if p.name.startswith(".tmp-")}
    assert stray == set()


def test_a_second_writer_is_refused(runs):
    runs.add("odd_size")
    recipe = runs.write()
    with Lease(runs.out):
        for command in (["score", recipe], ["run", recipe], ["score", recipe, "--fresh"]):
            invoked = CliRunner().invoke(app, [str(c) for c in command])
            assert invoked.exit_code == 2
            assert f"in use by another run (process {os.getpid()} on" in invoked.stderr
    assert CliRunner().invoke(app, ["score", str(recipe)]).exit_code == 0


def test_retry_without_a_fault_does_nothing(runs):
    runs.add("odd_size")
    runs.score()
    manifests = runs.manifests()
    assert runs.score(retry=Retry(everything=True)).stats.videos == 0
    assert runs.manifests() == manifests
