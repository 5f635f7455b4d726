"""Packing again: what a selection gains is appended, what it loses goes, the rest stays."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest

import vidcurate
from vidcurate.errors import AcquireError
from vidcurate.recipe.model import Buckets, Encode, Fit, Limits, Pack
from vidcurate.shards.append import NoSourceError, Threads, spread
from vidcurate.shards.buckets import NATIVE
from vidcurate.shards.pack import pack_selection
from vidcurate.shards.wanted import Wanted, plain, wanted

from .conftest import SPANS, as_table, clip_row, film

HOW = Pack(shard_size=60_000)  # a few clips each
LIMITS = Limits(attempts=1)


def pack(rows, folder: Path, how: Pack = HOW, **options):
    return pack_selection(as_table(rows), how, folder, workers=1, limits=LIMITS, **options)


def index_of(folder: Path) -> dict:
    return json.loads((folder / "index.json").read_text())


def samples(folder: Path) -> dict[str, dict]:
    """Index rows by sample, members as bytes; what index.json says of the shards holds."""
    index = index_of(folder)
    (file,) = index["index"]
    rows = pq.read_table(folder / file).to_pylist()
    assert [s["path"] for s in index["shards"]] == list(dict.fromkeys(r["shard"] for r in rows))
    assert index["rows"] == len(rows) == sum(s["rows"] for s in index["shards"])
    assert index["rows"] == index["copied"] + index["encoded"]
    assert set(index["appends"]) == {s["append"] for s in index["shards"]}
    data = {}
    for shard in index["shards"]:
        data[shard["path"]] = (folder / shard["path"]).read_bytes()
        assert hashlib.sha256(data[shard["path"]]).hexdigest() == shard["sha256"]
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert on_disk == {"index.json", file, *data}
    for row in rows:
        row["members"] = {
            m["name"]: data[row["shard"]][m["offset"] :][: m["size"]] for m in row["members"]
        }
        assert hashlib.sha256(row["members"]["mp4"]).hexdigest() == row["sha256"]
    return {row["sample_id"]: row for row in rows}


def tars(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All tars, as files and as bytes."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.glob("*/*.tar")}
    return {n: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for n, p in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four clips of each of two films, and the shards of the first film's."""
    root = tmp_path_factory.mktemp("packed")
    rows = [clip_row(film(root / f"film{i}.mp4", i), *span) for i in range(2) for span in SPANS]
    pack(rows[:4], root / "base")
    return rows, root / "base"


@pytest.fixture
def rows(made):
    return made[0]


@pytest.fixture
def folder(made, tmp_path: Path) -> Path:
    """A copy of the shards."""
    return Path(shutil.copytree(made[1], tmp_path / "base"))


def shared(found: dict[str, dict]) -> tuple[str, str]:
    """A sample that does not fill its shard, and that shard."""
    counts = Counter(row["shard"] for row in found.values())
    return next((i, row["shard"]) for i, row in found.items() if counts[row["shard"]] > 1)


def without_path(row):
    return row | {"path": "/nowhere"}


# --------------------------------------------------------------------------- growing, shrinking


def test_a_grown_selection_appends_its_new_clips(made, rows, folder, tmp_path):
    before, first = tars(folder), samples(folder)
    seen = []
    grown = [*map(without_path, rows[:4]), *rows[4:]]  # nothing is asked of what is packed
    report = pack(grown, folder, progress=lambda *n: seen.append(n))
    assert (report.samples, report.added, report.removed, report.failures) == (8, 4, 0, ())
    assert sorted(seen) == [(i, 4) for i in range(1, 5)]
    after = tars(folder)
    assert {n: after[n] for n in before} == before
    found = samples(folder)
    assert set(found) == {row["clip_id"] for row in rows}
    for i, row in first.items():
        assert {k: v for k, v in found[i].items() if k != "scores"} == {
            k: v
            for k, v in row.items()
            if k != "scores"  # one is NaN
        }
    # The new ones are as they are when packed at once, in shards of their own.
    pack(rows[::-1], tmp_path / "whole")
    for i, row in samples(tmp_path / "whole").items():
        assert row["members"] == found[i]["members"]
        assert row["fingerprint"] == found[i]["fingerprint"]
    assert len(index_of(folder)["appends"]) == 2
    # The same growth gives the same bytes.
    other = Path(shutil.copytree(made[1], tmp_path / "other" / "base"))
    pack(rows, other)
    assert {n: data for n, (*_, data) in tars(other).items()} == {
        n: data for n, (*_, data) in after.items()
    }
    assert index_of(other) == index_of(folder)


