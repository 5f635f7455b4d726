"""The streaming reader as a training loop has it: ranks, workers, resume, faults."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from vidcurate.errors import DamagedSampleError, StoreError, UserError
from vidcurate.shards import (
    Batch,
    BucketBatches,
    Captions,
    Decode,
    ShardDataset,
    TokenPacks,
    transforms,
)
from vidcurate.shards.reader.reading import sample_seed

SIZES = {"32p_3x2_5f": (5, 32, 48), "32p_3x2_9f": (9, 32, 48), "32p_3x5_5f": (5, 48, 32)}


@pytest.fixture
def dataset(packed: Path, tmp_path: Path):
    """dataset(...) opens the packed clips, as raw bytes unless it is told otherwise."""

    def opened(path: Any = packed, **changes: Any) -> ShardDataset:
        changes = {"decode": None, "batch": 4, "index_folder": tmp_path / "index", **changes}
        return ShardDataset(path, **changes)

    return opened


def rows_of(folder: Path, split: str | None = "train") -> dict[str, dict[str, Any]]:
    names = json.loads((folder / "index.json").read_text())["index"]
    rows = [row for name in names for row in pq.read_table(folder / name).to_pylist()]
    return {r["sample_id"]: r for r in rows if split in (None, r["split"])}


def seen(batches: Iterator[Batch]) -> list[str]:
    """Ids of the slots that count."""
    return [i for b in batches for i, w in zip(b.sample_ids, b.weight, strict=True) if w > 0]


def all_ranks(dataset, ranks: int, state: Any = None, steps: int | None = None, **changes: Any):
    """Batches of each rank, one rank after the other."""
    result = []
    for rank in range(ranks):
        data = dataset(rank=rank, world_size=ranks, **changes)
        if state is not None:
            data.load_state_dict(state)
        result.append([b for _, b in zip(range(steps or 10**6), data, strict=False)])
    return result


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_each_sample_once_an_epoch(dataset, packed: Path, ranks: int) -> None:
    wanted = sorted(rows_of(packed))
    batches = all_ranks(dataset, ranks)
    assert len({len(mine) for mine in batches}) == 1  # a batch for each rank and step
    assert sorted(seen(b for mine in batches for b in mine)) == wanted
    for step in zip(*batches, strict=True):
        assert len({json.dumps(b.state) for b in step}) == 1
    for batch in (b for mine in batches for b in mine):
        buckets = {rows_of(packed)[i]["bucket"] for i in batch.sample_ids}
        assert buckets == {batch.bucket}


def test_the_flat_order_is_that_of_one_rank(dataset) -> None:
    alone = seen(iter(dataset()))
    for ranks in (2, 3):
        steps = zip(*all_ranks(dataset, ranks), strict=True)
        assert seen(b for step in steps for b in step) == alone
    assert seen(iter(dataset(seed=1))) != alone


def test_epochs_differ_and_follow_each_other(dataset) -> None:
    data = dataset()
    first, second = seen(iter(data)), seen(iter(data))
    assert sorted(first) == sorted(second)
    assert first != second
    again = dataset()
    assert seen(iter(again)) == first
    plain = dataset(shuffle=False)
    assert seen(iter(plain)) == seen(iter(plain))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_broke_off_is_gone_on_with(dataset, workers: int) -> None:
    plain = [b.sample_ids for b in dataset()]
    data = dataset(workers=workers)
    found = []
    for stop in (1, 3, len(plain)):
        for batch in data:
            found.append(batch.sample_ids)
            if len(found) == stop:
                break
    assert found == plain
    state = data.state_dict()
    assert (state["sources"][0]["epoch"], state["sources"][0]["batch"]) == (1, 0)


def test_two_iterations_at_once_are_refused(dataset) -> None:
    data = dataset()
    one, two = iter(data), iter(data)
    next(one), next(two)
    with pytest.raises(UserError, match="one at a time"):
        next(one)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 2), (2, 8), (8, 1)])
def test_resume_at_any_step_on_other_ranks(dataset, packed: Path, before: int, after: int) -> None:
    flat = seen(iter(dataset()))
    steps = len(all_ranks(dataset, before)[0])
    for stop in range(1, steps):
        done = [b for mine in all_ranks(dataset, before, steps=stop) for b in mine]
        state = json.loads(json.dumps(done[-1].state))
        rest = all_ranks(dataset, after, state)
        ids = seen(iter(done)) + seen(b for mine in rest for b in mine)
        assert sorted(ids) == sorted(flat)
        follows = seen(b for step in zip(*rest, strict=True) for b in step)
        assert follows == flat[len(flat) - len(follows) :]


def test_state_is_of_what_was_handed_out(dataset) -> None:
    data = dataset(workers=2)
    batches = iter(data)
    first = next(batches)
    time.sleep(0.5)  # the workers are ahead
    assert data.state_dict() == first.state
    batches.close()
    rest = dataset()
    rest.load_state_dict(first.state)
    assert seen(iter([first])) + seen(iter(rest)) == seen(iter(dataset()))


@pytest.mark.parametrize("ranks", [1, 2])
def test_workers_change_nothing(dataset, ranks: int) -> None:
    plain = all_ranks(dataset, ranks, decode=Decode())
    for workers in (1, 4):
        same = all_ranks(dataset, ranks, decode=Decode(), workers=workers)
        for ours, theirs in zip(plain, same, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert a.sample_ids == b.sample_ids
                assert a.state == b.state
                assert torch.equal(a.weight, b.weight)
                assert torch.equal(a.video, b.video)


LOADER = """
import json, sys
from torch.utils.data import DataLoader
from vidcurate.errors import UserError
from vidcurate.shards import ShardDataset

