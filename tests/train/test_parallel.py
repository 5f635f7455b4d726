"""Two processes with gloo against one on the same global batch: DDP and FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from two_ranks import recipe, two_ranks

from vidcurate.errors import UserError
from vidcurate.train.checkpoint import checkpoints
from vidcurate.train.config import from_raw
from vidcurate.train.loop import train
from vidcurate.train.metrics import read
from vidcurate.train.parallel import placed

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stored(output: Path) -> dict[str, torch.Tensor]:
    reader = dcp.FileSystemReader(checkpoints(output / "checkpoints")[-1])
    found = {
        name: torch.zeros(about.size, dtype=about.properties.dtype)
        for name, about in reader.read_metadata().state_dict_metadata.items()
    }
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found


def lines(output: Path, name: str) -> list[Any]:
    return [line[name] for line in read(output / "metrics.jsonl") if name in line]


def test_two_ranks_are_as_one(shapes, tmp_path):
    folder = shapes(8, ((5, 16, 16), (5, 16, 32)), val=0.4)
    said = two_ranks(str(folder), str(tmp_path))

    # One process takes the packs of both ranks as accumulated ones: the same global batches.
    one = recipe(str(folder), str(tmp_path / "one"), optimizer={"lr": 1e-3, "weight_decay": 0.1})
    one["optimizer"]["accumulation"] = 2
    one["validate"] = {"every": 4, "batches": 2, "timesteps": [0.5]}
    train(from_raw(one), show=lambda _: None)
    alone = stored(tmp_path / "one")
    for how in ("ddp", "fsdp2"):
        assert said[0][how]["step"] == said[1][how]["step"] == 4
        for name in ("loss", "grad_norm"):
            expected = pytest.approx(lines(tmp_path / "one", name), rel=2e-4)
            assert lines(tmp_path / how, name)[:4] == expected
        assert lines(tmp_path / how, "val_loss") == pytest.approx(
            lines(tmp_path / "one", "val_loss"), rel=1e-3
        )
        assert all(0 < share <= 1 for share in lines(tmp_path / how, "balance_predicted"))
    spread = stored(tmp_path / "ddp")
    assert spread.keys() == alone.keys()
    for name in alone:
        if name.startswith(("model.", "ema.")):
            torch.testing.assert_close(spread[name], alone[name], rtol=1e-3, atol=2e-4)

    # One process goes on from what two saved, with the samples that come next.
    one["steps"] = 5
    train(from_raw(one), show=lambda _: None)
    train(from_raw(one | {"output": str(tmp_path / "ddp")}), show=lambda _: None)
    after = lines(tmp_path / "ddp", "loss")
    assert len(after) == 5
    assert after == pytest.approx(lines(tmp_path / "one", "loss"), rel=1e-3)

    # Over both ranks each clip comes once an epoch.
    packs = [p for both in zip_longest(*(s["ddp"]["seen"] for s in said)) for p in both if p]
    epochs = lines(tmp_path / "ddp", "epoch")
    ids = [i for pack in packs[: 2 * (epochs.index(1) + 1)] for i in pack]
    assert sorted(ids) == [f"clip{i:03d}" for i in range(8)]
    assert said[0]["ddp"]["seen"] == said[0]["fsdp2"]["seen"]

    # A checkpoint of FSDP2 went on under DDP; a bad number of rank 1 was skipped by both.
    assert [s["gone_on"]["step"] for s in said] == [6, 6]
    assert [s["gone_on"]["not_finite"] for s in said] == [1, 1]
    assert "poisoned" in said[1]


def test_fsdp2_without_ranks_is_told(shapes, tmp_path):
    raw = recipe(str(shapes(2)), str(tmp_path), parallel="fsdp2")
    with pytest.raises(UserError, match="fsdp2 needs ranks: start with torchrun"):
        train(from_raw(raw), show=lambda _: None)


def test_cuda_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch finds no CUDA GPU"), placed("cuda"):
        pass
