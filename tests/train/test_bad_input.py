"""Bad input and a full disk, through the loop or the command, with nothing stood in for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from two_ranks import recipe

from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.shards.foreign import index_tars
from vidcurate.train.checkpoint import about, checkpoints
from vidcurate.train.config import from_raw
from vidcurate.train.loop import Summary, train
from vidcurate.train.metrics import read

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

FULL = """
import resource, sys
from vidcurate.train import __main__ as command

def start(*arguments, show, **named):
    def full(line):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
        show(line)
    return begun(*arguments, show=full, **named)

begun, command.start = command.start, start
sys.exit(command.main(sys.argv[2:]))
"""
"""The command on a disk that is full from the first line of metrics on."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(raw: dict[str, Any]) -> Summary:
    return train(from_raw(raw), show=lambda _: None)


def test_shards_without_samples_are_told(shapes, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RunDirectoryError, match=r"empty"):
        run(recipe(str(empty), str(tmp_path / "out")))
    raw = recipe(str(shapes(4)), str(tmp_path / "out"))
    raw["data"]["split"] = "val"  # the set has none of it
    with pytest.raises(UserError, match=r"no sample.* split"):
        run(raw)
    raw["data"]["split"] = "all"
    raw["data"]["buckets"] = ["256x256x9"]
    with pytest.raises(UserError, match=r"256x256x9"):
        run(raw)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_an_index_of_no_samples_is_told(tmp_path):
    import tarfile

    folder = tmp_path / "none"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w"):
        pass
    try:
        index_tars(folder, val=0.0, workers=1)
    except UserError:
        return  # such a set cannot even be indexed
    with pytest.raises(UserError, match="no sample"):
        run(recipe(str(folder), str(tmp_path / "out")))


def test_clips_longer_than_the_budget_are_skipped_and_counted(shapes, tmp_path):
    """Of eight, four have 160 tokens where 80 are the budget."""
    raw = recipe(str(shapes(8, ((5, 16, 16), (5, 16, 32)))), str(tmp_path))
    raw["data"] |= {"budget": 80, "too_long": "stop"}
    with pytest.raises(UserError, match=r"160 tokens, more than the budget of 80.*too_long=.skip"):
        run(raw)
    raw["data"]["too_long"] = "skip"
    summary = run(raw | {"steps": 8})
    assert summary.step == 8
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines].count(0) in (3, 4)  # four packs of one clip
    assert sum(summary.skipped.values()) == sum(line["skipped"] for line in lines) == 8
    assert all(0 < line["loss"] < 10 for line in lines)


def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(shapes, tmp_path):
    """The limit on the size of files stands in for a disk without space, for every file."""
    out = tmp_path / "out"
    raw = recipe(str(shapes(4)), str(out), checkpoint={"every": 2}, steps=2)
    run(raw)
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(raw | {"steps": 8}))
    done = subprocess.run(
        [sys.executable, "-c", FULL, "3000", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the checkpoint of step 8 could not be saved in")
    assert last.endswith("free space or mend the permissions: the earlier ones are kept")
    assert "the checkpoint of step 4 could not be saved" in done.stderr  # told, and gone on
    assert done.stderr.count("metrics cannot be written") == 1
    assert "loop.py" not in done.stderr  # no traceback but that of TensorBoard's own thread
    assert done.stdout.splitlines()[-1].startswith("step 8 ")
    (kept,) = checkpoints(out / "checkpoints")
    assert about(kept)["step"] == 2
    assert [p.name for p in (out / "checkpoints").iterdir()] == [kept.name]
    # There is space again: the same command goes on from there.
    assert run(raw | {"steps": 4}).step == 4
    assert [line["step"] for line in read(out / "metrics.jsonl")] == [1, 2, 3, 4]
    assert json.loads((out / "summary.json").read_text())["step"] == 4
