"""What a line of the log holds."""

from __future__ import annotations

import json
import time

import pytest
import torch

from vidcurate.train.metrics import Journal, Meter, Stopwatch, read, text_of
from vidcurate.train.parallel import Place
from vidcurate.train.picture import draw_losses

ALONE = Place(0, 1, torch.device("cpu"))


def test_a_line_holds_sums_and_shares_of_its_interval_only():
    meter = Meter(ALONE, budget=100, peak=1e6)
    began = time.perf_counter()
    for tokens in (90, 100):
        meter.pack(samples=3, seconds=1.5, tokens=tokens, flops=1e3)
        meter.losses(torch.tensor([8.0, 0, 0, 2]), torch.tensor([4, 0, 0, 16]))
    meter.pack(samples=0, seconds=0, tokens=0, flops=0)  # a rank without work
    meter.add(skipped=1, data_wait=0.0)
    meter.balance(torch.tensor([3.0, 1.0]), [0.5, 1.0])
    meter.balance(torch.tensor([2.0, 2.0]), [0.0, 0.0])
    time.sleep(0.02)
    line = meter.line(step=7)
    took = time.perf_counter() - began
    assert line["step"] == 7
    assert line["loss"] == pytest.approx(20 / 40)
    assert line["loss_q1"] == 2.0
    assert line["loss_q2"] is None
    assert line["loss_q4"] == pytest.approx(1 / 8)
    assert line["padding"] == pytest.approx(0.05)
    assert line["balance_predicted"] == pytest.approx((2 / 3 + 1) / 2)
    assert line["balance_measured"] == pytest.approx(0.75)
    assert line["skipped"] == 1
    assert 0.5 < line["tokens_per_s"] / (190 / took) < 2
    assert line["samples_per_s"] == pytest.approx(line["tokens_per_s"] * 6 / 190)
    assert line["mfu"] == pytest.approx(line["tokens_per_s"] / 190 * 2e3 / 1e6)
    assert 0.01 < line["memory_gib"] < 64
    empty = meter.line()
    assert empty["loss"] is empty["padding"] is empty["balance_predicted"] is None
    assert empty["skipped"] == 0


def test_without_a_known_peak_or_budget_there_is_nothing_to_say():
    meter = Meter(ALONE, budget=None, peak=None)
    meter.pack(samples=1, seconds=1, tokens=10, flops=10)
    line = meter.line()
    assert line["mfu"] is line["padding"] is None
    said = text_of({"step": 3, "loss": 0.5, "mfu": None, "padding": 0.0123, "skipped": 0})
    assert said == "step 3  loss 0.5  mfu n/a  padding 1.2%"


def test_time_that_is_not_training_does_not_count():
    meter = Meter(ALONE, budget=None, peak=None)
    meter.pack(samples=1, seconds=1, tokens=1000, flops=10)
    began = time.perf_counter()
    time.sleep(0.3)
    meter.pause(time.perf_counter() - began)
    time.sleep(0.02)
    assert 1000 / 0.2 < meter.line()["tokens_per_s"] <= 1000 / 0.02


def test_a_stopwatch_adds_up_and_begins_anew():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        watch.start()
        time.sleep(0.01)
        watch.stop()
    assert 0.02 <= watch.take() < 5
    assert watch.take() == 0


def test_the_journal_has_each_step_once(tmp_path):
    shown: list[str] = []
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 4}\n{"step": 2, "loss": 3}\n{"step": 3, "lo')
    journal = Journal(tmp_path, 1, shown.append)
    journal.write({"step": 2, "loss": 2.0, "grad_norm": float("nan")})
    journal.write({"step": 2, "val_loss": 2.5})
    journal.close()
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 4},
        {"step": 2, "loss": 2.0, "grad_norm": None},
        {"step": 2, "val_loss": 2.5},
    ]
    assert shown[1] == "step 2  val_loss 2.5"
    draw_losses(path, tmp_path / "losses.svg")
    drawn = (tmp_path / "losses.svg").read_text()
    assert drawn.count("<polyline") == 2
    assert "val loss" in drawn
    assert "nan" not in drawn


def test_a_run_without_losses_has_no_picture(tmp_path):
    draw_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.svg")
    assert read(tmp_path / "metrics.jsonl") == []
    assert not (tmp_path / "losses.svg").exists()
