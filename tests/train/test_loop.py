"""The loop: what is learnt, going on after a kill, each clip once, bad numbers, bad input."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch._dynamo.testing import CompileCounter

from vidcurate.errors import DivergedError, UserError
from vidcurate.lock import Lock
from vidcurate.shards import ShardDataset
from vidcurate.train import loop
from vidcurate.train.__main__ import main
from vidcurate.train.checkpoint import checkpoints
from vidcurate.train.config import Optimizer, from_raw
from vidcurate.train.data import clips
from vidcurate.train.loop import Summary, learning_rate, train
from vidcurate.train.metrics import read
from vidcurate.train.sampling.generate import Generator

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of a small model; `data__budget=80` changes data.budget."""
    raw: dict[str, Any] = {
        "data": {
            "shards": str(folder),
            "split": "all",
            "budget": 240,
            "captions": "source",
            "workers": 0,
        },
        "model": {"width": 32, "depth": 2, "heads": 2, "patch": [1, 4, 4], "text_width": 16},
        "optimizer": {"lr": 1e-3},
        "precision": "fp32",
        "device": "cpu",
        "checkpoint": {"every": 2},
        "log": {"every": 1},
        "steps": 4,
        "output": str(output),
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            raw.setdefault(section, {})[name] = value
        else:
            raw[section] = value
    return raw


def run(raw: dict[str, Any], **how: Any) -> Summary:
    return train(from_raw(raw), show=lambda _: None, **how)


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read(output / "metrics.jsonl") if "loss" in line]


def weights(output: Path) -> dict[str, torch.Tensor]:
    """All tensors of the latest checkpoint: model, optimiser and average."""
    reader = dcp.FileSystemReader(checkpoints(output / "checkpoints")[-1])
    stored = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.full(about.size, float("nan"), dtype=about.properties.dtype)
        for name, about in stored.items()
    }
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found


# ---------------------------------------------------------------- learning


def test_eight_clips_are_learnt_by_heart(shapes, tmp_path):
    folder = shapes(8)
    raw = recipe(
        folder,
        tmp_path,
        steps=400,
        data__budget=320,
        data__drop_captions=0,
        model__width=128,
        model__depth=1,
        model__heads=4,
        model__mlp_ratio=2,
        model__text_width=32,
        objective={"masked": 0},
        optimizer={"lr": 5e-3, "warm_up": 20, "schedule": "cosine"},
        checkpoint={"every": None},
        ema=None,
        log={"every": 50},
    )
    summary = run(raw)
    config = from_raw(raw)
    batches = ShardDataset(folder, split=None)
    pixels = torch.cat(
        [x.flatten() for batch in batches for x in clips(batch, config.model.patch).latents]
    )
    constant = 1 + pixels.var()  # of noise minus pixels, by its mean
    assert summary.loss < 0.1 * constant
    assert losses(tmp_path)[0] > 0.5 * constant
    assert "<polyline" in (tmp_path / "losses.svg").read_text()


# ---------------------------------------------------------------- going on


