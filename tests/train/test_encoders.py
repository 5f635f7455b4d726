"""What the model sees of clips and captions: encoded while training, or precached before."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from two_ranks import two_ranks

from vidcurate.errors import DamagedSampleError, ModelError, UserError
from vidcurate.models import load_vae
from vidcurate.train.checkpoint import about, checkpoints
from vidcurate.train.codes import codes_of
from vidcurate.train.config import TrainConfig, Validate, from_raw
from vidcurate.train.data import Clips, clips, dataset
from vidcurate.train.encoders import Encoders
from vidcurate.train.loop import Summary, train
from vidcurate.train.metrics import read
from vidcurate.train.model.layout import unpatchify
from vidcurate.train.network import Network, objective_of, pack_of
from vidcurate.train.precache.job import Inline, precache
from vidcurate.train.precache.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
SIZES = ((9, 32, 32), (5, 32, 48))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(
    shapes: Callable[..., Path], checkpoint: Callable[..., Path], tmp_path: Path
) -> Callable[..., TrainConfig]:
    """make(vae="AutoencoderTiny", text=True, data__budget=80) is a recipe on clips of its own."""
    folder = tmp_path / "shards"

    def made(vae: str | None = None, text: bool = False, **changes: Any) -> TrainConfig:
        if not folder.exists():
            shutil.copytree(shapes(6, SIZES, 0.3), folder)
        raw: dict[str, Any] = {
            "data": {
                "shards": str(folder),
                "split": "all",
                "budget": 400,
                "captions": "source",
                "drop_captions": 0,
                "workers": 0,
            },
            "encode": {"variants": 1, "dtype": "fp32"},
            "model": {"width": 32, "depth": 1, "heads": 2, "text_width": 32},
            "objective": {"masked": 0.8},
            "optimizer": {"lr": 1e-3},
            "precision": "fp32",
            "device": "cpu",
            "checkpoint": {"every": None},
            "log": {"every": 1},
            "steps": 3,
            "output": str(tmp_path / "out"),
        }
        if vae is not None:
            raw["encode"]["vae"] = str(checkpoint("vae", vae))
            raw["model"]["channels"] = 16 if vae == WAN else 4
        if text:
            raw["encode"]["text"] = str(checkpoint("text_encoder"))
        for key, value in changes.items():
            section, _, name = key.partition("__")
            if name:
                raw.setdefault(section, {})[name] = value
            else:
                raw[section] = value
        return from_raw(raw)

    return made


WAN, TINY, KL = "AutoencoderKLWan", "AutoencoderTiny", "AutoencoderKL"


def run(config: TrainConfig, **how: Any) -> Summary:
    return train(config, show=lambda _: None, **how)


def cached(config: TrainConfig) -> Path:
    return precache(Plan(config, str(config.data.shards)), Inline(config)).folder


def lines(config: TrainConfig, name: str) -> list[Any]:
    return [line[name] for line in read(Path(config.output) / "metrics.jsonl") if name in line]


def first(config: TrainConfig, *, drop: bool = False) -> Clips:
    """The clips of the first batch."""
    codes, _ = codes_of(config)
    batches = dataset(config.data, config.model, codes, split=config.data.split)
    return Encoders(config, codes, CPU)(next(iter(batches)), drop=drop)


# ---------------------------------------------------------------- precached as on the fly


@pytest.mark.parametrize("vae", [WAN, TINY, KL])
def test_precached_clips_train_as_those_encoded_while_training(make, tmp_path, vae):
    written: list[tuple[str, Any, float]] = []

    def write(path: Path, frames: Any, fps: float) -> None:
        written.append((path.relative_to(tmp_path).as_posix(), frames, fps))

    changes: dict[str, Any] = {"encode__precached": "off", "output": str(tmp_path / "fly")}
    if vae != KL:
        validate = {"every": 3, "batches": 2, "timesteps": [0.5], "videos": 1, "sampling_steps": 1}
        changes |= {"validate": validate}
    fly = make(vae, text=True, **changes)
    run(fly, write=write)
    cached(fly)
    changes |= {"encode__precached": "only", "output": str(tmp_path / "read")}
    read_ = make(vae, text=True, **changes)
    run(read_, write=write)
    for name in ("loss", "grad_norm", "tokens_per_s", "video_s_per_s"):
        assert len(lines(fly, name)) == 3, lines(fly, name)
    assert lines(read_, "loss") == pytest.approx(lines(fly, "loss"), rel=1e-5)
    assert lines(read_, "grad_norm") == pytest.approx(lines(fly, "grad_norm"), rel=1e-4)
    one, other = first(fly), first(read_)
    assert one.seconds == pytest.approx(other.seconds) == pytest.approx(3 * 9 / 8 + 3 * 5 / 8)
    if vae == KL:
        return
    assert lines(read_, "val_loss") == pytest.approx(lines(fly, "val_loss"), rel=1e-5)
    (name, frames, fps), _, (_, again, _), _ = written
    assert name.startswith("fly/samples/step-00000003/raw-clip")
    assert frames.shape in {(t, h, w, 3) for t, h, w in SIZES}
    assert fps == pytest.approx(8)
    assert np.abs(frames.astype(int) - again).max() <= 1, "the same text, decoded by the VAE"
    like = about(checkpoints(Path(read_.output) / "checkpoints")[-1])["like"]
    assert like == {"frames": 9, "height": 32, "width": 32, "fps": pytest.approx(8)}


def test_a_run_on_a_precached_set_goes_on_bit_for_bit(make, tmp_path):
    changes = {"encode__variants": 4, "data__drop_captions": 0.3, "data__budget": 80}
    cached(make(TINY, text=True, **changes))
    whole = make(TINY, text=True, **changes, steps=6, output=str(tmp_path / "whole"))
    run(whole)
    for steps in (2, 6):
        halves = make(TINY, text=True, **changes, steps=steps, output=str(tmp_path / "halves"))
        run(halves)
    assert lines(halves, "epoch")[-1] > 0
    assert lines(halves, "loss") == lines(whole, "loss")
    first, second = weights(whole), weights(halves)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    reader = dcp.FileSystemReader(checkpoints(Path(config.output) / "checkpoints")[-1])
    found = {
        name: torch.full(said.size, float("nan"), dtype=said.properties.dtype)
        for name, said in reader.read_metadata().state_dict_metadata.items()
    }
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found


def test_each_rank_draws_the_same_variants_of_its_clips_as_one_would(make, monkeypatch):
    """Of two templates and the empty prompt, by the seed of each sample in its epoch."""
    config = make(
        TINY,
        text=True,
        encode__variants=4,
        data__captions={"{source}": 1, "one more: {source}": 1},
        data__drop_captions=0.3,
        data__budget=60,
    )
    cached(config)
    codes, line = codes_of(config)
    assert line == f"reads precached {config.data.shards}@{line.rpartition('@')[2]}"
    encoders = Encoders(config, codes, CPU)

    def drawn(rank: int, ranks: int, epochs: int) -> list[tuple[int, str, bytes]]:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        data = dataset(config.data, config.model, codes, split="all")
        found = []
        for epoch in range(epochs):
            for own in (encoders(batch, drop=True) for batch in data):
                assert own.texts is not None
                found += [
                    (epoch, sample, rows.numpy().tobytes())
                    for sample, rows, weight in zip(own.ids, own.texts, own.weight, strict=True)
                    if weight
                ]
        return found

    alone = drawn(0, 1, 12)
    assert sorted(alone) == sorted(drawn(0, 2, 12) + drawn(1, 2, 12))
    assert Counter(sample for _, sample, _ in alone) == {f"clip{i:03d}": 12 for i in range(6)}
    empty = encoders.empty.numpy().tobytes()
    dropped = sum(rows == empty for *_, rows in alone) / len(alone)
    assert 0.15 < dropped < 0.45
    for i in range(6):
        seen = {rows for _, sample, rows in alone if sample == f"clip{i:03d}"} - {empty}
        assert len(seen) == 2, "both templates"
    kept = [encoders(b, drop=False) for b in dataset(config.data, config.model, codes, split="val")]
    assert all(rows.numpy().tobytes() != empty for own in kept for rows in own.texts)


def test_two_ranks_see_each_precached_clip_once_an_epoch(make, tmp_path):
    config = make(
        TINY,
        text=True,
        encode__precached="only",
        data__budget=60,
        validate={"every": 5, "batches": 1, "timesteps": [0.5]},
        steps=5,
    )
    cached(config.model_copy(update={"validate_": Validate()}))
    raw = json.dumps(config.model_dump(mode="json", by_alias=True))
    said = two_ranks(str(config.data.shards), str(tmp_path), raw)
    assert [rank["step"] for rank in said] == [5, 5]
    packs = list(zip(*(rank["seen"] for rank in said), strict=True))
    assert [] in packs[2], "clips of 36 and of 30 tokens are five packs: at last one has no work"
    epoch = [sample for both in packs[:3] for pack in both for sample in pack]
    assert sorted(epoch) == [f"clip{i:03d}" for i in range(6)]
    assert all(loss > 0 for loss in lines(config, "loss"))
    assert lines(config, "val_loss")[0] > 0


# ---------------------------------------------------------------- causal VAEs and masks


@pytest.mark.parametrize("precached", ["off", "only"])
@pytest.mark.parametrize("kind", ["backward", "join"])
def test_a_kept_tail_is_the_last_frame_encoded_alone(make, precached, kind):
    config = make(WAN, encode__precached=precached, objective={"masked": 1, "modes": {kind: 1}})
    if precached == "only":
        cached(config)
    codes, _ = codes_of(config)
    own = first(config)
    network = Network(config.model)
    objective = objective_of(config, chained=codes.chained)
    pack = pack_of(own, network, objective, CPU, seed=0, step=0)
    vae = load_vae(codes.encode.vae, device=CPU)
    plain = clips_of(config)
    assert [len(t) for t in own.times].count(3) == 3, "9 frames are 3 of the latent"
    levels = pack.noised.level.split([grid[0] for grid in pack.layout.grids])
    made = unpatchify(pack.noised.inputs, pack.layout, config.model.patch, 16)
    for i, sample in enumerate(own.ids):
        frames = len(own.times[i])
        kept = [bool(level == 0) for level in levels[i]]
        if kind == "backward":
            assert kept == [False] * (frames - 1) + [True]
        elif frames == 3:
            assert kept == [True, False, True]
        else:
            assert kept == [False] * 2, "a join needs three"
            continue
        video, times = plain[sample]
        alone = vae.encode(video[-1:])
        torch.testing.assert_close(made[i][-1:], alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(own.latents[i][-1:], alone, atol=1e-3), "the tail's own code"
        of_last = pack.layout.position[pack.layout.sample == i][-1, 0]
        assert of_last == pytest.approx(float(times[-1]))
        assert float(own.times[i][-1]) < float(times[-1])
        if kind == "join":
            torch.testing.assert_close(made[i][:1], own.latents[i][:1])


def clips_of(config: TrainConfig) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pixels in -1..1 and times of each clip, at the VAE's sizes."""
    codes, _ = codes_of(config)
    codes = replace(codes, sets=None)
    found = {}
    for batch in dataset(config.data, config.model, codes, split="all"):
        own = clips(batch, config.model.patch)
        found |= {s: (v, t) for s, v, t in zip(own.ids, own.latents, own.times, strict=True)}
    return found


