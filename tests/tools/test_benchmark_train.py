"""The benchmark of the trainer runs on a tiny model and reports as it says; no timing is tested."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace

import benchmark_train as benchmark
import benchmark_train_work as work
import numpy as np
import pytest
import torch

from vidcurate.train.codes import codes_of
from vidcurate.train.config import from_raw
from vidcurate.train.model.flops import TRAINING, flops

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled",  # the trainer's checkpoint, of one process
    "ignore:The .grad attribute of a Tensor:UserWarning",  # torch's own look, when compiling
)

TINY = replace(benchmark.QUICK, clips=80, warm_up=1, steps=2, train_steps=2, backend="eager")
CASES = [
    benchmark.Case("packed", recompute=True),
    benchmark.Case("packed", "both", compiled=False),
    benchmark.Case("bucketed", compiled=False, recompute=True),
    benchmark.Case("padded", compiled=False, recompute=True),
]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return list(benchmark.rows(TINY, CPU, 1e12, tmp_path_factory.mktemp("measured"), CASES))


@pytest.fixture(scope="module")
def model():
    return benchmark.model_of(CASES[0], TINY)


@pytest.fixture(scope="module")
def mix(model):
    return benchmark.sizes_of(model, TINY)


def own_tokens(sizes) -> int:
    """Counted by hand: latents of 4 x 8 x 8, patches of 1 x 2 x 2."""
    return sum((1 + (f - 1) // 4) * (h // 16) * (w // 16) for f, h, w in sizes)


def test_each_case_has_its_figures(rows):
    assert [row.name for row in rows] == [
        "packed, attention full, compiled, recomputed",
        "packed, attention both, eager",
        "bucketed, attention full, eager, recomputed",
        "padded, attention full, eager, recomputed",
        "the trainer on a precached set, packed, attention full, eager, recomputed",
    ]
    packed, both, bucketed, padded, trainer = rows
    assert (packed.ratio, both.ratio) == (1.0, None)  # of the same blocks alone
    for row in (bucketed, padded):
        assert row.ratio == pytest.approx(row.tokens_per_s / packed.tokens_per_s)
    for row in rows:
        assert row.tokens_per_s > 0
        assert 0 < row.mfu < 1
        assert row.memory_gib > 0.01
    assert [row.padding is None for row in rows] == [False, False, True, False, False]
    assert 0 < trainer.data_wait < 1
    assert all(row.data_wait is None for row in rows[:-1])


def test_padding_and_operations_are_those_counted_by_hand(rows, model, mix):
    counted = [TINY.warm_up + i for i in range(TINY.steps)]
    packs = work.packed(model, mix, TINY.budget)
    wide = work.padded(model, mix, TINY.budget)
    for row, batches in ((rows[0], packs), (rows[3], wide)):
        chosen = [batches[i] for i in counted]
        real = sum(own_tokens(batch.real) for batch in chosen)
        assert row.tokens == real
        room = sum(
            TINY.budget if batches is packs else own_tokens(batch.computed) for batch in chosen
        )
        assert row.padding == pytest.approx(1 - real / room)
    packed, padded = rows[0], rows[3]
    assert packed.padding < 0.1 < padded.padding
    assert padded.flops_per_token > 1.2 * packed.flops_per_token
    # MFU is of real tokens alone: what padding computes does not count
    done = 0
    for i in counted:
        texts = work.clips_of(wide[i], model.text_width, TINY.texts, i).texts
        grids = list(work.grids(model, wide[i].real))
        done += TRAINING * flops(model, grids, [len(rows) for rows in texts])
    assert padded.mfu / padded.tokens_per_s == pytest.approx(done / 1e12 / padded.tokens)


def test_batches_hold_the_clips_of_the_mix(model, mix):
    assert all(own_tokens([size]) <= TINY.budget / 2 for size in mix)
    assert 0.1 < np.mean([frames == 1 for frames, _, _ in mix]) < 0.5
    assert len(set(mix)) > 30
    for batches in (work.packed(model, mix, TINY.budget), work.padded(model, mix, TINY.budget)):
        left = Counter(mix) - Counter(size for batch in batches for size in batch.real)
        assert len(batches) > 3
        assert sum(len(batch.real) for batch in batches) + left.total() == len(mix)
        assert own_tokens(left.elements()) <= TINY.budget
        assert all(own_tokens(batch.computed) <= TINY.budget for batch in batches)
    for batch in work.padded(model, mix, TINY.budget):
        largest = tuple(np.array(batch.real).max(axis=0))
        assert set(batch.computed) == {largest}
    bucketed = work.bucketed(model, mix, TINY.budget, TINY.sides, TINY.frames)
    assert all(len(set(batch.computed)) == 1 for batch in bucketed)
    assert all(own_tokens(batch.computed) > TINY.budget / 2 for batch in bucketed)
    frames = {size[0] for batch in bucketed for size in batch.computed}
    assert frames <= {1, 5, 9}


def test_a_clip_goes_in_the_largest_bucket_that_it_fills():
    buckets = [(1, 64, 64), (5, 64, 64), (5, 96, 96), (5, 64, 112), (9, 64, 64), (9, 64, 112)]
    assert work._bucket((8, 100, 100), buckets) == (5, 96, 96)
    assert work._bucket((8, 70, 120), buckets) == (5, 64, 112)
    assert work._bucket((40, 64, 64), buckets) == (9, 64, 64)


def test_the_precached_set_is_one(model, mix, tmp_path):
    work.write_precached(tmp_path / "shards", mix, model.text_width, TINY.texts)
    raw = {"data": {"shards": str(tmp_path / "shards")}, "steps": 1, "output": "-"}
    raw["model"] = {**TINY.size, "channels": work.CHANNELS}
    codes, line = codes_of(from_raw(raw))
    assert (codes.channels, codes.compression, codes.text_width) == (16, (4, 8, 8), 32)
    assert codes.chained
    assert line == f"reads precached {tmp_path / 'shards'}"


FACTS = {
    "cpu": "A CPU",
    "load": "0.5",
    "versions": "Python 3, torch 2",
    "model": "m 1",
    "device": "d",
}


def test_the_table_says_what_is_not_known():
    found = [
        benchmark.Row("a", 10, 1234.5, None, 0.012, 3.25, None, ratio=1),
        benchmark.Row("b", note="out of memory"),
    ]
    lines = benchmark.table(found, FACTS, "tools/x.py").splitlines()
    assert lines[2:4] == [
        "| a | 1,234 | 1.00 | n/a | 1.2% | n/a | 3.2 |  |",
        "| b | n/a | n/a | n/a | n/a | n/a | n/a | out of memory |",
    ]
    assert lines[-1] == "`tools/x.py` on d, Python 3, torch 2. m 1."
    facts = benchmark.facts_of(TINY, CPU, None)
    assert "a CPU (" in facts["device"]
    assert facts["model"].endswith("2 steps after 1; peak unknown")
    assert torch.__version__ in facts["versions"]


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    monkeypatch.setattr(benchmark, "CASES", CASES[1:2])
    monkeypatch.setattr(benchmark.rows, "__defaults__", (CASES[1:2],))
    file = tmp_path / "figures.json"
    command = ["benchmark_train.py", "--quick", "--device", "cpu", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    assert benchmark.main() == 0
    found = json.loads(file.read_text())
    assert [row["name"].split(",")[0] for row in found["rows"]] == [
        "packed",
        "the trainer on a precached set",
    ]
    assert [row["mfu"] for row in found["rows"]] == [None, None]
    assert capsys.readouterr().out.count("\n| ") == 2


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark_train.py"])
    with pytest.raises(SystemExit, match="finds no CUDA GPU; see --quick --device cpu"):
        benchmark.main()