def test_a_killed_run_goes_on_bit_for_bit(shapes, tmp_path):
    folder = shapes(8, ((5, 16, 16), (5, 16, 32)))
    raw = recipe(folder, tmp_path / "killed", optimizer__accumulation=2)
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(raw | {"steps": 100_000}))
    process = subprocess.Popen(
        [sys.executable, "-m", "vidcurate.train", str(path), "--set", "log.every=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("step 5 "):
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    (*_, latest) = checkpoints(tmp_path / "killed" / "checkpoints")
    begun = int(latest.name.removeprefix("step-"))
    steps = begun + 3
    assert run(raw | {"steps": steps}).step == steps
    run(recipe(folder, tmp_path / "whole", optimizer__accumulation=2, steps=steps))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    whole, gone_on = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert any(name.startswith("ema.") for name in whole)
    assert any(name.endswith("exp_avg_sq") for name in whole)
    assert whole.keys() == gone_on.keys()
    assert [name for name in whole if not torch.equal(whole[name], gone_on[name])] == []
    stray = [p for p in (tmp_path / "killed" / "checkpoints").iterdir() if p.name[0] == "."]
    assert stray == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on(shapes, tmp_path, number):
    raw = recipe(shapes(4), tmp_path / "out", checkpoint={"every": None})
    before = signal.getsignal(number)

    def stop(line: str) -> None:
        if line.startswith("step 2 "):
            signal.raise_signal(number)

    long = from_raw(raw | {"steps": 100_000})
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            train(long, show=stop)
    else:
        assert train(long, show=stop).stopped
    assert signal.getsignal(number) == before
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["step"], summary["stopped"]) == (3, True)
    assert summary["checkpoint"].endswith("step-00000003")
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert main([str(path), "--set", "steps=4"]) == 0
    assert [line["step"] for line in read(tmp_path / "out" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_mistake_in_the_recipe_is_exit_status_2(tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    path.write_text("steps: 0")
    assert main([str(path)]) == 2
    assert "wrong.yaml:1: steps: should be greater" in capsys.readouterr().err


def test_a_run_that_is_done_does_no_more(shapes, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidcurate.train")
    raw = recipe(shapes(4), tmp_path, steps=1)
    run(raw)
    said = (tmp_path / "summary.json").read_text()
    again = run(raw)
    assert (again.step, again.loss, again.stopped) == (1, None, False)
    assert "step 1 of 1: nothing is left to do" in caplog.text
    assert len(read(tmp_path / "metrics.jsonl")) == 1
    assert (tmp_path / "summary.json").read_text() == said


def test_a_second_training_in_one_output_is_refused(shapes, tmp_path):
    raw = recipe(shapes(4), tmp_path, steps=1)
    unfinished = tmp_path / "checkpoints" / ".tmp-step-00000007"
    unfinished.mkdir(parents=True)
    with (
        Lock(tmp_path),
        pytest.raises(UserError, match=rf"in use by another run \(process {os.getpid()} on"),
    ):
        run(raw)
    assert unfinished.exists()  # it is the other's
    assert run(raw).step == 1
    assert not unfinished.exists()


def test_going_on_with_another_objective(shapes, tmp_path, caplog):
    raw = recipe(shapes(4), tmp_path, steps=1)
    run(raw)
    with pytest.raises(UserError, match="another objective: name was 'flow' and is 'epsilon'; set"):
        run(raw | {"steps": 2, "objective": {"name": "epsilon"}})
    assert "another objective" not in caplog.text
    assert run(raw | {"steps": 2, "objective": {"shift": 3.0, "masked": 0}}).step == 2
    told = "another objective from here on: masked was 0.25 and is 0.0; shift was 1.0 and is 3.0"
    assert told in caplog.text


def test_each_clip_comes_once_an_epoch(shapes, tmp_path, monkeypatch):
    seen: list[tuple[int, list[str]]] = []
    real = loop.pack_of

    def noted(own, *arguments, **named):
        seen.append((named["step"], own.ids))
        return real(own, *arguments, **named)

    monkeypatch.setattr(loop, "pack_of", noted)
    raw = recipe(shapes(9, ((5, 16, 16), (5, 16, 32))), tmp_path, steps=3)
    run(raw)
    run(raw | {"steps": 12})
    epochs = [line["epoch"] for line in read(tmp_path / "metrics.jsonl")]
    packs = epochs.count(0) + 1  # the last pack of an epoch tells the next
    counts = Counter(i for _, ids in seen[: 2 * packs] for i in ids)
    assert set(counts.values()) == {2}
    assert len(counts) == 9
    assert [step for step, _ in seen] == list(range(12))


# ---------------------------------------------------------------- how it trains


def test_accumulated_packs_weigh_each_token_the_same(shapes, tmp_path):
    """Two packs of different numbers of tokens in one step are as one pack of both."""
    folder = shapes(3)
    one = recipe(folder, tmp_path / "one", data__budget=240, steps=1, ema=None)
    two = recipe(folder, tmp_path / "two", data__budget=160, optimizer__accumulation=2, steps=1)
    run(one)
    run(two | {"ema": None})
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    for name in first:
        if name.endswith("exp_avg"):
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__recompute": True},
        {"precision": "bf16"},
        {"data__batching": "bucket", "data__batch": {"native": 3}},
        {"objective__name": "epsilon"},
    ],
    ids=["recompute", "bf16", "bucket", "epsilon"],
)
def test_other_ways_train_too(shapes, tmp_path, changes):
    folder = shapes(3)
    run(recipe(folder, tmp_path / "plain", steps=2))
    run(recipe(folder, tmp_path / "other", steps=2, **changes))
    plain, other = losses(tmp_path / "plain"), losses(tmp_path / "other")
    exact = "optimizer__recompute" in changes or "data__batching" in changes
    if exact:
        assert other == pytest.approx(plain, rel=1e-5)
    elif "precision" in changes:
        assert other == pytest.approx(plain, rel=0.05)
    else:
        assert other[0] != plain[0]
    assert np.isfinite(other).all()


# torch itself looks at the gradients of what goes from one graph to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_train_the_same_weights(shapes, tmp_path, monkeypatch):
    """Traced, and not made machine code: a compiler takes a minute for that."""
    seen = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=seen))
    torch._dynamo.reset()
    raw = recipe(shapes(3), tmp_path / "plain", steps=1, model__depth=1)
    run(raw)
    assert seen.frame_count == 0
    run(raw | {"output": str(tmp_path / "other"), "compile": True, "optimizer": {"lr": 1e-3}})
    torch._dynamo.reset()
    assert seen.frame_count > 0
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert weights(tmp_path / "other").keys() == weights(tmp_path / "plain").keys()


def test_the_learning_rate_rises_and_falls():
    how = Optimizer(lr=1.0, warm_up=4, schedule="cosine", final=0.1)
    rates = [learning_rate(how, step, 12) for step in range(13)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.55)
    # `final` would be the next step's: with 0, too, the last one learns.
    assert rates[12] == pytest.approx(0.1)
    assert how.final < rates[11] < 0.15
    linear = how.model_copy(update={"schedule": "linear"})
    assert learning_rate(linear, 8, 12) == pytest.approx(0.55)
    assert learning_rate(linear.model_copy(update={"schedule": "constant"}), 11, 12) == 1.0


def test_validation_has_the_same_noise_each_time_and_writes_videos(shapes, tmp_path):
    written: list[tuple[str, tuple[int, ...], float]] = []

    def write(path: Path, frames: Any, fps: float) -> None:
        written.append((path.relative_to(tmp_path).as_posix(), frames.shape, fps))

    raw = recipe(
        shapes(6, val=0.5),
        tmp_path,
        data__split="train",
        steps=2,
        optimizer__lr=1e-12,
        validate={"every": 1, "timesteps": [0.2, 0.8], "videos": 1, "sampling_steps": 1},
    )
    run(raw, write=write)
    first, second = (line for line in read(tmp_path / "metrics.jsonl") if "val_loss" in line)
    assert second["val_loss_0.2"] == pytest.approx(first["val_loss_0.2"], rel=1e-4)
    assert first["ema_loss"] == pytest.approx(first["val_loss"], rel=1e-4)
    assert first["val_loss"] == pytest.approx((first["val_loss_0.2"] + first["val_loss_0.8"]) / 2)
    names = [name.rpartition("-clip")[0] for name, _, _ in written]
    assert names == [f"samples/step-0000000{n}/{which}" for n in (1, 2) for which in ("raw", "ema")]
    assert written[0][1:] == ((5, 16, 16, 3), pytest.approx(8.0))


# ---------------------------------------------------------------- bad numbers, bad input


@pytest.fixture
def poisoned(monkeypatch) -> Callable[[str], None]:
    """poisoned("clip001") gives that clip a pixel that is not finite at the second step."""

    def poison(sample: str) -> None:
        real = loop.pack_of

        def made(own, *arguments, **named):
            if named["step"] == 1 and sample in own.ids:
                own.latents[own.ids.index(sample)][0, 0, 0, 0] = float("inf")
            return real(own, *arguments, **named)

        monkeypatch.setattr(loop, "pack_of", made)

    return poison


def test_a_loss_that_is_not_finite_stops_with_the_samples(shapes, tmp_path, poisoned):
    poisoned("clip001")
    raw = recipe(shapes(3), tmp_path, checkpoint={"every": 1})
    with pytest.raises(DivergedError, match=r"step 1 are not finite, samples clip001; .*on_nan"):
        run(raw)
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-00000001"]


def test_a_loss_that_is_not_finite_is_skipped(shapes, tmp_path, poisoned, caplog):
    poisoned("clip001")
    summary = run(recipe(shapes(3), tmp_path, on_nan="skip"))
    assert summary.not_finite == 1
    assert "samples clip001: the step is skipped" in caplog.text
    assert [loss is None for loss in losses(tmp_path)] == [False, True, False, False]
    again = run(recipe(shapes(3), tmp_path, on_nan="skip", steps=5))
    assert again.not_finite == 1  # goes on counting
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_samples_that_cannot_be_read_are_counted(shapes, tmp_path):
    summary = run(recipe(shapes(3, broken=1), tmp_path, steps=2))
    assert sum(summary.skipped.values()) == 2
    assert [line["skipped"] for line in read(tmp_path / "metrics.jsonl")] == [1, 1]


def test_a_checkpoint_of_another_model_is_told(shapes, tmp_path):
    raw = recipe(shapes(3), tmp_path, steps=1)
    run(raw)
    with pytest.raises(UserError, match="another model: width was 32 and is 64; set model as"):
        run(recipe(Path(raw["data"]["shards"]), tmp_path, model__width=64))
    with pytest.raises(UserError, match="budget 240, now it is 320"):
        run(recipe(Path(raw["data"]["shards"]), tmp_path, data__budget=320))


def test_a_clip_longer_than_the_budget_is_told(shapes, tmp_path):
    with pytest.raises(UserError, match="more than the budget of 40"):
        run(recipe(shapes(3), tmp_path, data__budget=40))


# ---------------------------------------------------------------- the commands


def test_the_commands_train_and_sample(shapes, tmp_path):
    from typer.testing import CliRunner

    from vidcurate.cli.main import app

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe(shapes(3), tmp_path / "out", steps=1)))
    done = CliRunner().invoke(app, ["train", str(path), "--set", "ema=null"])
    assert done.exit_code == 0, done.output
    assert "step 1  epoch" in done.output
    assert "checkpoint: " in done.output
    sample = ["sample", str(tmp_path / "out"), "--steps", "2", "--device", "cpu"]
    first = tmp_path / "a.gif"
    done = CliRunner().invoke(app, [*sample, "--prompt", "a red square", "--to", str(first)])
    assert done.exit_code == 0, done.output
    more = tmp_path / "b.mp4"
    done = CliRunner().invoke(
        app,
        [*sample, "--from", str(first), "--mode", "forward", "--frames", "2", "--to", str(more)],
    )
    assert done.exit_code == 0, done.output
    with av.open(str(more)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 7
    wrong = CliRunner().invoke(app, [*sample, "--mode", "forwards"])
    assert wrong.exit_code == 2
    assert "did you mean 'forward'?" in wrong.output
    missing = CliRunner().invoke(app, ["sample", str(tmp_path)])
    assert missing.exit_code == 2
    assert "holds no checkpoint" in missing.output


def test_the_first_frame_that_is_given_is_kept(shapes, tmp_path):
    run(recipe(shapes(3), tmp_path, steps=1))
    given = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    made = Generator(tmp_path)("", mode="image_to_video", given=given, frames=3, fps=8, steps=2)
    assert made.shape == (3, 16, 16, 3)
    assert (made[0] == given[0]).all()
    with pytest.raises(UserError, match="needs a picture or video"):
        Generator(tmp_path)("", mode="image_to_video", frames=3, fps=8)
    with pytest.raises(UserError, match="whole number of patches"):
        Generator(tmp_path)("", size=(18, 16), frames=3, fps=8, device="cpu")
