"""Both command lines: what they share, --fresh, --batching, signals, TensorBoard."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from two_ranks import recipe
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.train.__main__ import main
from vidcurate.train.checkpoint import checkpoints
from vidcurate.train.config import from_raw
from vidcurate.train.loop import train
from vidcurate.train.metrics import read

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def written(folder: Path, output: Path, **changes: Any) -> Path:
    """A recipe beside its output; `data__workers=1` changes data.workers."""
    path = output.with_name(f"{output.name}.yaml")
    raw = recipe(str(folder), str(output))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        (raw[section] if name else raw)[name or section] = value
    path.write_text(yaml.safe_dump(raw))
    return path


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def started(path: Path, *more: str) -> subprocess.Popen[str]:
    """The trainer in a process group of its own, as a terminal's."""
    return subprocess.Popen(
        [sys.executable, "-m", "vidcurate.train", str(path), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def until(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stdout is not None
    while not process.stdout.readline().startswith(beginning):
        assert process.poll() is None, process.communicate()[1]


@pytest.mark.parametrize("command", ["vidcurate train", "python -m vidcurate.train"])
def test_fresh_removes_what_a_training_wrote_and_nothing_else(shapes, tmp_path, capsys, command):
    def invoke(*arguments: str) -> tuple[int, str]:
        if command == "vidcurate train":
            done = CliRunner().invoke(app, ["train", *arguments])
            return done.exit_code, done.output
        status = main(list(arguments))
        told = capsys.readouterr()
        return status, told.out + told.err

    out = tmp_path / "out"
    validate = {"every": 2, "batches": 1, "timesteps": [0.5], "videos": 1, "sampling_steps": 1}
    path = written(
        shapes(6, val=0.5),
        out,
        data__split="train",
        validate=validate,
        checkpoint={"every": 1, "keep": 2},
        steps=2,
    )
    assert invoke(str(path))[0] == 0
    mine = {"notes.txt", "samples/best.gif", "checkpoints/kept/weights.bin"}
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    status, text = invoke(str(path), "--fresh", "--set", "steps=1", "--batching", "bucket")
    assert status == 0, text
    (told,) = (line for line in text.splitlines() if line.startswith("--fresh removes from"))
    for name in (
        "checkpoints/step-00000001",
        "checkpoints/step-00000002",
        "metrics.jsonl",
        "losses.svg",
        "summary.json",
        "samples/step-00000002",
        "tensorboard/events.out.tfevents.",
    ):
        assert name in told
    assert "notes" not in told
    assert mine <= tree(out)
    stale = {n for n in tree(out) if n.startswith(("checkpoints/step", "samples/step"))}
    assert {name.split("/")[1] for name in stale} == {"step-00000001"}
    assert len([n for n in tree(out) if n.startswith("tensorboard/")]) == 1
    assert [line["step"] for line in read(out / "metrics.jsonl")] == [1, 1]
    # Batches of buckets have no padding to tell; packs have.
    assert read(out / "metrics.jsonl")[0]["padding"] is None
    # A new folder is nothing to ask about; one of somebody else's things is not touched.
    assert invoke(str(path), "--fresh", "--output", str(tmp_path / "new"))[0] == 0
    before = tree(out / "checkpoints" / "kept")
    for other in (out / "checkpoints" / "kept", shapes(6, val=0.5)):
        held = tree(other)
        status, text = invoke(str(path), "--fresh", "--output", str(other))
        assert status == 2
        assert "is not a training's output" in text.replace("\n", " ")
        assert tree(other) == held
    assert before == {"weights.bin"}
    status, text = invoke(str(path), "--batching", "padded")
    assert status == 2
    assert 'data.batching: "padded" is not possible here (known: pack, bucket)' in text.replace(
        "\n", " "
    )


def test_a_mistake_costs_nothing_with_fresh(shapes, tmp_path, capsys):
    out = tmp_path / "out"
    path = written(shapes(4), out, steps=1)
    assert main([str(path)]) == 0
    held = tree(out)
    assert main([str(path), "--fresh", "--set", f"data.shards={tmp_path / 'typo'}"]) == 2
    assert "typo" in capsys.readouterr().err
    assert main([str(path), "--fresh", "--set", "data.buckets=[2x2x2]"]) == 2
    assert main([str(path), "--fresh", "--set", "data.budget=40"]) == 2
    told = capsys.readouterr()
    assert "more than the budget of 40" in told.err
    assert "removes" not in told.out
    assert tree(out) == held


def test_fresh_never_removes_what_it_begins_with(shapes, tmp_path, capsys):
    path = written(shapes(4), tmp_path / "out", steps=1)
    assert main([str(path)]) == 0
    begin = f"init_from.checkpoint={tmp_path / 'out'}"
    assert main([str(path), "--fresh", "--set", begin]) == 2
    assert "which init_from begins with; give another output" in capsys.readouterr().err
    assert checkpoints(tmp_path / "out" / "checkpoints")


def test_news_of_the_trainer_are_told_on_stderr(shapes, tmp_path, capsys):
    path = written(shapes(4), tmp_path / "out", steps=1)
    assert main([str(path)]) == 0
    assert main([str(path), "--set", "steps=2"]) == 0
    told = capsys.readouterr()
    assert f"going on from {tmp_path / 'out' / 'checkpoints' / 'step-00000001'}" in told.err
    assert "going on" not in told.out
    assert logging.getLogger("vidcurate.train").handlers == []


def test_tensorboard_has_each_step_once_after_a_kill(shapes, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = written(shapes(8), tmp_path / "out", checkpoint={"every": 3}, steps=100_000)
    process = started(path)
    until(process, "step 5 ")
    while not checkpoints(tmp_path / "out" / "checkpoints"):
        until(process, "step ")
    process.kill()
    process.communicate()
    (*_, latest) = checkpoints(tmp_path / "out" / "checkpoints")
    begun = int(latest.name.removeprefix("step-"))
    killed = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    # What was shown was written, though the process had no time to close the file.
    assert [e.step for e in killed.Scalars("loss")][:5] == [1, 2, 3, 4, 5]
    steps = begun + 4
    assert main([str(path), "--set", f"steps={steps}"]) == 0
    board = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    lines = read(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    scalars = [name for name, value in lines[0].items() if value is not None and name != "step"]
    assert {"loss", "grad_norm", "lr", "tokens_per_s", "epoch"} <= set(scalars)
    assert set(scalars) <= set(board.Tags()["scalars"])
    for name in ("loss", "grad_norm", "lr"):
        events = board.Scalars(name)
        assert [e.step for e in events] == list(range(1, steps + 1))
        assert [e.value for e in events] == pytest.approx([line[name] for line in lines])


def test_without_tensorboard_the_metrics_are_in_one_file(shapes, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "vidcurate.train")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    raw = recipe(str(shapes(4)), str(tmp_path), steps=1)
    assert train(from_raw(raw), show=lambda _: None).step == 1
    assert f"no TensorBoard here (pip install tensorboard): metrics go to {tmp_path}" in caplog.text
    assert not (tmp_path / "tensorboard").exists()
    assert len(read(tmp_path / "metrics.jsonl")) == 1


def test_a_sigterm_saves_without_a_validation(shapes, tmp_path):
    """Whoever sends it kills what does not end soon; a validation with videos takes long."""
    validate = {"every": 1, "batches": 1, "timesteps": [0.5]}
    raw = recipe(str(shapes(6, val=0.5)), str(tmp_path), validate=validate, steps=100)
    raw["data"]["split"] = "train"

    def stop(line: str) -> None:
        if line.startswith("step 1 ") and "val_loss" not in line:
            signal.raise_signal(signal.SIGTERM)

    assert train(from_raw(raw), show=stop).stopped
    lines = read(tmp_path / "metrics.jsonl")
    assert [(line["step"], "val_loss" in line) for line in lines] == [
        (1, False),
        (1, True),  # the signal came before it, and was not seen yet
        (2, False),
    ]
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]


def test_ctrl_c_in_a_terminal_saves_with_workers_that_read(shapes, tmp_path):
    """A terminal sends it to the processes that read, too."""
    path = written(shapes(8), tmp_path / "out", steps=100_000, data__workers=1)
    process = started(path)
    until(process, "step 3 ")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert checkpoints(tmp_path / "out" / "checkpoints")
    assert "Traceback" not in errors


def test_mistakes_in_a_recipe_are_told_before_torch_is_loaded(tmp_path):
    (tmp_path / "wrong.yaml").write_text("name: a\nstepz: 3\n")
    code = (
        "import sys; from typer.testing import CliRunner; from vidcurate.cli.main import app\n"
        "result = CliRunner().invoke(app, ['train', sys.argv[1]])\n"
        "print(result.exit_code, 'stepz' in result.output, 'torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "wrong.yaml")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["2", "True", "False"]
