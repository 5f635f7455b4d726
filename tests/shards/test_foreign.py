"""Indexing tars of others: video2dataset's layout, webdataset's, our own without their index."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vidcurate.clip import INDEX_SCHEMA, video_id
from vidcurate.errors import UserError
from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.foreign import IndexReport
from vidcurate.shards.foreign import index_tars as index_with
from vidcurate.shards.pack import pack_selection

from .conftest import as_table, film
from .test_tar_samples import write


def index_tars(folder: Path | str, **options) -> IndexReport:
    return index_with(folder, **{"workers": 1, **options})


def index_of(folder: Path) -> dict:
    return json.loads((folder / "index.json").read_text())


def rows_of(folder: Path) -> dict[str, dict]:
    (name,) = index_of(folder)["index"]
    table = pq.read_table(folder / name)
    assert table.schema.equals(INDEX_SCHEMA)
    return {row["sample_id"]: row for row in table.to_pylist()}


def failures(report) -> dict[str, str]:
    return {f["clip_id"]: f["message"] for f in report.failures}


def members(folder: Path, row: dict) -> dict[str, bytes]:
    data = (folder / row["shard"]).read_bytes()
    return {m["name"]: data[m["offset"] : m["offset"] + m["size"]] for m in row["members"]}


@pytest.fixture
def mp4(films) -> bytes:
    return films[0].read_bytes()


def v2d(key: str, mp4: bytes, **about) -> list[tuple[str, bytes]]:
    """A sample as video2dataset's writer lays it out."""
    said = {"key": key, "status": "success", "error_message": None} | about
    caption = [(f"{key}.txt", about["caption"].encode())] if "caption" in about else []
    return [(f"{key}.mp4", mp4), *caption, (f"{key}.json", json.dumps(said).encode())]


