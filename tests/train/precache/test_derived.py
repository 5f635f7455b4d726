"""Derived sets: samples come back as they were written, and settings tell sets apart."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from vidcurate.errors import DamagedSampleError, DataError, RunDirectoryError
from vidcurate.train.precache.derived import (
    Encoded,
    about,
    derived_folder,
    fingerprint,
    parent_of,
    read_sample,
    settings_of,
    write_sample,
)
from vidcurate.train.precache.job import Inline, precache
from vidcurate.train.precache.plan import Plan


def sample() -> Encoded:
    torch.manual_seed(0)
    often, once = torch.randn(5, 8), torch.randn(3, 8)
    times = torch.tensor([0.0, 0.3125], dtype=torch.float64)
    return Encoded(
        torch.randn(2, 4, 6, 5),
        times,
        torch.randn(1, 4, 6, 5),
        torch.tensor([0.5], dtype=torch.float64),
        [often, once, often],
    )


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
)
def test_samples_come_back_as_they_were_written(dtype: str, kind: torch.dtype):
    given = sample()
    data = write_sample(given, dtype)
    assert write_sample(sample(), dtype) == data
    found = read_sample(data)
    assert torch.equal(found.latent, given.latent.to(kind))
    assert found.last is not None
    assert torch.equal(found.last, given.last.to(kind))
    assert torch.equal(found.times, given.times)  # exactly, in any type
    assert torch.equal(found.last_time, given.last_time)
    assert [len(text) for text in found.texts] == [5, 3, 5]
    assert torch.equal(found.texts[1], given.texts[1].to(kind))
    assert found.texts[0] is found.texts[2]
    assert len(data) < kind.itemsize * (3 * 4 * 6 * 5 + 8 * 8) + 24 + 24 + 800  # texts once


def test_what_is_missing_stays_missing():
    given = sample()
    data = write_sample(Encoded(given.latent, given.times), "bf16")
    found = read_sample(data)
    assert {f.name: getattr(found, f.name) for f in fields(found)[2:]} == {
        "last": None,
        "last_time": None,
        "texts": [],
    }


def test_numbers_that_do_not_fit_the_type_are_a_fault_of_the_clip():
    given = sample()
    given.latent[0, 0, 0, 0] = 1e5
    write_sample(given, "bf16")
    with pytest.raises(DataError, match="not finite in fp16"):
        write_sample(given, "fp16")


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "times", "text"])
def test_other_bytes_are_refused(damage: str):
    from safetensors.torch import load, save

    data = write_sample(sample(), "bf16")
    tensors = load(data)
    if damage == "times":
        tensors["times"] = tensors["times"][:1].clone()
    elif damage == "text":
        del tensors["text_1"]
    bad = {"cut": data[:-5], "empty": b"", "other": b"\x00" * 64}.get(damage) or save(tensors)
    with pytest.raises(DamagedSampleError, match=r"no safetensors file|does not write .*latent"):
        read_sample(bad if damage != "empty" else b"")


def test_fingerprint_is_of_what_decides_the_bytes(recipe, models, tmp_path: Path):
    import shutil

    config = recipe()
    settings = settings_of(config)
    mark = fingerprint(settings)
    assert len(mark) == 16
    assert fingerprint(json.loads(json.dumps(settings))) == mark
    moved = shutil.copytree(models["tiny"], tmp_path / "elsewhere")
    same = [
        recipe(encode={"vae": str(moved)}),
        recipe(data={"budget": 99, "drop_captions": 0.5, "seed": 3, "split": "all"}),
    ]
    assert {fingerprint(settings_of(c)) for c in same} == {mark}
    others = [
        recipe(vae="wan"),
        recipe(text=None),
        recipe(vae=None),
        recipe(encode={"dtype": "fp32"}),
        recipe(encode={"variants": 5}),
        recipe(encode={"max_text_tokens": 5}),
        recipe(data={"captions": "a film: {source}"}),
        recipe(data={"resize": {"short_side": 32}}),
        recipe(data={"native": {"frames": 5}}),
        recipe(data={"buckets": ["native"]}),
    ]
    assert len({mark, *(fingerprint(settings_of(c)) for c in others)}) == 1 + len(others)
    # Captions are nothing to a set without text.
    plain = [recipe(text=None), recipe(text=None, data={"captions": "a film: {source}"})]
    assert len({fingerprint(settings_of(c)) for c in plain}) == 1


def test_derived_sets_lie_beside_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert derived_folder("out/base/", "f00") == f"{tmp_path}/out/base@f00"
    assert derived_folder("s3://mine/base/", "f00") == "s3://mine/base@f00"


def test_set_says_what_it_is_of(base: Path, recipe):
    assert about(base) is None
    assert about(base.parent) is None
    assert parent_of(base.parent) is None
    config = recipe(vae=None, encode={"variants": 1})
    plan = Plan(config, str(base))
    folder = precache(plan, Inline(config)).folder
    said = about(str(folder))
    assert said is not None
    assert said.settings == settings_of(config)
    assert said.fingerprint == plan.fingerprint
    assert said.parent == parent_of(base)
    path = base / "index.json"
    index = json.loads(path.read_text())
    for key in ("columns", "digest"):  # other captions, other clips
        path.write_text(json.dumps(index | {key: "0" * 64}))
        assert said.parent != parent_of(base)
    path.write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"base/index.json is damaged"):
        parent_of(base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, r"of another version of vidcurate \(9, this one reads 1\)"),
        ({"vae": None}, "is damaged .*remove its folder"),
    ],
)
def test_what_others_say_is_not_trusted(tmp_path: Path, change: dict, message: str):
    said = {
        "version": 1,
        "fingerprint": "f",
        "settings": {},
        "parent": {"digest": "d", "columns": "c"},
        "vae": {"name": None, "channels": 3, "compression": [1, 1, 1], "causal": False},
        "text": None,
    }
    (tmp_path / "index.json").write_text(json.dumps({"derived": said}))
    assert about(tmp_path) is not None
    (tmp_path / "index.json").write_text(json.dumps({"derived": said | change}))
    with pytest.raises(RunDirectoryError, match=message):
        about(tmp_path)
