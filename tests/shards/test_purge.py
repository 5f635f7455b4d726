"""Purging samples from packed shards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate.clip import INDEX_SCHEMA
from vidcurate.errors import RunDirectoryError
from vidcurate.recipe.model import Limits, Pack
from vidcurate.shards.pack import pack_selection
from vidcurate.shards.purge import Gone, held, purge_shards

from .conftest import SPANS, as_table, clip_row, film

HOW = Pack(shard_size=60_000)  # a few clips each


def gone(clips=(), videos=()):
    return Gone(pa.array(clips, pa.string()), pa.array(videos, pa.string()))


def pack(rows, folder: Path, how: Pack = HOW):
    return pack_selection(as_table(rows), how, folder, workers=1, limits=Limits(attempts=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four clips of each of two films, and their shards."""
    root = tmp_path_factory.mktemp("packed")
    rows = [clip_row(film(root / f"film{i}.mp4", i), *span) for i in range(2) for span in SPANS]
    pack(rows, root / "base")
    return rows, root / "base"


@pytest.fixture
def rows(made):
    return made[0]


@pytest.fixture
def folder(made, tmp_path: Path) -> Path:
    """A copy of the shards."""
    return Path(shutil.copytree(made[1], tmp_path / "base"))


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Sample -> suffix -> bytes at the places that the index names; sizes, sums and names agree."""
    index = json.loads((folder / "index.json").read_text())
    rows = [row for name in index["index"] for row in pq.read_table(folder / name).to_pylist()]
    assert [s["path"] for s in index["shards"]] == list(dict.fromkeys(r["shard"] for r in rows))
    assert index["rows"] == len(rows) == sum(s["rows"] for s in index["shards"])
    assert index["rows"] == index["copied"] + index["encoded"] == sum(index["buckets"].values())
    found = {}
    for shard in index["shards"]:
        data = (folder / shard["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
        mine = [row for row in rows if row["shard"] == shard["path"]]
        assert len(mine) == shard["rows"]
        for row in mine:
            members = {m["name"]: data[m["offset"] :][: m["size"]] for m in row["members"]}
            assert hashlib.sha256(members["mp4"]).hexdigest() == row["sha256"]
            found[row["sample_id"]] = members
        with tarfile.open(folder / shard["path"]) as tar:
            named = {n: tar.extractfile(n).read() for n in tar.getnames()}
        assert named == {
            f"{row['sample_id']}.{suffix}": content
            for row in mine
            for suffix, content in found[row["sample_id"]].items()
        }
    return found


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def test_a_sample_leaves_its_shard_and_the_others_stay_as_they_are(rows, folder: Path, tree):
    before, untouched = samples(folder), tree(folder)
    index = json.loads((folder / "index.json").read_text())
    assert len(index["shards"]) > 2
    one = rows[2]["clip_id"]
    (shard,) = held(folder, gone([one]))
    assert held(folder, gone([one])) == {shard: 1}

    done = purge_shards(folder, gone([one]))
    assert (done.samples, done.shards) == (1, (shard,))
    old = next(s for s in index["shards"] if s["path"] == shard)
    new = json.loads((folder / "index.json").read_text())
    assert new["digest"] != index["digest"]
    assert new["made_by"] == index["made_by"]
    after = samples(folder)
    assert after == {i: members for i, members in before.items() if i != one}
    (added,) = {s["path"] for s in new["shards"]} - {s["path"] for s in index["shards"]}
    assert added.split("/")[0] == "native"
    assert added[-10:] == shard[-10:]  # the same number
    assert not (folder / shard).exists()
    assert done.bytes == old["bytes"] - (folder / added).stat().st_size > 0
    kept = {k: v for k, v in tree(folder).items() if k in untouched and k != "index.json"}
    assert kept == {k: untouched[k] for k in kept}
    assert len(kept) == len(index["shards"]) - 1
    (name,) = new["index"]
    assert pq.read_schema(folder / name).equals(INDEX_SCHEMA)

    state = tree(folder)
    again = purge_shards(folder, gone([one]))
    assert (again.samples, again.shards, again.bytes) == (0, (), 0)
    assert tree(folder) == state
    # Pack finds its selection packed: nothing is cut again.
    left = [r for r in rows if r["clip_id"] != one]
    assert pack(left, folder).samples == 7
    assert tree(folder) == state


def test_a_video_goes_and_so_do_its_empty_shards_and_buckets(rows, folder: Path):
    video = rows[0]["video_id"]
    others = {r["clip_id"] for r in rows if r["video_id"] != video}
    done = purge_shards(folder, gone(videos=[video]))
    assert done.samples == 4
    assert set(samples(folder)) == others
    index = json.loads((folder / "index.json").read_text())
    tars = {s["path"] for s in index["shards"]}
    assert files(folder) == {"index.json", "index", "native", *tars, *index["index"]}

    purge_shards(folder, gone(others))
    assert samples(folder) == {}
    index = json.loads((folder / "index.json").read_text())
    assert (index["rows"], index["shards"], index["buckets"]) == (0, [], {})
    assert files(folder) == {"index.json", "index", *index["index"]}


def test_many_shards_go_in_batches(rows, folder: Path):
    whole = json.loads((folder / "index.json").read_text())
    before = samples(folder)
    out = [r["clip_id"] for r in rows if r["start"] == 0 or r["end"] == 2]
    going = held(folder, gone(out))
    assert len(going) > 1
    done = purge_shards(folder, gone(out), batch=1)
    assert done.samples == sum(going.values()) == len(out) == 4
    assert set(done.shards) == set(going)
    assert samples(folder) == {i: m for i, m in before.items() if i not in out}
    index = json.loads((folder / "index.json").read_text())
    assert (
        sum(s["bytes"] for s in index["shards"])
        == sum(s["bytes"] for s in whole["shards"]) - done.bytes
    )


def test_failed_and_encoded_clips_are_counted_and_named_no_more(films, tmp_path: Path):
    cropped = clip_row(films[0], 0, 12, crop={"x": 0, "y": 0, "width": 64, "height": 48})
    broken = clip_row(tmp_path / "none.mp4", 0, 12)
    rows = [cropped, clip_row(films[0], 12, 24), broken]
    folder = tmp_path / "base"
    report = pack(rows, folder, Pack())
    assert (report.copied, report.encoded, len(report.failures)) == (1, 1, 1)
    # A clip that has only failed changes no shard.
    done = purge_shards(folder, gone([broken["clip_id"]], [broken["video_id"]]))
    assert (done.samples, done.shards) == (0, ())
    index = json.loads((folder / "index.json").read_text())
    assert (index["failures"], index["copied"], index["encoded"]) == ([], 1, 1)
    purge_shards(folder, gone([cropped["clip_id"]]))
    index = json.loads((folder / "index.json").read_text())
    assert (index["copied"], index["encoded"]) == (1, 0)
    assert len(samples(folder)) == 1


def test_what_an_unfinished_pack_left_behind_goes(rows, folder: Path, tree):
    whole = tree(folder)
    work = folder / ".work" / "cuts-abc"
    work.mkdir(parents=True)
    (work / f"{rows[0]['clip_id']}.mp4").write_bytes(b"cut")
    (folder / "native" / "abc-00000.tar").write_bytes(b"half")
    done = purge_shards(folder, gone(["nothing here"]))
    assert done.samples == 0
    assert tree(folder) == whole

    never = folder.with_name("never")
    (never / ".work" / "abc").mkdir(parents=True)
    (never / ".work" / "abc" / "plan.json").write_text("{}")
    assert held(never, gone(["x"])) == {}
    purge_shards(never, gone(["x"]))
    assert files(never) == set()


def test_samples_leave_tars_that_pack_knows_nothing_of(rows, folder: Path):
    """Their index has no appends; pack then packs all anew."""
    file = folder / "index.json"
    index = {k: v for k, v in json.loads(file.read_text()).items() if k != "appends"}
    index["shards"] = [
        {k: v for k, v in s.items() if k not in ("append", "copied")} for s in index["shards"]
    ]
    file.write_text(json.dumps(index))
    out = [r["clip_id"] for r in rows if r["start"] == 0]
    assert purge_shards(folder, gone(out)).samples == 2
    index = json.loads(file.read_text())
    assert index["rows"] == 6
    assert not {*out} & {
        row["clip_id"]
        for name in index["index"]
        for row in pq.read_table(folder / name).to_pylist()
    }
    assert pack(rows, folder).added == 8
    assert len(samples(folder)) == 8


@pytest.mark.parametrize("damage", ["short", "missing", "index"])
def test_a_damaged_shard_is_named(rows, folder: Path, damage):
    one = rows[0]["clip_id"]
    (shard,) = held(folder, gone([one]))
    index = folder / json.loads((folder / "index.json").read_text())["index"][0]
    if damage == "short":
        os.truncate(folder / shard, 700)
    else:
        (folder / shard if damage == "missing" else index).unlink()
    before = (folder / "index.json").read_bytes()
    named = index if damage == "index" else folder / shard
    with pytest.raises(RunDirectoryError, match=f"{named} is damaged .*remove {folder}, "):
        purge_shards(folder, gone([one]))
    assert (folder / "index.json").read_bytes() == before


@pytest.mark.parametrize(
    ("function", "calls"),
    [("rewrite._copy", 2), ("purge.write_index", 1), ("purge.tidy", 1)],
    ids=str,
)
def test_killed_at_any_moment_the_index_names_whole_files(
    made, folder: Path, tree, killed, function, calls
):
    before = samples(folder)
    index = json.loads((folder / "index.json").read_text())
    (listed,) = index["index"]
    places = {r["shard"]: r["clip_id"] for r in pq.read_table(folder / listed).to_pylist()}
    going = list(places.values())  # the last clip of each shard
    left = {i: members for i, members in before.items() if i not in going}
    ids = f"Gone(pa.array({going!r}, pa.string()), pa.array([], pa.string()))"
    killed(function, calls, f"purge_shards(Path({str(folder)!r}), {ids})")
    assert samples(folder) == (left if function == "purge.tidy" else before)
    purge_shards(folder, gone(going))
    assert samples(folder) == left
    whole = shutil.copytree(made[1], folder.with_name("whole"))
    purge_shards(whole, gone(going))
    assert tree(folder) == tree(whole)
