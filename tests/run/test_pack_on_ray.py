"""Packing on a real Ray of this machine. One test: a session of Ray takes long to start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vidcurate.run import passes


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_ray_gives_the_bytes_of_the_inline_executor(runs):
    """Into shards that hold a part of the selection, with a source that is gone."""
    runs.add("cuts", "odd_size", "vfr", "static")
    sections = {"pack": {"shard_size": "30kB"}, "media": "source"}
    few = {"select": {"base": {"per_video": 1}}}
    with passes.session(runs.recipe(**sections, **few), runs.out) as work:
        passes.run_score(work)
        passes.run_select(work)
        passes.run_pack(work)
        before = files(runs.out / "shards")
    (runs.videos / "static.mp4").unlink()
    with passes.session(runs.recipe(**sections, select={"base": {}}), runs.out) as work:
        passes.run_select(work)
    there = Path(shutil.copytree(runs.out, runs.folder / "ray"))
    with passes.session(runs.recipe(**sections, select={"base": {}}), runs.out) as work:
        report = passes.run_pack(work)["base"]
    clips = runs.rows("SELECT count(*) AS n FROM clips")[0]["n"]
    assert report.removed == 0
    assert {type(f.error).__name__ for f in report.failures} == {"AcquireError"}
    assert 0 < len(report.failures) == clips - report.samples < report.added
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # sockets need a short path
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-m", "vidcurate", "pack", str(there), "--executor", "ray"],
            env=environment | {"RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    # Nothing on the terminal is Ray's.
    assert [line for line in done.stderr.splitlines() if not line.startswith("pack: ")] == []
    assert f"({report.added} added, 0 removed), {len(report.failures)} clips could not" in (
        done.stdout
    )
    inline = files(runs.out / "shards")
    assert files(there / "shards") == inline
    assert {n: data for n, data in inline.items() if n in before and n.endswith(".tar")} == {
        n: data for n, data in before.items() if n.endswith(".tar")
    }
    assert len([n for n in inline if n.endswith(".tar")]) > len(before)
    assert runs.tables(there)["quarantine"] == runs.tables()["quarantine"]