def test_a_shrunken_selection_rewrites_the_tars_that_held_what_left(rows, folder):
    before, first = tars(folder), samples(folder)
    out, held = shared(first)
    assert len(before) > 1
    left = [without_path(row) for row in rows[:4] if row["clip_id"] != out]
    report = pack(left, folder)
    assert (report.samples, report.added, report.removed) == (3, 0, 1)
    found = samples(folder)
    assert {i: row["members"] for i, row in found.items()} == {
        i: row["members"] for i, row in first.items() if i != out
    }
    after = tars(folder)
    others = before.keys() - {held}
    assert {n: after[n] for n in others} == {n: before[n] for n in others}
    assert held not in after
    # All that can be said of it is said: the next call has nothing to do.
    state = index_of(folder), after
    assert pack(left, folder).removed == 0
    assert (index_of(folder), tars(folder)) == state
    pack([], folder)
    assert samples(folder) == {}
    assert index_of(folder)["appends"] == {}


def test_a_changed_clip_is_cut_again_and_the_others_stay(rows, folder):
    first = samples(folder)
    changed = clip_row(Path(rows[0]["path"]), *SPANS[0], caption_source="other words")
    said = [without_path(row) | {"captions": [("new", "said")]} for row in rows[1:4]]
    report = pack([changed, *said], folder)
    assert (report.samples, report.added, report.removed) == (4, 1, 1)
    found = samples(folder)
    assert found[changed["clip_id"]]["members"]["txt"] == b"other words"
    for row in said:
        was, now = first[row["clip_id"]], found[row["clip_id"]]
        assert was["members"] == now["members"]
        assert dict(now["captions"]) == {"new": "said"}


def test_a_lost_tar_costs_its_samples_alone(rows, folder):
    first = samples(folder)
    lost = index_of(folder)["shards"][0]["path"]
    inside = {i for i, row in first.items() if row["shard"] == lost}
    (folder / lost).write_bytes(b"cut short")
    report = pack(rows[:4], folder)
    assert report.added == report.removed == len(inside) < 4
    assert {i: r["members"] for i, r in samples(folder).items()} == {
        i: r["members"] for i, r in first.items()
    }


def test_rewritten_tars_of_several_appends_stay_apart(rows, tmp_path):
    """Both appends have a shard of number 0 in the bucket, and each loses a sample."""
    folder = tmp_path / "two"
    how = Pack()
    pack(rows[:4], folder, how)
    pack(rows, folder, how)
    first = samples(folder)
    assert [s["path"][-10:] for s in index_of(folder)["shards"]] == ["-00000.tar"] * 2
    left = [*rows[:3], *rows[5:]]
    report = pack([without_path(row) for row in left], folder, how)
    assert (report.added, report.removed, report.shards) == (0, 2, 2)
    found = samples(folder)
    assert {i: r["members"] for i, r in found.items()} == {
        row["clip_id"]: first[row["clip_id"]]["members"] for row in left
    }


@pytest.mark.parametrize(
    ("change", "repacks"),
    [
        ({"seed": 3, "shard_size": 10**9}, False),
        ({"fit": Fit(max_short_side=64)}, False),  # none is larger
        ({"fit": Fit(max_short_side=48)}, True),
        ({"fit": Fit(max_fps=15)}, True),
        ({"audio": False}, True),
        ({"encode": Encode(preset="ultrafast")}, True),
        ({"buckets": Buckets(short_side=(64,), aspect=("3:2",), frames=(5,))}, True),
    ],
    ids=str,
)
def test_settings_that_decide_a_samples_bytes_decide_its_fingerprint(rows, change, repacks):
    one, _ = wanted(plain(as_table(rows[:1])), HOW, None)
    how = HOW.model_copy(update=change)
    other, _ = wanted(plain(as_table(rows[:1])), how, how.buckets)
    marks = [clip.fingerprint for clips in (one, other) for clip in clips.values()]
    assert (marks[0] != marks[1]) == repacks


def test_other_versions_seeds_and_sizes_govern_what_is_appended(rows, folder, monkeypatch):
    before, old = tars(folder), index_of(folder)
    monkeypatch.setattr(vidcurate, "__version__", "99")
    how = Pack(shard_size=10**9, seed=5)
    pack([without_path(row) for row in rows[:4]], folder, how)
    assert (tars(folder), index_of(folder)) == (before, old)
    pack(rows[:6], folder, how)
    index = index_of(folder)
    (new,) = index["appends"].keys() - old["appends"].keys()
    (kept,) = old["appends"]
    assert index["appends"][kept] == old["appends"][kept]
    assert index["appends"][new]["made_by"] == old["made_by"] | {"vidcurate": "99"}
    assert (index["appends"][new]["seed"], index["appends"][new]["shard_size"]) == (5, 10**9)
    assert index["made_by"]["vidcurate"] == "99"
    assert Counter(s["append"] for s in index["shards"]) == {kept: len(before), new: 1}


