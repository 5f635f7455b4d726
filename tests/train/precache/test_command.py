"""`vidcurate precache`, in this process and on a real Ray of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.shards.verify import verify


@pytest.fixture
def file(base: Path, models: Mapping[str, str], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    data = {
        "data": {"shards": str(base), "captions": "{source}", "workers": 1},
        "encode": {"vae": models["tiny"], "text": models["t5"]},
        "model": {"width": 16, "depth": 1, "heads": 2, "channels": 4, "text_width": 32},
        "steps": 1,
        "output": str(tmp_path / "train"),
    }
    path.write_text(yaml.safe_dump(data))
    return path


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def derived(base: Path) -> list[Path]:
    return sorted(base.parent.glob(f"{base.name}@*"))


def test_it_says_what_it_will_weigh_then_writes_and_is_inspected(base: Path, file: Path):
    run = CliRunner().invoke
    tried = run(app, ["precache", str(file), "--dry-run"])
    assert tried.exit_code == 0, tried.output
    assert "to encode   6 of 6 clips, in 3 tars\n" in tried.output
    assert "latents     19.9 KiB\n" in tried.output
    assert derived(base) == []
    done = run(app, ["precache", str(file)])
    assert done.exit_code == 0, done.output
    (folder,) = derived(base)
    assert f"6 samples (6 encoded, 0 were there), 30 KiB: {folder}\n" in done.output
    assert f"next: vidcurate train {file}" in done.output
    seen = run(app, ["inspect", str(folder), "--verify"])
    assert seen.exit_code == 0, seen.output
    assert "/tiny, 4 channels, bf16\n" in seen.output
    assert "verified: no problems" in seen.output
    again = run(app, ["precache", str(file), "--set", "data.workers=0"])
    assert "6 samples (0 encoded, 6 were there)" in again.output
    wrong = run(app, ["precache", str(file), "--set", f"data.shards={folder}"])
    assert wrong.exit_code == 2
    assert "is a precached set itself" in wrong.output
    assert run(app, ["index", str(folder), "--force"]).exit_code == 2  # it would forget all that


def test_clips_that_fail_are_counted_and_all_of_them_end_with_1(base: Path, file: Path):
    run = CliRunner().invoke
    size = (base / "2.tar").stat().st_size
    (base / "2.tar").write_bytes(bytes(size))
    done = run(app, ["precache", str(file), "--set", "data.workers=0"])
    assert done.exit_code == 0, done.output
    assert "4 samples (4 encoded, 0 were there)" in done.output
    assert ["DamagedSampleError", "2"] in [line.split() for line in done.output.splitlines()]
    for tar in base.glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    shutil.rmtree(derived(base)[0])
    none = run(app, ["precache", str(file), "--set", "data.workers=0"])
    assert none.exit_code == 1
    assert "no clip could be encoded" in none.output


def test_ray_gives_the_bytes_of_this_process(base: Path, file: Path):
    """One test: a session of Ray takes long to start."""
    command = [sys.executable, "-m", "vidcurate", "precache", str(file)]
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # sockets need a short path
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        done = subprocess.run(
            [*command, "--address", "local", "--set", "data.workers=0"],
            env=environment | {"RAY_TMPDIR": short, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    # Nothing on the terminal is Ray's.
    assert [ln for ln in done.stderr.splitlines() if not ln.startswith("precache: ")] == []
    (folder,) = derived(base)
    assert list(verify(folder)) == []
    by_ray = files(folder)
    shutil.rmtree(folder)
    assert CliRunner().invoke(app, ["precache", str(file)]).exit_code == 0
    assert files(folder) == by_ray