def opened(**changes):
    return ShardDataset(sys.argv[1], decode=None, batch=4, index_folder=sys.argv[2], **changes)

def loader(data, workers, how="fork", keep=False):
    return DataLoader(
        data, batch_size=None, num_workers=workers, persistent_workers=keep,
        multiprocessing_context=how if workers else None,
    )

def read(*how):
    return [(b.sample_ids, b.state) for b in loader(*how)]

def refused(call):
    try:
        call()
    except (UserError, RuntimeError) as error:  # a worker's errors come as one text
        return str(error)

found = {str(n): read(opened(), n) for n in (0, 1, 4)}
data = opened()
data.load_state_dict(found["1"][2][1])
found["resumed"] = read(data, 2)
found["unknown"] = refused(data.state_dict)
found["both"] = refused(lambda: read(opened(workers=1), 1))
data = opened()
found["each made anew"] = [read(data, workers) for workers in (2, 2, 1, 4)]
kept = loader(opened(), 2, "fork", True)
found["kept"] = [[(b.sample_ids, b.state) for b in kept] for _ in range(3)]
kept.dataset.load_state_dict(found["1"][2][1])
found["too late"] = refused(lambda: list(kept))
data = opened()
next(iter(loader(data, 1)))
found["broken off"] = read(data, 1)
data = opened()
found["spawned"] = read(data, 1, "spawn")
found["unknown, too"] = refused(data.state_dict)
print(json.dumps(found))
"""


def test_torch_dataloader(dataset, packed: Path, tmp_path: Path) -> None:
    data = dataset()
    epochs = [[[b.sample_ids, b.state] for b in data] for _ in range(4)]
    plain = epochs[0]
    done = subprocess.run(  # apart, as a DataLoader forks
        [sys.executable, "-W", "ignore", "-c", LOADER, str(packed), str(tmp_path / "index")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["0"] == found["1"] == found["4"] == plain
    assert found["resumed"] == plain[3:]
    assert "save the `state` of the last batch" in found["unknown"]
    assert found["unknown, too"] == found["unknown"]
    assert "workers of its own" in found["both"]
    assert found["each made anew"] == epochs
    assert found["kept"] == epochs[:3]
    assert "make a new DataLoader after it" in found["too late"]
    assert found["broken off"] == found["spawned"] == plain
    assert done.stderr.count("was broken off, and begins again") == 1


def test_frames_are_those_of_the_clip(dataset, packed: Path) -> None:
    rows = rows_of(packed)
    data = dataset(decode=Decode(window="first"), members=["mp4", "txt"])
    for batch in data:
        assert batch.video.shape == (len(batch), *_shape(batch.bucket))
        assert batch.video.dtype == torch.uint8
        for slot, sample in enumerate(batch.samples):
            row = rows[batch.sample_ids[slot]]
            assert sample.members["txt"].startswith(b"frames ")
            tar = (packed / row["shard"]).read_bytes()
            place = next(m for m in row["members"] if m["name"] == "mp4")
            assert sample.members["mp4"] == tar[place["offset"] :][: place["size"]]
            with av.open(str(_as_file(sample.members["mp4"]))) as container:
                shown = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
            step = row["frame_step"]
            for ours, theirs in zip(batch.video[slot], shown[::step], strict=False):
                # The whole picture, scaled: equal on average.
                mean = theirs.reshape(-1, 3).mean(axis=0)
                assert np.abs(ours.numpy().reshape(3, -1).mean(axis=1) - mean).max() < 12
            assert batch.times[slot] == pytest.approx(np.arange(len(batch.video[slot])) / 30)


def _shape(bucket: str) -> tuple[int, int, int, int]:
    frames, height, width = SIZES.get(bucket) or (9, 48, 32)
    return frames, 3, height, width


def _as_file(data: bytes) -> Path:
    handle = os.memfd_create("clip")
    os.write(handle, data)
    return Path(f"/proc/self/fd/{handle}")


def test_windows_are_drawn_each_epoch_and_are_the_middle_in_val(dataset, packed: Path) -> None:
    rows = rows_of(packed, None)
    data = dataset(decode=Decode(), split=None)
    starts: dict[str, set[int]] = {}
    for _ in range(6):
        for batch in data:
            for sample_id, times in zip(batch.sample_ids, batch.times, strict=True):
                starts.setdefault(sample_id, set()).add(round(times[0] * 30))
    for sample_id, found in starts.items():
        row = rows[sample_id]
        spare = row["n_frames"] - row["bucket_frames"]
        assert found <= set(range(spare + 1))
        if row["split"] == "val":
            assert found == {spare // 2}
    assert max(len(found) for found in starts.values()) > 2


def test_transform_and_captions_are_the_same_wherever_they_run(dataset) -> None:
    def changes(video):  # of this test: it travels to the workers all the same
        return video[:, :, 4:, :]

    how = transforms.Compose([transforms.RandomHorizontalFlip(0.5), transforms.ToFloat(), changes])
    captions = Captions({"{long}, motion {motion:.1f}": 3.0}, drop=0.2)
    plain = list(dataset(decode=Decode(), transform=how, captions=captions))
    others = list(dataset(decode=Decode(), transform=how, captions=captions, workers=1))
    texts = Counter()
    for a, b in zip(plain, others, strict=True):
        assert torch.equal(a.video, b.video)
        assert a.video.dtype == torch.float32
        assert a.video.shape[-2] == _shape(a.bucket)[2] - 4
        assert a.captions == b.captions
        for sample, text in zip(a.samples, a.captions, strict=True):
            long = f"{sample.row['captions']['long']}, motion {sample.row['scores']['motion']:.1f}"
            assert text in (long, "")
            texts[text == ""] += 1
    assert 0 < texts[True] < texts[False]


def test_sound_goes_with_the_frames(dataset) -> None:
    for batch in dataset(decode=Decode(audio_rate=16000)):
        for times, sound in zip(batch.times, batch.audio, strict=True):
            assert len(sound) == round(len(times) / 30 * 16000)
            # The films hold a sine of height 0.3.
            assert np.sqrt(np.mean(sound**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.15)


def test_token_packs(dataset, packed: Path) -> None:
    def tokens(shapes):
        return shapes.frames * (shapes.height // 16) * (shapes.width // 16)

    data = dataset(batch=TokenPacks(120, tokens), decode=Decode())
    ids = []
    for batch in data:
        size = [v.shape[0] * (v.shape[2] // 16) * (v.shape[3] // 16) for v in batch.video]
        assert sum(size) <= 120
        ids += seen(iter([batch]))
    assert sorted(ids) == sorted(rows_of(packed))


def test_a_mixture_keeps_shares_and_goes_on(dataset, packed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(packed, other)
    plan = BucketBatches(4, neighbours=4)
    path = {str(packed): 3.0, str(other): 1.0}
    batches = [b for _, b in zip(range(64), dataset(path, batch=plan), strict=False)]
    assert Counter(b.source for b in batches) == {0: 48, 1: 16}
    again = dataset(path, batch=plan)
    again.load_state_dict(batches[20].state)
    more = [b for _, b in zip(range(10), again, strict=False)]
    assert [b.sample_ids for b in more] == [b.sample_ids for b in batches[21:31]]
    first = Counter(seen(b for b in batches if b.source == 0))
    assert max(first.values()) - min(first.values()) <= 1


def test_another_index_or_plan_is_refused(dataset, packed: Path, tmp_path: Path) -> None:
    state = next(iter(dataset())).state
    with pytest.raises(UserError, match="seed"):
        dataset(seed=5).load_state_dict(state)
    with pytest.raises(UserError, match="size"):
        dataset(batch=3).load_state_dict(state)
    with pytest.raises(UserError, match="rows"):
        dataset(split=None).load_state_dict(state)
    other = tmp_path / "other"
    shutil.copytree(packed, other)
    index = json.loads((other / "index.json").read_text())
    index["digest"] = "0" * 64
    (other / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is of the index"):
        dataset(other).load_state_dict(state)


# ---------------------------------------------------------------------- faults


@pytest.fixture
def damaged(packed: Path, tmp_path: Path):
    """A copy with one shard missing, one cut short and one with a changed byte; the ids of each."""
    folder = tmp_path / "damaged"
    shutil.copytree(packed, folder)
    rows = rows_of(folder)
    shards = sorted({row["shard"] for row in rows.values()})
    missing, cut, changed = shards[:3]
    (folder / missing).unlink()
    of = {s: [i for i, r in rows.items() if r["shard"] == s] for s in shards}

    def place(sample: str) -> dict[str, int]:
        return next(m for m in rows[sample]["members"] if m["name"] == "mp4")

    last = max(of[cut], key=lambda i: place(i)["offset"])
    os.truncate(folder / cut, place(last)["offset"] + 10)
    data = bytearray((folder / changed).read_bytes())
    data[place(of[changed][0])["offset"] + 700] ^= 255
    (folder / changed).write_bytes(data)
    return folder, {
        "ShardMissingError": set(of[missing]),
        "ShardTruncatedError": {last},
        "DamagedSampleError": {of[changed][0]},
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_leave_slots_of_weight_0(dataset, damaged, caplog, workers: int) -> None:
    folder, wanted = damaged
    data = dataset(folder, decode=Decode(), workers=workers)
    batches = list(data)
    found: dict[str, set[str]] = {}
    for fault in (f for b in batches for f in b.faults):
        found.setdefault(fault.error, set()).add(fault.sample_id)
        assert fault.shard in fault.message
    assert found == wanted
    assert data.skipped == {name: len(ids) for name, ids in wanted.items()}
    bad = set().union(*wanted.values())
    assert sorted(seen(iter(batches))) == sorted(rows_of(folder).keys() - bad)
    for batch in batches:
        assert batch.video.shape == (len(batch), *_shape(batch.bucket))
        for slot, sample in enumerate(batch.samples):
            if sample is None:
                assert batch.weight[slot] == 0
                assert not batch.video[slot].any()
    assert sum("skipped" in r.message for r in caplog.records) == len(bad)


def test_a_rank_without_work_reports_nothing(dataset, damaged) -> None:
    folder, wanted = damaged
    bad = wanted["ShardMissingError"]
    bucket = rows_of(folder)[min(bad)]["bucket"]
    [[first], [idle]] = all_ranks(dataset, 2, path=folder, buckets=[bucket], batch=100)
    assert {f.sample_id for f in first.faults} >= bad
    assert (idle.sample_ids, idle.faults) == (first.sample_ids, [])
    assert not idle.weight.any()


@pytest.mark.parametrize("workers", [0, 1])
def test_or_they_stop_the_reader(dataset, damaged, workers: int) -> None:
    folder, _ = damaged
    with pytest.raises((DamagedSampleError, StoreError)):
        list(dataset(folder, on_error="stop", workers=workers))


def test_unchecked_bytes_are_handed_out(dataset, damaged) -> None:
    folder, wanted = damaged
    data = dataset(folder, verify=False)
    ids = seen(iter(data))
    assert wanted["DamagedSampleError"] <= set(ids)
    assert "DamagedSampleError" not in data.skipped


def test_a_killed_worker_comes_back(dataset) -> None:
    plain = [b.sample_ids for b in dataset()]
    data = dataset(workers=2, ahead=1)
    others = {child.pid for child in psutil.Process().children()}  # of other tests' fixtures
    found, killed = [], set()
    for batch in data:
        found.append(batch.sample_ids)
        if len(killed) < 3:
            running = [c for c in psutil.Process().children() if c.status() != "zombie"]
            for child in [c for c in running if c.pid not in killed | others][:1]:
                killed.add(child.pid)
                child.kill()
    assert len(killed) == 3
    assert found == plain
    assert not data.skipped


def test_samples_that_end_or_stop_their_worker_are_skipped(dataset) -> None:
    class Deadly(Captions):
        """Ends or stops the process that renders certain captions."""

        def render(self, captions, scores, rng) -> str:
            if captions["long"] == "film 0, frames 6 to 12":
                os.kill(os.getpid(), signal.SIGSEGV)
            if captions["long"] == "film 1, frames 12 to 21":
                time.sleep(1000)
            return captions["long"]

    plain = {
        i: c
        for b in dataset(captions="long")
        for i, c in zip(b.sample_ids, b.captions, strict=True)
    }
    data = dataset(captions=Deadly({"long": 1}), batch=5, workers=1, stall=3.0)
    batches = list(data)
    faults = {plain[f.sample_id]: f.message for b in batches for f in b.faults}
    assert faults.keys() == {"film 0, frames 6 to 12", "film 1, frames 12 to 21"}
    assert "died of SIGSEGV" in faults["film 0, frames 6 to 12"]
    assert "made no progress" in faults["film 1, frames 12 to 21"]
    assert data.skipped == {"WorkerCrashError": 2}
    given = {i: c for b in batches for i, c in zip(b.sample_ids, b.captions, strict=True)}
    assert given == {i: "" if c in faults else c for i, c in plain.items()}
    assert len(seen(iter(batches))) == len(plain) - 2


def test_what_cannot_travel_is_refused_at_once(dataset) -> None:
    lock = threading.Lock()
    with pytest.raises(UserError, match="cannot be sent to workers"):
        dataset(workers=1, decode=Decode(), transform=lambda video: (lock, video)[1])


def test_an_error_of_the_users_transform_ends_it_with_its_words(dataset) -> None:
    def broken(video):
        raise KeyError("my own mistake")

    for workers in (0, 1):
        with pytest.raises(Exception, match="my own mistake"):
            list(dataset(decode=Decode(), transform=broken, workers=workers))


def test_a_killed_reader_leaves_nothing(dataset, packed: Path, tmp_path: Path) -> None:
    code = """
