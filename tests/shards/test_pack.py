"""Packing: shards, index, growth and shrinkage, resume, failures."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vidcurate.clip import INDEX_SCHEMA
from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.recipe.model import Buckets, Encode, Fit, Limits, Pack
from vidcurate.shards.pack import pack_selection

from .conftest import SPANS, as_table, clip_row, film

LIMITS = Limits(attempts=1)


def pack(rows, folder: Path, how: Pack | None = None, **changes):
    changes = {"workers": 1, "limits": LIMITS, **changes}
    return pack_selection(as_table(rows), how or Pack(), folder, **changes)


def index_rows(folder: Path) -> list[dict]:
    names = json.loads((folder / "index.json").read_text())["index"]
    return [row for name in names for row in pq.read_table(folder / name).to_pylist()]


def lumas(data: io.BytesIO | str) -> list[np.ndarray]:
    with av.open(data) as container:
        return [f.to_ndarray()[: f.height].copy() for f in container.decode(video=0)]


@pytest.fixture(scope="module")
def made(made_films, tmp_path_factory):
    """Four clips of each of two films, their shards, its report and progress; never write to it."""
    rows = [clip_row(path, *span) for path in made_films for span in SPANS]
    out = tmp_path_factory.mktemp("pack") / "base"
    seen = []
    report = pack(rows, out, progress=lambda done, total: seen.append((done, total)))
    return rows, out, report, seen


def test_samples_are_the_sources_frames(made) -> None:
    rows, out, report, seen = made
    assert (report.samples, report.shards, report.copied, report.encoded) == (8, 1, 8, 0)
    assert report.buckets == {"native": 8}
    assert report.failures == report.no_bucket == ()
    assert sorted(seen) == [(i, 8) for i in range(1, 9)]
    found = index_rows(out)
    assert pq.read_schema(out / json.loads((out / "index.json").read_text())["index"][0]).equals(
        INDEX_SCHEMA
    )
    by_id = {row["clip_id"]: row for row in rows}
    frames = {path: lumas(path) for path in {row["path"] for row in rows}}
    for row in found:
        source = by_id[row["clip_id"]]
        first = source["start_pts"] // 512
        data = (out / row["shard"]).read_bytes()
        members = {m["name"]: data[m["offset"] :][: m["size"]] for m in row["members"]}
        ours = lumas(io.BytesIO(members["mp4"]))
        theirs = frames[source["path"]][first : first + source["n_frames"]]
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert row["n_frames"] == source["n_frames"]
        assert row["preroll_frames"] == first % 24
        assert (row["fps_num"], row["fps_den"], row["vfr"]) == (30, 1, False)
        assert (row["width"], row["height"], row["bucket_width"]) == (96, 64, None)
        assert row["has_audio"]
        assert row["duration_s"] == pytest.approx(source["n_frames"] / 30)
        about = json.loads(members["json"])
        assert about["location"] == source["location"]
        assert about["captions"] == {"b": "c", "long": "a texture"}
        assert about["scores"] == {"broken": None, "motion": 0.5}
        assert members["txt"].decode() == source["caption_source"]
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_tars_are_webdataset(made) -> None:
    rows, out, *_ = made
    (path,) = out.glob("native/*.tar")
    with tarfile.open(path) as tar:
        names = tar.getnames()
    keys = [name.split(".")[0] for name in names]
    assert [name.split(".")[1] for name in names] == ["mp4", "json", "txt"] * 8
    assert keys[::3] == keys[1::3] == keys[2::3]
    assert sorted(keys[::3]) == sorted(row["clip_id"] for row in rows)


def test_same_selection_same_bytes(rows, tmp_path: Path, tree) -> None:
    how = Pack(shard_size=60_000)
    one = pack(rows, tmp_path / "one" / "base", how)
    pack(rows[::-1], tmp_path / "two" / "base", how, workers=2)
    assert one.shards > 1
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_again_does_nothing(made, tmp_path: Path) -> None:
    rows, out, report, _ = made
    folder = Path(shutil.copytree(out, tmp_path / "base"))
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    gone = [row | {"path": "/nowhere"} for row in rows]  # not even the sources are needed
    assert pack(gone, folder) == replace(report, added=0, folder=folder)
    assert times == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_broken_source_loses_its_clips_only(rows, films, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all")
    gone = tmp_path / "gone.mp4"
    bad = [clip_row(path, *span) for path in (text, gone) for span in ((0, 5), (5, 9))]
    wrong = clip_row(films[0], 40, 50, n_frames=11)
    report = pack([*rows, *bad, wrong], tmp_path / "base")
    assert report.samples == 8
    errors = {f.clip_id: (type(f.error).__name__, str(f.error)) for f in report.failures}
    assert set(errors) == {row["clip_id"] for row in (*bad, wrong)}
    assert [errors[row["clip_id"]][0] for row in bad] == ["RefusedMediaError"] * 2 + [
        "AcquireError"
    ] * 2
    assert "11 frames by the clip table, but 10 decode" in errors[wrong["clip_id"]][1]
    again = pack([*rows, *bad, wrong], tmp_path / "base")
    assert {f.clip_id: str(f.error) for f in again.failures} == {
        name: text for name, (_, text) in errors.items()
    }


def test_buckets_as_labels_and_as_sizes(tmp_path: Path) -> None:
    path = film(tmp_path / "wide.mp4", 5, (144, 80))
    rows = [clip_row(path, *span, width=144, height=80) for span in ((0, 4), (4, 30), (30, 60))]
    rows.append(
        clip_row(
            path, 10, 40, width=60, height=80, crop={"x": 20, "y": 0, "width": 60, "height": 80}
        )
    )
    buckets = Buckets(short_side=(64, 80), aspect=("16:9", "1:1"), frames=(5, 25))
    label = Pack(buckets=buckets, fit=Fit(no_bucket="report"))
    report = pack(rows, tmp_path / "label", label)
    assert report.buckets == {"80p_16x9_25f": 2}  # 128x80 out of 144x80
    assert set(report.no_bucket) == {rows[0]["clip_id"], rows[3]["clip_id"]}
    assert {(r["width"], r["height"]) for r in index_rows(tmp_path / "label")} == {(144, 80)}
    assert (report.copied, report.encoded) == (2, 0)

    sized = Pack(buckets=buckets, encode=Encode(preset="ultrafast"))
    report = pack(rows, tmp_path / "sized", sized)
    assert report.buckets == {"80p_16x9_25f": 2, "native": 2}
    sizes = {r["clip_id"]: (r["width"], r["height"]) for r in index_rows(tmp_path / "sized")}
    assert [sizes[row["clip_id"]] for row in rows] == [(144, 80), *[(128, 80)] * 2, (60, 80)]
    assert (report.copied, report.encoded) == (1, 3)
    for row in index_rows(tmp_path / "sized"):
        (mp4,) = [m for m in row["members"] if m["name"] == "mp4"]
        data = (tmp_path / "sized" / row["shard"]).read_bytes()
        frames = lumas(io.BytesIO(data[mp4["offset"] :][: mp4["size"]]))
        assert len(frames) == row["n_frames"]
        assert frames[0].shape == (row["height"], row["width"])


def test_resize_and_media_of_the_clip(films, tmp_path: Path) -> None:
    """A clip that was cut before is packed from its own file; an editor's size is written."""
    from vidcurate.media.cut import cut_clip
    from vidcurate.media.probe import probe

    info = probe(films[0], max_pixels=10**7, max_duration=1e4)
    row = clip_row(films[0], 13, 41)
    media = tmp_path / "media.mp4"
    cut_clip(info, row["start_pts"], row["end_pts"], 28, media, audio=True)
    stored = {**row, "media": "media/x.mp4", "path": str(media)}
    small = clip_row(films[0], 5, 30, out_width=48, out_height=32)
    report = pack([stored, small], tmp_path / "base")
    assert (report.copied, report.encoded, report.failures) == (1, 1, ())
    sizes = {r["clip_id"]: (r["width"], r["n_frames"]) for r in index_rows(tmp_path / "base")}
    assert sizes == {row["clip_id"]: (96, 28), small["clip_id"]: (48, 25)}


