"""Precaching: what is written, again after a kill or a change of the parent; refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.models.text_encoder import load_text_encoder
from vidcurate.models.vae import load_vae
from vidcurate.run.lease import Lease
from vidcurate.shards import Decode, ShardDataset
from vidcurate.shards.foreign import index_tars
from vidcurate.shards.inspection import inspect_selection
from vidcurate.shards.purge import Gone, purge_shards
from vidcurate.shards.verify import verify
from vidcurate.train.config import TrainConfig
from vidcurate.train.data import resize_of
from vidcurate.train.precache.derived import Encoded, about, empty_text, parent_of, read_sample
from vidcurate.train.precache.job import Inline, Precached, precache
from vidcurate.train.precache.plan import Plan

from .conftest import Clip, write_tar


def run(config: TrainConfig, **more: Any) -> Precached:
    plan = Plan(config, str(config.data.shards))
    return precache(plan, Inline(config), **more)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    (name,) = json.loads((folder / "index.json").read_text())["index"]
    return pq.read_table(folder / name).to_pylist()


def read(folder: Path) -> dict[str, Encoded]:
    """The samples of a derived set, as a trainer reads them."""
    data = ShardDataset(
        folder,
        decode=None,
        members=["safetensors"],
        split=None,
        shuffle=False,
        rank=0,
        world_size=1,
    )
    found = {}
    for batch in data:
        assert batch.faults == []
        assert batch.samples[0] is not None
        found[batch.sample_ids[0]] = read_sample(batch.samples[0].members["safetensors"])
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def tars(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> inode and time: changes where a tar is written anew."""
    found = {p.relative_to(folder).as_posix(): p.stat() for p in folder.rglob("*.tar")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def frames(base: Path, config: TrainConfig, compression: tuple[int, int, int]) -> dict[str, Any]:
    """Pixels and times as the trainer has them, of each clip."""
    resize = resize_of(config.data, config.model, compression)
    data = ShardDataset(
        base,
        split=None,
        shuffle=False,
        decode=Decode(window="middle"),
        fit=resize,
        rank=0,
        world_size=1,
    )
    return {b.sample_ids[0]: (b.video[0], b.times[0]) for b in data}


def test_set_is_as_any_other_with_latents_and_text_in_place_of_video(base, recipe, models):
    config = recipe(encode={"dtype": "fp32"})
    done = run(config)
    assert done.folder == Path(f"{base}@{done.fingerprint}")
    assert (done.samples, done.encoded, done.kept, done.failures) == (6, 6, 0, {})
    assert list(verify(done.folder)) == []
    parents, made = rows_of(base), rows_of(done.folder)
    for name in ("sample_id", "clip_id", "video_id", "bucket", "split", "captions", "scores"):
        assert [row[name] for row in made] == [row[name] for row in parents]
    # The bucket native rounds frames down to 4k + 1, sides to 16.
    assert [(r["n_frames"], r["height"], r["width"]) for r in made] == [
        (9, 32, 48),
        (5, 48, 32),
    ] * 3
    assert [r["duration_s"] for r in made] == [9 / 8, 5 / 8] * 3
    vae, tower = load_vae(models["tiny"]), load_text_encoder(models["t5"])
    pixels, found = frames(base, config, (1, 8, 8)), read(done.folder)
    for row in parents:
        video, times = pixels[row["sample_id"]]
        sample = found[row["sample_id"]]
        assert torch.equal(sample.latent, vae.encode(video.float() / 127.5 - 1))
        assert torch.equal(sample.times, torch.from_numpy(times))
        assert sample.last is None
        rows, _ = tower.encode([dict(row["captions"])["source"]])
        assert len(sample.texts) == 4  # draws of one template: one text
        assert all(torch.equal(text, rows) for text in sample.texts)
    assert torch.equal(empty_text(done.folder), tower.encode([""])[0])
    said = about(done.folder)
    assert said is not None
    assert said.parent == parent_of(base)
    assert (said.vae.channels, said.vae.compression, said.vae.causal) == (4, (1, 8, 8), False)
    assert said.text is not None
    assert said.text.width == 32


def test_last_frame_of_a_causal_vae_is_encoded_by_itself_too(base, recipe, models):
    config = recipe(vae="wan", text=None, encode={"dtype": "fp32"}, data={"resize": {"frames": 8}})
    done = run(config)
    assert {row["n_frames"] for row in rows_of(done.folder)} == {5}
    vae = load_vae(models["wan"])
    pixels = frames(base, config, (4, 8, 8))
    for name, sample in read(done.folder).items():
        video = pixels[name][0].float() / 127.5 - 1
        alone = vae.encode(video[-1:])
        assert sample.latent.shape == (2, 16, video.shape[2] // 8, video.shape[3] // 8)
        assert torch.equal(sample.latent, vae.encode(video))
        assert sample.last is not None
        assert torch.equal(sample.last, alone)
        # It knows nothing of the frames before it, as the last latent frame does.
        assert (sample.last - sample.latent[-1:]).abs().max() > 0.01
        times = torch.arange(5, dtype=torch.float64) / 8
        assert torch.equal(sample.times, torch.stack([times[0], times[1:].mean()]))
        assert torch.equal(sample.last_time, times[-1:])
        assert sample.texts == []
    assert not (done.folder / "empty.safetensors").exists()


def test_texts_are_drawn_by_weight_and_stored_once(base, recipe, models):
    mix = {"{source}": 3.0, "a film of how {source}": 1.0}
    done = run(recipe(data={"captions": mix}, encode={"dtype": "fp32"}))
    tower = load_text_encoder(models["t5"])
    for row, sample in zip(rows_of(base), read(done.folder).values(), strict=True):
        plain = dict(row["captions"])["source"]
        own, other = tower.encode([plain])[0], tower.encode([f"a film of how {plain}"])[0]
        counts = [sum(len(t) == len(x) for t in sample.texts) for x in (own, other)]
        assert counts == [3, 1]
        assert len({id(text) for text in sample.texts}) == 2


def test_without_a_vae_pixels_are_kept(base, recipe):
    config = recipe(vae=None, encode={"dtype": "fp32"})
    done = run(config)
    pixels = frames(base, config, (1, 1, 1))
    for name, sample in read(done.folder).items():
        assert torch.equal(sample.latent, pixels[name][0].float() / 127.5 - 1)


# ---------------------------------------------------------------------- again


_KILLED = """
import os, pathlib, signal, sys
from vidcurate.train.config import TrainConfig
from vidcurate.train.precache.encode import Encoder
from vidcurate.train.precache.job import Inline, precache
from vidcurate.train.precache.plan import Plan

config = TrainConfig.model_validate_json(sys.argv[1])
Encoder(config)  # imports what the forks would import one by one
real = pathlib.Path.replace
for word in [*sys.argv[2].split(), "end"]:
    if child := os.fork():
        print(word, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        continue
    when, left = word[:-1], word[-1]

    def replace(self, target):
        global left
        left = int(left) - 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, target)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if word != "end":
        pathlib.Path.replace = replace
    precache(Plan(config, config.data.shards), Inline(config))
    os._exit(0)
"""

# Files get their names in the order: the empty prompt; of each tar itself, then its record; the
# index's rows; index.json. What a tar without its record was is written again.
_DEATHS = "before1 after1 after1 before2 after2 after3 after2 before1 after1 before2 after2"


def test_killed_at_each_file_it_ends_with_the_same_bytes(base, recipe):
    config = recipe()
    folder = run(config).folder
    whole = files(folder)
    shutil.rmtree(folder)
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, config.model_dump_json(by_alias=True), _DEATHS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [x for w in _DEATHS.split() for x in (w, "-9")] + ["end", "0"]
    assert files(folder) == whole


def test_stopped_it_ends_after_the_tar_and_goes_on(base, recipe):
    config = recipe()
    stop = threading.Event()
    done = run(config, stop=stop, progress=lambda clips, of: stop.set())
    assert done.interrupted
    assert (done.encoded, done.digest) == (2, "")
    assert about(done.folder) is None
    before = tars(done.folder)
    assert len(before) == 1
    plan = Plan(config, str(base))
    assert (plan.weight.clips, len(plan.todo)) == (4, 2)
    done = precache(plan, Inline(config))
    assert (done.samples, done.encoded, done.kept) == (6, 4, 2)
    assert tars(done.folder).items() >= before.items()


def test_only_what_changed_in_the_parent_is_encoded(base, recipe, clips: list[Clip], tmp_path):
    config = recipe()
    first = run(config)
    before = tars(first.folder)
    write_tar(base / "1.tar", clips[2:3])  # of two clips one is left
    (base / "2.tar").unlink()
    write_tar(base / "3.tar", clips[6:])
    index_tars(base, val=0.5, workers=1)
    said = about(first.folder)
    assert said is not None
    assert said.parent != parent_of(base)
    again = run(config)
    assert again.folder == first.folder
    assert (again.samples, again.encoded, again.kept) == (5, 2, 3)
    assert list(verify(again.folder)) == []
    assert [r["split"] for r in rows_of(again.folder)] == [r["split"] for r in rows_of(base)]
    now = tars(again.folder)
    assert now.keys() & before.keys() == {n for n in before if n.startswith("native/0-")}
    assert all(now[name] == before[name] for name in now.keys() & before.keys())
    # The same as if it had been made at once.
    other = tmp_path / "other" / "base"
    shutil.copytree(base, other)
    fresh = config.model_copy(
        update={"data": config.data.model_copy(update={"shards": str(other)})}
    )
    assert files(run(fresh).folder) == files(again.folder)


def test_captions_that_change_are_encoded_anew_and_nothing_is_where_nothing_changed(
    base, recipe, clips: list[Clip], monkeypatch
):
    monkeypatch.setattr("vidcurate.shards.index._ROW_GROUP", 1)  # one of each tar, as of many
    config = recipe()
    first = run(config)
    there, index = tars(first.folder), (first.folder / "index.json").stat()
    again = run(config)
    assert (again.encoded, again.kept, again.digest) == (0, 6, first.digest)
    assert tars(first.folder) == there
    assert (first.folder / "index.json").stat() == index
    write_tar(base / "1.tar", [(clips[2][0], clips[2][1], "a new caption"), clips[3]])
    index_tars(base, val=0.0, workers=1)
    changed = run(config)
    assert (changed.encoded, changed.kept) == (1, 5)
    assert list(verify(changed.folder)) == []
    captions = [dict(row["captions"])["source"] for row in rows_of(changed.folder)]
    assert captions[2] == "a new caption"


def test_purged_clips_go_from_derived_sets_too(base, recipe):
    config = recipe()
    folder = run(config).folder
    gone = rows_of(base)[0]["clip_id"]
    ids = Gone(pa.array([gone]), pa.array([], pa.string()))
    assert purge_shards(folder, ids).samples == 1
    assert list(verify(folder)) == []
    assert gone not in read(folder)
    assert about(folder) is not None
    # What was made of the clip is in no file of the set.
    assert not any(gone.encode() in data for data in files(folder).values())
    back = run(config)  # the parent has it still
    assert (back.samples, back.encoded) == (6, 1)
    assert list(verify(folder)) == []


# ---------------------------------------------------------------------- failures, refusals


def test_clips_that_cannot_be_decoded_are_named(base, recipe, clips: list[Clip]):
    _, video, _ = clips[3]
    broken = video[: len(video) // 2] + bytes(200) + video[len(video) // 2 + 200 :]
    data = (base / "1.tar").read_bytes()
    assert video in data
    (base / "1.tar").write_bytes(data.replace(video, broken))  # after it was indexed
    config = recipe()
    done = run(config)
    assert (done.samples, done.failures) == (5, {"DamagedSampleError": 1})
    (failure,) = json.loads((done.folder / "index.json").read_text())["failures"]
    assert failure["clip_id"] == rows_of(base)[3]["clip_id"]
    assert "sha256 differs" in failure["message"]
    assert list(verify(done.folder)) == []
    assert inspect_selection(done.folder).failures == 1
    again = run(config)  # it is not tried again
    assert (again.encoded, again.failures, again.digest) == (0, done.failures, done.digest)


def test_a_model_that_latents_or_rows_do_not_fit_is_refused_before_hours_of_encoding(recipe):
    config = recipe()
    for name, own in (("channels", 16), ("text_width", 64)):
        other = config.model_copy(update={"model": config.model.model_copy(update={name: own})})
        with pytest.raises(UserError, match=rf"model\.{name} is {own}.* set model\.{name}: "):
            Plan(other, str(config.data.shards))


def test_nothing_that_can_be_encoded_makes_no_set(base, recipe):
    for tar in base.glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    done = run(recipe())
    assert (done.samples, done.digest, done.failures) == (0, "", {"DamagedSampleError": 6})
    assert about(done.folder) is None


def test_names_of_others_samples_fit_into_a_tar(tmp_path, recipe, clips: list[Clip]):
    folder = tmp_path / "theirs"
    folder.mkdir()
    write_tar(folder / "x.tar", [("a.b/" + clips[0][0], *clips[0][1:]), clips[1]])
    write_tar(folder / "y.tar", [clips[1]])  # a name that another tar has, too
    index_tars(folder, val=0.0, workers=1)
    config = recipe(data={"shards": str(folder)})
    done = run(config)
    names = [row["sample_id"] for row in rows_of(folder)]
    assert set(names) == {"a.b/clip0", "x.tar#clip1", "y.tar#clip1"}
    assert list(read(done.folder)) == names
    assert list(verify(done.folder)) == []


def test_what_cannot_be_precached_is_refused_with_the_remedy(
    base, recipe, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match=r"nothing to precache.*name a model under encode"):
        Plan(recipe(vae=None, text=None), str(base))
    with pytest.raises(UserError, match="only to local or shared file systems"):
        Plan(recipe(), "s3://bucket/base")
    with pytest.raises(UserError, match=r"no sample has a caption 'sourse'.*source"):
        Plan(recipe(data={"captions": "{sourse}"}), str(base))
    config = recipe()
    plan = Plan(config, str(base))
    with Lease(plan.folder), pytest.raises(RunDirectoryError, match="in use by another run"):
        precache(plan, Inline(config))
    run(config)
    with pytest.raises(RunDirectoryError, match="by another process meanwhile"):
        precache(plan, Inline(config))
    with pytest.raises(UserError, match="is a precached set itself"):
        Plan(config, str(plan.folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 20_000))
    full = Plan(recipe(encode={"variants": 2}), str(base))
    with pytest.raises(UserError, match=r"needs about .* KiB .* 19.5 KiB free: .*data.buckets"):
        precache(full, Inline(config))
    assert not full.folder.exists()


@pytest.mark.parametrize(
    ("vae", "numbers"),
    [
        ("tiny", 3 * 4 * (9 * 4 * 6 + 5 * 6 * 4)),
        # 1 + 8/4 and 1 + 4/4 latent frames, and the last one alone
        ("wan", 3 * 16 * ((3 + 1) * 4 * 6 + (2 + 1) * 6 * 4)),
    ],
)
def test_weight_is_told_before_it_begins(base, recipe, vae: str, numbers: int):
    plan = Plan(recipe(vae=vae), str(base))
    assert plan.weight.latents == 2 * numbers + 6 * 2048
    assert plan.weight.clips == plan.clips == 6
    done = precache(plan, Inline(recipe(vae=vae)))
    held = sum(member["size"] for row in rows_of(done.folder) for member in row["members"])
    text = sum(2 * len(s.texts[0]) * 32 for s in read(done.folder).values())
    assert 2 * numbers + text < held < plan.weight.latents + text
    # A third of a caption's bytes, besides two tokens: this tokenizer's are shorter than a real's.
    captions = [dict(row["captions"])["source"] for row in rows_of(base)]
    assert plan.weight.text == 2 * 32 * sum(2 + len(c) // 3 for c in captions)
    assert Plan(recipe(vae=vae), str(base)).weight.clips == 0


def test_bytes_that_change_later_are_found(base, recipe):
    folder = run(recipe()).folder
    row = rows_of(folder)[0]
    (member,) = row["members"]
    with (folder / row["shard"]).open("r+b") as file:
        file.seek(member["offset"] + member["size"] - 1)
        file.write(b"\x55")
    with (folder / "empty.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    found = {(p.shard, p.sample_id): p.reason for p in verify(folder)}
    assert "its .safetensors has another sha256" in found[(row["shard"], row["sample_id"])]
    assert "remove it and precache again" in found[("empty.safetensors", "")]
    data = ShardDataset(
        folder,
        decode=None,
        members=["safetensors"],
        split=None,
        shuffle=False,
        rank=0,
        world_size=1,
    )
    faults = [fault for batch in data for fault in batch.faults]
    assert [(f.sample_id, f.error) for f in faults] == [(row["sample_id"], "DamagedSampleError")]