# --------------------------------------------------------------------------- interruptions


def test_killed_at_any_moment_an_append_goes_on_to_the_same_bytes(
    made, rows, tmp_path, tree, killed
):
    """It grows and shrinks at once; the index always names whole files."""
    old = samples(made[1])
    out, _ = shared(old)
    target = [row for row in rows[:7] if row["clip_id"] != out]
    whole = Path(shutil.copytree(made[1], tmp_path / "whole" / "base"))
    pack(target, whole)
    clips = tmp_path / "clips.parquet"
    pq.write_table(as_table(target), clips)
    start = made[1]
    for function, calls in (
        ("progress", 2),  # while it cuts
        ("append.spread", 1),  # when all is cut
        ("shard_job._sample", 2),
        ("rewrite._copy", 1),
        ("pack.write_index", 1),
        ("pack.tidy", 2),
    ):
        folder = Path(shutil.copytree(start, tmp_path / function / "base"))
        code = (
            f"pack_selection(pq.read_table({str(clips)!r}), Pack(shard_size=60_000), "
            f"Path({str(folder)!r}), workers=1, limits=Limits(attempts=1), "
            f"progress={'dies' if function == 'progress' else None})"
        )
        killed(function, calls, code)
        index = index_of(folder)
        assert index["rows"] == (6 if function == "pack.tidy" else 4)
        for shard in index["shards"]:
            assert (folder / shard["path"]).stat().st_size == shard["bytes"]
        if function in ("progress", "append.spread"):  # the next goes on from here
            start = Path(shutil.copytree(folder, tmp_path / f"{function}-cut" / "base"))
        if function == "progress":
            assert list(folder.glob(".work/*/*.json"))
            continue
        # What was cut is not cut again: its sources are not at hand.
        pack([without_path(row) for row in target], folder)
        assert tree(folder) == tree(whole), function
    kept = {i: r["members"] for i, r in samples(whole).items() if i in old}
    assert kept == {i: old[i]["members"] for i in kept}
    assert len(kept) == 3


def test_what_an_unfinished_append_has_cut_is_of_use_to_another(rows, folder):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_selection(as_table(rows), HOW, folder, workers=1, limits=LIMITS, progress=stop)
    assert len(index_of(folder)["shards"]) == len(list(folder.glob("native/*.tar")))
    seen = []
    pack([*rows[:2], *rows[4:]], folder, progress=lambda *n: seen.append(n))
    assert seen == [(4, 4)]
    assert len(samples(folder)) == 6


# --------------------------------------------------------------------------- failures


def test_failures_are_tried_again_with_the_next_append_and_lost_sources_always(rows, folder):
    broken = clip_row(Path(rows[0]["path"]), 40, 50, n_frames=11)
    asked = []
    gone = {rows[4]["clip_id"]}

    def locate(row):
        asked.append(row["clip_id"])
        return AcquireError("not here") if row["clip_id"] in gone else Path(row["path"])

    def again(clips):
        asked.clear()
        return pack(clips, folder, hands=Threads(HOW, LIMITS, 1, locate))

    target = [*rows[:4], broken]
    report = again(target)
    assert asked == [broken["clip_id"]]
    assert [type(f.error).__name__ for f in report.failures] == ["CutError"]
    state = index_of(folder)
    assert [str(f.error) for f in again(target).failures] == [str(report.failures[0].error)]
    assert asked == []
    assert index_of(folder) == state

    target.append(rows[4])
    report = again(target)
    assert set(asked) == {broken["clip_id"], rows[4]["clip_id"]}
    assert {f.clip_id: f.is_lost for f in report.failures} == {
        broken["clip_id"]: False,
        rows[4]["clip_id"]: True,
    }
    assert index_of(folder) == state  # the index knows nothing of what is still to come
    gone.clear()
    report = again(target)
    assert report.added == 1
    assert rows[4]["clip_id"] in samples(folder)


def test_what_may_succeed_later_is_tried_again(rows, folder):
    """A cut that ran into a limit of memory or time may do so no more."""
    tight = Limits(memory=2**20, attempts=1)
    report = pack_selection(as_table(rows[:5]), HOW, folder, workers=1, limits=tight)
    assert [type(f.error).__name__ for f in report.failures] == ["WorkerMemoryError"]
    assert report.failures[0].error.is_transient
    report = pack(rows[:5], folder)
    assert (report.samples, report.added, report.failures) == (5, 1, ())
    assert index_of(folder)["failures"] == []