import sys, time
sys.modules["torch"] = None  # it takes long
from vidcurate.shards import ShardDataset
data = ShardDataset(sys.argv[1], batch=4, workers=2, index_folder=sys.argv[2])
batches = iter(data)
next(batches)
print("ready", flush=True)
time.sleep(100)
"""
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(packed), str(tmp_path / "index")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not [n for n in set(os.listdir("/dev/shm")) - before if "vidcurate" in n]
    assert seen(iter(dataset())) == seen(iter(dataset()))


def test_a_program_ends_or_forks_in_the_middle_of_an_iteration(packed, tmp_path: Path) -> None:
    code = """
import os, sys
sys.modules["torch"] = None  # it takes long
import psutil
from vidcurate.errors import UserError
from vidcurate.shards import ShardDataset
data = ShardDataset(sys.argv[1], decode=None, workers=1, index_folder=sys.argv[2])
batches = iter(data)
next(batches)
before = psutil.Process().children()
fork = os.fork()
if not fork:
    try:
        next(batches)
    except UserError as error:
        print(error, flush=True)
    sys.exit()  # what it inherited is taken down in it
os.waitpid(fork, 0)
next(batches)
assert psutil.Process().children() == before
print(before[0].pid)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(packed), str(tmp_path / "index")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    said, pid = done.stdout.splitlines()
    assert "iterate anew in it" in said
    assert not psutil.pid_exists(int(pid))


def test_without_torch_it_is_a_plain_iterator(packed: Path, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["torch"] = None
from vidcurate.shards import ShardDataset
for workers in (0, 1):
    data = ShardDataset(sys.argv[1], batch=4, index_folder=sys.argv[2], workers=workers)
    batch = next(iter(data))
    print(type(batch.video).__name__, batch.video.shape, type(batch.weight).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(packed), str(tmp_path / "index")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here, there = done.stdout.splitlines()
    assert here == there
    assert re.fullmatch(r"ndarray \(\d, \d, 3, \d+, \d+\) ndarray", here)


def test_ranks_come_from_the_environment(dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (dataset().rank, dataset().world_size) == (1, 3)
    assert (dataset(rank=0, world_size=1).rank, dataset().world_size) == (0, 3)
    for rank, size in ((3, 3), (None, 2), (1, None)):
        with pytest.raises(UserError, match="rank"):
            dataset(rank=rank, world_size=size)


def test_random_numbers_depend_on_seed_epoch_and_sample_alone() -> None:
    assert sample_seed(0, 0, "a") == sample_seed(0, 0, "a")
    assert len({sample_seed(s, e, i) for s in (0, 1) for e in (0, 1) for i in "ab"}) == 8