def test_nothing_to_pack(tmp_path: Path) -> None:
    report = pack([], tmp_path / "base")
    assert (report.samples, report.shards) == (0, 0)
    assert index_rows(tmp_path / "base") == []


def test_refusals(rows, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="preset 'warp'"):
        pack(rows, tmp_path / "base", Pack(encode=Encode(preset="warp")))
    (tmp_path / "base").mkdir(exist_ok=True)
    (tmp_path / "base" / "index.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        pack(rows, tmp_path / "base")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        pack(rows, tmp_path / "file" / "base")


def test_captions_and_scores_change_the_index_alone(made, tmp_path: Path, tree) -> None:
    rows = made[0]
    out = Path(shutil.copytree(made[1], tmp_path / "base"))
    before, old = tree(out), json.loads((out / "index.json").read_text())
    tars = {p: p.stat().st_mtime_ns for p in out.glob("*/*.tar")}
    said = [
        row | {"captions": [("long", f"words {i}")], "scores": [("motion", i / 2)]}
        for i, row in enumerate(rows)
    ]
    # No path is needed: sources may be gone.
    report = pack([r | {"path": None} for r in said], out)
    assert (report.samples, report.digest, report.added) == (8, old["digest"], 0)
    new = json.loads((out / "index.json").read_text())
    assert {k for k in old if old[k] != new[k]} == {"columns", "index"}
    after = tree(out)
    assert set(before) ^ set(after) == {*old["index"], *new["index"]}
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*.tar")} == tars
    assert all(after[name] == before[name] for name in before if name.endswith(".tar"))
    expected = {row["clip_id"]: row for row in said}
    for row in index_rows(out):
        assert row["captions"] == expected[row["clip_id"]]["captions"]
        assert row["scores"] == expected[row["clip_id"]]["scores"]
    # Again: nothing is written.
    pack(said, out)
    assert tree(out) == after