def test_shards_stay_where_no_source_can_be_had(rows, folder, tree):
    before = tree(folder)
    nothing = Threads(HOW, LIMITS, 1, lambda row: AcquireError("not here"))
    silent = HOW.model_copy(update={"audio": False})
    with pytest.raises(NoSourceError, match=r"base: none of the 4 selected clips .*not here") as e:
        pack(rows[:4], folder, silent, hands=nothing)
    assert [f.clip_id for f in e.value.failures] == sorted(r["clip_id"] for r in rows[:4])
    assert tree(folder) == before


# --------------------------------------------------------------------------- members, buckets


def test_sound_as_a_member_of_its_own(rows, bikes, tmp_path):
    how = Pack(audio="member")
    mute = clip_row(bikes, 0, 12, width=640, height=272, time_base_den=12800)
    report = pack([*rows[:2], mute], tmp_path / "base", how)
    assert (report.samples, report.failures) == (3, ())
    found = samples(tmp_path / "base")
    for row in rows[:2]:
        sample = found[row["clip_id"]]
        assert list(sample["members"]) == ["mp4", "m4a", "json", "txt"]
        assert sample["has_audio"]
        sound = sample["members"]["m4a"]
        assert sample["audio_sha256"] == hashlib.sha256(sound).hexdigest()
        (tmp_path / "sound.m4a").write_bytes(sound)
        with av.open(tmp_path / "sound.m4a") as container:
            assert [s.type for s in container.streams] == ["audio"]
        (tmp_path / "picture.mp4").write_bytes(sample["members"]["mp4"])
        with av.open(tmp_path / "picture.mp4") as container:
            assert [s.type for s in container.streams] == ["video"]
    silent = found[mute["clip_id"]]
    assert list(silent["members"]) == ["mp4", "json", "txt"]
    assert (silent["has_audio"], silent["audio_sha256"]) == (False, None)
    (path,) = (tmp_path / "base").glob("native/*.tar")
    with tarfile.open(path) as tar:
        assert sum(name.endswith(".m4a") for name in tar.getnames()) == 2


def test_buckets_are_chosen_once_and_stay_while_the_selection_grows(rows, tmp_path):
    auto = Pack(buckets="auto", fit=Fit(no_bucket="report"))
    folder = tmp_path / "base"
    first = [row for row in rows if row["n_frames"] >= 26]  # of 26 and 29 frames, 96x64
    report = pack(first, folder, auto)
    chosen = index_of(folder)["chosen_buckets"]
    assert chosen["frames"] == [25, 29]
    assert chosen["short_side"] == [64]
    assert report.no_bucket == ()
    assert f"{len(first)} clips" in report.notes[0]
    # Shorter ones come: they get no bucket of their own.
    before = tars(folder)
    report = pack(rows, folder, auto)
    assert report.notes == ()
    assert index_of(folder)["chosen_buckets"] == chosen
    assert {n: tars(folder)[n] for n in before} == before
    assert len(report.no_bucket) == 4
    # Another fit: a new choice. The same written out: nothing to do.
    other = auto.model_copy(update={"fit": Fit(no_bucket="report", max_crop=0.05)})
    report = pack(rows, folder, other)
    assert report.notes != ()
    assert min(index_of(folder)["chosen_buckets"]["frames"]) <= 9
    chosen = {k: v for k, v in index_of(folder)["chosen_buckets"].items() if k != "fit"}
    written = other.model_copy(update={"buckets": Buckets.model_validate(chosen)})
    before = tars(folder)
    pack(list(map(without_path, rows)), folder, written)
    assert tars(folder) == before


def test_clips_of_one_video_are_spread_apart():
    clips = [
        Wanted({"clip_id": f"{v}-{i}", "video_id": f"v{v}"}, NATIVE, 1, "")
        for v, count in enumerate((50, 10, *[1] * 40))
        for i in range(count)
    ]
    order = spread(clips, seed=1)
    assert sorted(c.clip_id for c in order) == sorted(c.clip_id for c in clips)
    assert spread(clips[::-1], seed=1) == order
    assert spread(clips, seed=2) != order
    for start in range(0, 100, 20):  # as many in each shard of 20, give or take
        held = Counter(clip.row["video_id"] for clip in order[start : start + 20])
        assert 6 <= held["v0"] <= 14
        assert held["v1"] <= 4
