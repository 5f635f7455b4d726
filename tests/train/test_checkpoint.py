"""Checkpoints: whole or not at all, the latest kept, told where they are of something else."""

from __future__ import annotations

import resource

import pytest
import torch

from vidcurate.errors import RunDirectoryError, StorageError, UserError
from vidcurate.train.checkpoint import Saver, about, checkpoints, load
from vidcurate.train.parallel import Place

ALONE = Place(0, 1, torch.device("cpu"))


def tensors(value: float) -> dict:
    return {
        "model": {"a.weight": torch.full((64, 32), value), "b": torch.tensor(value)},
        "optimizer": {"a.weight": {"step": torch.tensor(value)}},
    }


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_latest_are_kept_and_load_as_they_were_saved(tmp_path):
    saver = Saver(tmp_path, 2, ALONE)
    for step in (1, 2, 3):
        held = tensors(step)
        saver.save(held, step, {"data": {"epoch": step}})
        held["model"]["a.weight"].zero_()  # training goes on meanwhile
    saver.finish()
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    assert about(checkpoints(tmp_path)[-1]) == {"version": 1, "step": 3, "data": {"epoch": 3}}
    found = tensors(0.0)
    load(found, checkpoints(tmp_path)[0], ALONE)
    assert torch.equal(found["model"]["a.weight"], torch.full((64, 32), 2.0))
    assert found["model"]["b"] == found["optimizer"]["a.weight"]["step"] == 2.0


def test_a_full_disk_leaves_the_earlier_one(tmp_path, caplog):
    """The limit on the size of files stands in for a disk without space."""
    saver = Saver(tmp_path, 1, ALONE)
    saver.save(tensors(1.0), 1, {})
    saver.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        saver.save(tensors(2.0), 2, {})
        with pytest.raises(StorageError, match=r"step 2 could not be saved .*free space"):
            saver.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the earlier ones are kept" in caplog.text
    assert names(tmp_path) == ["step-00000001"]
    found = tensors(0.0)
    load(found, tmp_path / "step-00000001", ALONE)
    assert found["model"]["b"] == 1.0
    saver.save(tensors(3.0), 3, {})  # there is space again
    saver.finish()
    assert names(tmp_path) == ["step-00000003"]


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / ".tmp-step-00000005").mkdir(parents=True)
    (tmp_path / ".tmp-step-00000005" / "__0_0.distcp").write_bytes(b"half")
    assert checkpoints(tmp_path) == []
    Saver(tmp_path, 1, ALONE)
    assert names(tmp_path) == []


def test_a_checkpoint_of_another_shape_is_told(tmp_path):
    saver = Saver(tmp_path, 1, ALONE)
    saver.save(tensors(1.0), 1, {})
    saver.finish()
    (saved,) = checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"a.weight is \(64, 32\) there and \(8, 32\) in this"):
        load({"model": {"a.weight": torch.zeros(8, 32)}}, saved, ALONE)
    with pytest.raises(UserError, match=r"has no ema\.a: .*other settings"):
        load({"ema": {"a": torch.zeros(1)}}, saved, ALONE)


def test_a_damaged_checkpoint_is_told(tmp_path):
    saver = Saver(tmp_path, 1, ALONE)
    saver.save(tensors(1.0), 1, {})
    saver.finish()
    (saved,) = checkpoints(tmp_path)
    (data,) = saved.glob("*.distcp")
    data.unlink()
    with pytest.raises(RunDirectoryError, match="is damaged"):
        load(tensors(0.0), saved, ALONE)
    (saved / "train.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="not of version 1"):
        about(saved)
    (saved / "train.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        about(saved)