def test_masks_that_a_causal_vae_cannot_train_are_told_once(make, caplog):
    config = make(WAN, steps=2)
    with caplog.at_level(logging.INFO, "vidcurate.train"):
        run(config)
    said = [r.getMessage() for r in caplog.records if "no masks" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("no masks of interpolate and random: a kept frame in the middle")
    modes = objective_of(config, chained=True).modes
    assert {kind for kind, weight in modes.items() if not weight} == {"interpolate", "random"}
    assert objective_of(config).modes == config.objective.modes
    caplog.clear()
    codes, _ = codes_of(make(TINY))
    assert not codes.chained


# ---------------------------------------------------------------- pixels, rows, blanks


def test_a_precached_text_goes_with_pixels(make, tmp_path):
    whole = {"model__patch": [1, 8, 8], "data__budget": 800}
    fly = make(text=True, encode__precached="off", **whole)
    run(fly)
    cached(fly)
    read_ = make(text=True, **whole, output=str(tmp_path / "read"))
    run(read_)
    assert lines(read_, "loss") == pytest.approx(lines(fly, "loss"), rel=1e-5)
    assert lines(read_, "tokens_per_s")
    assert not any(name.startswith("model.text.") for name in weights(read_))


def test_latents_go_with_learned_bytes(make):
    config = make(TINY, data__drop_captions=0.5, steps=2)
    cached(config)
    own = first(config, drop=True)
    assert own.texts is None
    assert any(own.captions)
    run(config)
    assert any("text.table" in name for name in weights(config))


@pytest.mark.parametrize("precached", [False, True])
def test_a_batch_without_a_clip_is_a_blank_one(make, precached):
    config = make(TINY, text=True)
    if precached:
        cached(config)
    codes, _ = codes_of(config)
    assert (codes.sets is not None) == precached
    batch = next(iter(dataset(config.data, config.model, codes, split="all")))
    batch.weight[:] = 0
    own = Encoders(config, codes, CPU)(batch, drop=True)
    assert own.ids == [""]
    assert own.weight.tolist() == [0]
    assert own.latents[0].shape == (1, 4, 2, 2), "one token"
    pack = pack_of(own, Network(config.model, rows=True), objective_of(config), CPU, seed=0, step=0)
    assert (pack.real, pack.texts, len(pack.noised.inputs)) == (0, [1], 1)


# ---------------------------------------------------------------- what does not fit


def test_widths_that_do_not_fit_name_the_right_ones(make):
    with pytest.raises(UserError, match=r"model.channels is 3.* set model.channels: 16"):
        codes_of(make(WAN, model__channels=3))
    with pytest.raises(UserError, match=r"model.text_width is 64.* set model.text_width: 32"):
        codes_of(make(text=True, model__text_width=64))
    with pytest.raises(UserError, match=r"and pixels have 3; set model.channels: 3"):
        codes_of(make(model__channels=4))
    with pytest.raises(ModelError, match="nothing/here"):
        codes_of(make(encode__vae="/nothing/here"))


def test_precached_only_and_off(make):
    config = make(TINY, encode__precached="only")
    with pytest.raises(UserError, match=r"is not there: run `vidcurate precache RECIPE`"):
        codes_of(config)
    auto = make(TINY)
    codes, line = codes_of(auto)
    assert codes.sets is None
    assert line.startswith("encodes while training, by ")
    folder = cached(auto)
    assert codes_of(config)[0].sets == {str(folder): 1.0}
    assert codes_of(make(TINY, encode__precached="off"))[0].sets is None
    index = Path(str(auto.data.shards)) / "index.json"
    said = json.loads(index.read_text())
    index.write_text(json.dumps({**said, "columns": "others"}))
    assert codes_of(config)[0].sets == {str(folder): 1.0}, "it holds no text"
    with_text = make(TINY, text=True, encode__precached="only")
    cached(with_text)
    index.write_text(json.dumps({**said, "columns": "more"}))
    with pytest.raises(UserError, match="has captions of an earlier state of"):
        codes_of(with_text)
    index.write_text(json.dumps({**said, "digest": "another"}))
    with pytest.raises(UserError, match=r"is of an earlier state of .*: run `vidcurate precache"):
        codes_of(config)
    assert codes_of(auto)[0].sets is None
    index.unlink()
    with pytest.raises(UserError, match=r"has no index \(to train without it name .*@"):
        codes_of(config)
    with pytest.raises(UserError, match="trains on pixels and bytes, which are not precached"):
        codes_of(make(encode__precached="only"))


def test_a_precached_set_may_be_named_itself(make, tmp_path):
    made = make(TINY, text=True, data__resize={"frames": 5})
    folder = str(cached(made))
    model = {"width": 32, "depth": 1, "heads": 2, "channels": 4, "text_width": 32}
    plain = from_raw(
        {"data": {"shards": folder}, "model": model, "steps": 1, "output": str(tmp_path / "o")}
    )
    codes, _ = codes_of(plain)
    assert codes.encode.vae == made.encode.vae, "what is not given is taken from it"
    assert (codes.encode.variants, codes.encode.dtype) == (1, "fp32")
    assert codes.facts == codes_of(make(TINY, text=True, encode__precached="off"))[0].facts

    def named(vae: str | None = TINY, **changes: Any) -> TrainConfig:
        return make(vae, text=True, data__shards=folder, **changes)

    codes_of(named())
    with pytest.raises(
        UserError, match=r"captions was .*\{source\}.* and is .*another: \{source\}.*; set"
    ):
        codes_of(named(data__captions="another: {source}"))
    with pytest.raises(UserError, match="variants was 1 and is 2"):
        codes_of(named(encode__variants=2))
    with pytest.raises(UserError, match=r"vae was .*AutoencoderTiny.* and is .*AutoencoderKL'"):
        codes_of(named(KL))
    with pytest.raises(UserError, match=r"resize was .*'frames': 5.* and is .*'frames': 9"):
        codes_of(named(data__resize={"frames": 9}))
    with pytest.raises(UserError, match=r"model.patch was \[1, 2, 2\] and is \[1, 4, 4\]"):
        codes_of(named(model__patch=[1, 4, 4]))
    with pytest.raises(UserError, match=r"precached is off, and data.shards names"):
        codes_of(named(encode__precached="off"))
    with pytest.raises(UserError, match=r"mixes precached sets with .*shards, which is none"):
        codes_of(make(TINY, text=True, data__shards={folder: 1, str(tmp_path / "shards"): 1}))


def test_mixed_sets_are_read_precached_where_all_are(make, shapes, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(shapes(3), other)  # of 16x16 pixels: one token each
    one = make(TINY)
    both = {str(one.data.shards): 3, str(other): 1}
    first_ = cached(one)
    mixed = make(TINY, text=False, data__shards=both)
    codes, line = codes_of(mixed)
    assert codes.sets is None
    assert f"{other}@" in line
    assert str(first_) not in line
    second = precache(Plan(mixed, str(other)), Inline(mixed)).folder
    assert codes_of(mixed)[0].sets == {str(first_): 3.0, str(second): 1.0}


def test_a_checkpoint_of_another_vae_or_text_encoder_is_told(make, tmp_path):
    config = make(TINY, text=True, steps=1)
    run(config)
    said = about(checkpoints(Path(config.output) / "checkpoints")[-1])["encode"]
    assert said["vae"] == config.encode.vae
    assert (said["channels"], said["compression"], said["causal"]) == (4, [1, 8, 8], False)
    assert (said["text"], said["text_width"]) == (config.encode.text, 32)
    moved = tmp_path / "moved"
    shutil.copytree(str(config.encode.vae), moved)
    assert run(make(TINY, text=True, steps=2, encode__vae=str(moved))).step == 2
    with pytest.raises(UserError, match=r"another VAE: encode.vae was .*moved.* is .*vae"):
        run(make(KL, text=True, steps=3))
    with pytest.raises(UserError, match=r"another text encoder: encode.text was .* is null"):
        run(make(TINY, steps=3))
    cached(config)
    with pytest.raises(
        UserError,
        match=r"on pixels, and .* a precached set, .*precached: off to",
    ):
        run(make(TINY, text=True, steps=3))
    assert run(make(TINY, text=True, steps=3, encode__precached="off")).step == 3


def test_a_sample_that_was_not_precached_whole_is_told(make):
    config = make(TINY)
    cached(config)
    codes, _ = codes_of(config)
    batch = next(iter(dataset(config.data, config.model, codes, split="all")))
    batch.samples[0].members["safetensors"] = b"nothing"
    with pytest.raises(DamagedSampleError, match=rf"{batch.sample_ids[0]}: .*precache RECIPE"):
        Encoders(config, codes, CPU)(batch, drop=False)