def test_the_layout_of_video2dataset(films, mp4, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    url = "https://www.youtube.com/watch?v=abcdefghijk&t=4"
    one = v2d("000000000", mp4, url=url, caption="a pan", clip_score=0.25, duration=2, ok=True)
    two = v2d("000000001", films[1].read_bytes(), videoid="x7", caption_long="Long.", n=10**400)
    write(folder / "00000.tar", one + two)
    (tmp_path / "00000.tar.skip").touch()
    write(folder / "sub" / "00001.tar", v2d("000010000", mp4, url=url))
    (folder / "00000.parquet").write_text("video2dataset leaves one beside each tar")
    report = index_tars(folder, workers=2)
    assert (report.samples, report.shards, report.renamed, report.failures) == (3, 2, 0, ())
    rows = rows_of(folder)
    assert list(rows) == ["000000000", "000000001", "000010000"]
    row = rows["000000000"]
    assert members(folder, row) == {n.split(".")[1]: data for n, data in one}
    assert row["sha256"] == hashlib.sha256(mp4).hexdigest()
    assert row["clip_id"] == "000000000"
    assert row["video_id"] == rows["000010000"]["video_id"] == video_id("youtube:abcdefghijk")
    assert rows["000000001"]["video_id"] == video_id("x7")
    assert row["captions"] == [("source", "a pan")]  # the .txt and the .json's are one
    assert rows["000000001"]["captions"] == [("long", "Long.")]
    assert row["scores"] == [("clip_score", 0.25), ("duration", 2.0)]
    assert rows["000000001"]["scores"] == []  # a number beyond all floats
    assert (row["n_frames"], row["fps_num"], row["fps_den"], row["vfr"]) == (60, 30, 1, False)
    assert (row["width"], row["height"], row["has_audio"]) == (96, 64, True)
    assert (row["preroll_frames"], row["frame_step"]) == (0, 1)
    assert row["duration_s"] == pytest.approx(2)
    assert (row["bucket"], row["bucket_width"], row["split"]) == ("native", None, "train")
    index = index_of(folder)
    assert index["buckets"] == {"native": 3}
    assert index["indexed"] is True
    for shard in index["shards"]:
        data = (folder / shard["path"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert {p.name for p in folder.iterdir() if p.name.startswith(".")} == set()


def test_keys_that_come_in_several_tars(mp4, tmp_path: Path) -> None:
    for shard in ("a.tar", "b.tar"):
        write(tmp_path / shard, [("0.mp4", mp4), (f"{shard[0]}/1.mp4", mp4)])
    report = index_tars(tmp_path)
    assert report.renamed == 2
    rows = rows_of(tmp_path)
    assert list(rows) == ["a.tar#0", "a/1", "b.tar#0", "b/1"]
    assert {row["clip_id"] for row in rows.values()} == set(rows)
    assert len({row["video_id"] for row in rows.values()}) == 4
    assert rows["a.tar#0"]["video_id"] == video_id("file:a.tar#0")


def test_the_same_tars_give_the_same_index_again(mp4, tmp_path: Path, tree) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        write(folder / f"{i}.tar", v2d(f"{i}", mp4))
    first = index_tars(folder, workers=2)
    before = tree(folder)
    assert index_tars(folder).digest == first.digest
    assert tree(folder) == before
    write(folder / "3.tar", v2d("3", mp4))
    assert index_tars(folder).samples == 4
    assert len(list((folder / "index").iterdir())) == 1  # the older file is gone


def test_faults_cost_their_samples_only(mp4, tmp_path: Path) -> None:
    good = [("good.mp4", mp4), ("good.txt", b"fine")]
    write(
        tmp_path / "a.tar",
        [
            *v2d("text", b"no video at all" * 99),
            ("gone.json", b'{"status": "failed_to_download", "error_message": "404"}'),
            *good,
            ("json.mp4", mp4),
            ("json.json", b"{"),
            ("list.mp4", mp4),
            ("list.json", b"[]"),
            ("latin.mp4", mp4),
            ("latin.txt", b"\xe9t\xe9"),
            ("cut.mp4", mp4[: len(mp4) // 2]),
        ],
    )
    write(tmp_path / "empty.tar", [])
    (tmp_path / "c.tar.gz").write_bytes(b"")
    whole = write(tmp_path / "z.tar", [("z1.mp4", mp4), ("z2.mp4", mp4)]).read_bytes()
    (tmp_path / "z.tar").write_bytes(whole[: len(mp4) + 4096])
    report = index_tars(tmp_path)
    assert set(rows_of(tmp_path)) == {"good", "z1"}
    found = failures(report)
    assert found == {f["clip_id"]: f["message"] for f in index_of(tmp_path)["failures"]}
    expected = {
        "a.tar#text": "not a video file of a known container",
        "a.tar#gone": r"a sample without a video (failed_to_download: 404)",
        "a.tar#json": "the .json cannot be read",
        "a.tar#list": "the .json is not a JSON object",
        "a.tar#latin": "the .txt is not valid UTF-8",
        "a.tar#cut": "an MP4 whose index (moov) is missing",
        "empty.tar": "it holds no samples",
        "c.tar.gz": "it is compressed: unpack it to a plain .tar",
        "z.tar#z2": "cut short in 'z2.mp4'",
        "z.tar": "what follows is lost",
    }
    assert set(found) == set(expected)
    for name, text in expected.items():
        assert text in found[name], name
        assert "vidcurate-index" not in found[name]  # no path of ours


def test_a_child_past_its_memory_costs_its_samples(mp4, tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [("a.mp4", mp4), ("b.mp4", mp4)])
    with pytest.raises(UserError, match=r"no sample .*a\.tar#a: used .* more than limits\.memory"):
        index_tars(tmp_path, limits=Limits(memory=2**20, attempts=1))
    assert not (tmp_path / "index.json").exists()


def test_a_crash_costs_one_sample(mp4, tmp_path: Path, monkeypatch) -> None:
    """The child dies of SIGSEGV at the second sample of three, each time."""
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'vidcurate.shards.foreign_rows':\n"
        "            sys.meta_path.remove(self)\n"
        "            import ctypes, vidcurate.media.whole_file as room\n"
        "            real = room.whole_file\n"
        "            def crash(path, **limits):\n"
        "                if path.stat().st_size == 4321:\n"
        "                    ctypes.string_at(0)\n"
        "                return (yield from real(path, **limits))\n"
        "            room.whole_file = crash\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "crash"))
    folder = tmp_path / "set"
    folder.mkdir()
    tar = write(folder / "a.tar", [("a.mp4", mp4), ("b.mp4", bytes(4321)), ("c.mp4", mp4)])
    report = index_tars(folder)
    assert list(rows_of(folder)) == ["a", "c"]
    assert failures(report) == {"a.tar#b": "the process that reads a tar died of SIGSEGV"}
    (shard,) = index_of(folder)["shards"]
    assert shard["sha256"] == hashlib.sha256(tar.read_bytes()).hexdigest()


def test_our_own_shards_without_their_index(rows, tmp_path: Path) -> None:
    """All but the step of frames comes back, digest included: a reader's state stays good."""
    folder = tmp_path / "base"
    rows[0]["split"] = "val"
    how = Pack(shard_size=60_000, buckets=Buckets(short_side=(64,), aspect=("3:2",), frames=(25,)))
    pack_selection(as_table(rows), how, folder, workers=1, limits=Limits())
    before, old = rows_of(folder), index_of(folder)
    assert set(old["buckets"]) == {"native", "64p_3x2_25f"}
    with pytest.raises(UserError, match=r"the index that pack made.*--force replaces it"):
        index_tars(folder)
    assert index_of(folder) == old
    report = index_tars(folder, force=True)
    assert report.digest == old["digest"]
    after = rows_of(folder)
    assert list(after) == list(before)
    for key, row in before.items():
        lost = {"fingerprint": None, "scores": [("motion", 0.5)]}  # NaN is null in the .json
        assert after[key] == row | lost
    assert index_of(folder)["buckets"] == old["buckets"]


def test_an_index_elsewhere_links_to_the_tars(mp4, tmp_path: Path) -> None:
    folder, to = tmp_path / "set", tmp_path / "mine"
    (folder / "x").mkdir(parents=True)
    write(folder / "x" / "a.tar", v2d("a", mp4))
    for _ in range(2):
        report = index_tars(folder, to=to, val=1.0)
    assert report.folder == to
    assert [p.name for p in folder.iterdir()] == ["x"]
    (row,) = rows_of(to).values()
    assert (row["shard"], row["split"]) == ("x/a.tar", "val")
    assert members(to, row)["mp4"] == mp4
    (to / "x" / "a.tar").unlink()
    shutil.copy(folder / "x" / "a.tar", to / "x" / "a.tar")
    with pytest.raises(UserError, match="is no link to a tar"):
        index_tars(folder, to=to)


def test_val_is_a_share_of_the_videos(tmp_path: Path) -> None:
    clip = film(tmp_path / "small.mp4", 3, (32, 32)).read_bytes()
    folder = tmp_path / "set"
    folder.mkdir()
    urls = [f"http://host/{i // 2}.mp4" for i in range(12)]
    tar = [m for i, url in enumerate(urls) for m in v2d(f"{i:02}", clip, url=url)]
    write(folder / "a.tar", tar)
    index_tars(folder, val=0.5)
    rows = list(rows_of(folder).values())
    for row, url in zip(rows, urls, strict=True):
        place = int(hashlib.md5(f"split:{video_id(url)}".encode()).hexdigest()[:8], 16)
        assert row["split"] == ("val" if place < 2**31 else "train")
    assert {row["split"] for row in rows} == {"train", "val"}


def test_progress_ends_at_all_bytes(mp4, tmp_path: Path) -> None:
    write(tmp_path / "a.tar", v2d("a", mp4) + v2d("b", mp4))
    write(tmp_path / "b.tar", v2d("c", mp4))
    told: list[tuple[int, int, int]] = []
    index_tars(tmp_path, progress=lambda *now: told.append(now))
    size = sum(p.stat().st_size for p in tmp_path.glob("*.tar"))
    assert told[-1] == (size, size, 3)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_refusals(mp4, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tars"):
        index_tars(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        index_tars(tmp_path / "none")
    tar = write(tmp_path / "a.tar", v2d("a", mp4))
    with pytest.raises(UserError, match="is a file: name its folder"):
        index_tars(tar)
    with pytest.raises(UserError, match="only local paths"):
        index_tars("s3://bucket/set")
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"is damaged .* --force replaces it"):
        index_tars(tmp_path)
    assert index_tars(tmp_path, force=True).samples == 1
    os.utime(tar)
    (tmp_path / "none").mkdir()
    write(tmp_path / "none" / "b.tar", [("b.jpg", b"")])
    with pytest.raises(UserError, match=r"no sample .*b\.tar#b: a sample without a video"):
        index_tars(tmp_path / "none")


def test_an_index_that_is_replaced_removes_nothing_elsewhere(mp4, tmp_path: Path) -> None:
    """An index.json that came with the tars names a file of the user as its own."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "a.tar", [("a.mp4", mp4)])
    index_tars(folder)
    own = tmp_path / "own.parquet"
    own.touch()
    hostile = index_of(folder) | {"index": ["../own.parquet"]}
    (folder / "index.json").write_text(json.dumps(hostile))
    with pytest.raises(UserError, match=r"leads out of the folder.* --force replaces it"):
        index_tars(folder)
    assert index_tars(folder, force=True).samples == 1
    assert own.exists()


def test_an_index_in_a_folder_of_the_tars_is_the_same_again(mp4, tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [("a.mp4", mp4), ("a.cam2.mp4", mp4)])
    first = index_tars(tmp_path, to=tmp_path / "index of mine")
    assert (first.samples, first.renamed) == (1, 0)
    assert index_tars(tmp_path, to=tmp_path / "index of mine") == first
    write(tmp_path / "a.tar", [("a.mp4", mp4), ("b.cam1.mp4", mp4), ("b.cam2.mp4", mp4)])
    shutil.rmtree(tmp_path / "index of mine")
    report = index_tars(tmp_path, to=tmp_path)  # as without
    assert report.folder == tmp_path
    assert failures(report) == {"a.tar#b": "a sample without a video (it has .cam1.mp4, .cam2.mp4)"}


def test_what_pack_indexes_is_not_indexed_again(packed, tmp_path: Path) -> None:
    """One index over several selections would hold clips twice and hide their own."""
    shutil.copytree(packed, tmp_path / "shards" / "base")
    with pytest.raises(UserError, match=r"shards/base was packed and has its index"):
        index_tars(tmp_path)
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match=r"is a run directory: vidcurate inspect"):
        index_tars(tmp_path)
    (tmp_path / "shards" / "base" / "index.json").unlink()
    (tmp_path / "shards" / "base" / ".work").mkdir()
    with pytest.raises(UserError, match=r"not packed to its end: run vidcurate pack again"):
        index_tars(tmp_path / "shards" / "base")
