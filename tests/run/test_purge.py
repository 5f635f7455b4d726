"""Purging videos and clips from a finished run, also when the purge is killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fault_server import FaultServer
from typer.testing import CliRunner

import vidcurate
from vidcurate.cli.main import app
from vidcurate.clip import PURGED_SCHEMA
from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.run.commit import Committer
from vidcurate.run.lease import Lease
from vidcurate.run.manifest import KEYS, write_part
from vidcurate.run.purge import PurgeReport, purge

RECIPE = """\
name: tiny
source: {table: {path: TABLE}}
acquire: {allow_hosts: ["HOST"]}
split: [timestamps: {}]
score:
  - technical
  - brightness: {mean: {min: 0}}
media: clips
select:
  base: {}
  one: {per_video: 1}
pack: {}
output: OUT
"""
FILM = 2  # clips of the film
CLIPS = 6


@dataclass
class Made:
    """A finished run: two local films of two clips, a downloaded one, one that fails."""

    out: Path
    cache: Path
    url: str

    def rows(self, query: str) -> list[dict[str, Any]]:
        with vidcurate.open(self.out) as run:
            return run.sql(query).to_pylist()

    def purge(self, *ids: str, **options: Any) -> PurgeReport:
        with Lease(self.out) as lease:
            return purge(lease, ids, cache=self.cache, **options)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        with vidcurate.open(self.out) as run:
            found = {table: run.table(table).to_pylist() for table in KEYS}
        return {t: sorted(rows, key=lambda r, t=t: r[KEYS[t]]) for t, rows in found.items()}

    def samples(self, selection: str) -> dict[str, str]:
        """Clip -> sha256 of its .mp4 in the shards, read at the places of the index."""
        folder = self.out / "shards" / selection
        found = {}
        for row in self.rows(f"SELECT * FROM index WHERE selection = '{selection}'"):
            member = next(m for m in row["members"] if m["name"] == "mp4")
            data = (folder / row["shard"]).read_bytes()[member["offset"] :][: member["size"]]
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
            found[row["clip_id"]] = row["sha256"]
        return found

    def state(self) -> dict[str, Any]:
        """All that a purge may change, but for names of parts and what a kill may leave open."""
        shards = {
            p.relative_to(self.out).as_posix(): p.read_bytes()
            for p in (self.out / "shards").rglob("*")
            if p.is_file() and p.name != "index.json"
        }
        return {
            **self.tables(),
            "shards": shards,
            "media": sorted(p.name for p in (self.out / "media").rglob("*.mp4")),
            "cache": sorted(p for p in self.cache.rglob("*") if p.is_file()),
            "selections": {
                p.parent.name: pq.read_table(p).to_pylist()
                for p in (self.out / "selections").glob("*/clips.parquet")
            },
            "counts": {
                p.parent.name: yaml.safe_load(p.read_text())["counts"]
                for p in (self.out / "selections").glob("*/selection.yaml")
            },
        }


@pytest.fixture(scope="module")
def whole(footage, tmp_path_factory):
    root = tmp_path_factory.mktemp("purge")
    out = root / "out"
    shutil.copy(footage("odd_size"), root / "odd.mp4")
    shutil.copy(footage("static"), root / "still.mp4")
    shutil.copy(footage("zero"), root / "zero.mp4")
    with FaultServer({"film.mp4": footage("pan_8px")}) as server:
        url = server.url("/ok/film.mp4")
        table = [
            "path,id,caption,start,end",
            "odd.mp4,o1,first of odd,0,0.5",
            "odd.mp4,o1,second of odd,0.5,1",
            "still.mp4,s1,first of still,0,0.5",
            "still.mp4,s1,second of still,0.5,1",
            f"{url},f1,first of film,0,0.5",
            f"{url},f1,second of film,0.5,1",
            f"{url},f1,film backwards,3,1",
            "zero.mp4,z1,nothing of zero,0,1",
        ]
        (root / "table.csv").write_text("\n".join(table) + "\n")
        recipe = RECIPE.replace("HOST", server.host).replace("TABLE", str(root / "table.csv"))
        (root / "tiny.yaml").write_text(recipe.replace("OUT", str(out)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIDCURATE_CACHE", str(root / "cache"))
            pack = ("pack", out, "--selection", "base")
            for command in (("score", root / "tiny.yaml"), ("select", out), pack):
                result = CliRunner().invoke(app, [str(word) for word in command])
                assert result.exit_code == 0, result.output
    made = Made(out, root / "cache", url)
    # Tables that no pass of this recipe writes.
    ids = [row["clip_id"] for row in made.tables()["clips"]]
    with Lease(made.out) as lease:
        extra = {
            table: [write_part(made.out, table, pa.table({"clip_id": ids, column: texts}))]
            for table, column, texts in (
                ("vectors", "embedding", [[0.5]] * CLIPS),
                ("groups", "duplicates", list(range(CLIPS))),
                ("annotations", "clip_score", [0.25] * CLIPS),
            )
        }
        Committer(lease).commit("annotate", extra)
    return made


@pytest.fixture
def made(whole, tmp_path):
    """A copy of the run and its cache: the test may change it."""
    out = Path(shutil.copytree(whole.out, tmp_path / "out"))
    return Made(out, Path(shutil.copytree(whole.cache, tmp_path / "cache")), whole.url)


def texts(folder: Path) -> set[str]:
    """All text in the Parquet files of a folder but that of the purged ids."""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list | tuple):
            for inside in value.values() if isinstance(value, dict) else value:
                yield from walk(inside)

    files = [p for p in folder.rglob("*.parquet") if p.parent.name not in ("purged", "manifests")]
    return {text for file in files for text in walk(pq.read_table(file).to_pylist())}


def test_a_video_leaves_all_places(made):
    for name in ("report.html", "report.html.tmp"):
        (made.out / name).write_text(f"pictures of {made.url}")
    before = made.tables()
    assert (len(before["clips"]), len(before["videos"]), len(before["quarantine"])) == (6, 4, 2)
    samples = made.samples("base")
    assert len(samples) == CLIPS
    film = next(v for v in before["videos"] if v["dataset_id"] == "f1")
    gone = {c["clip_id"] for c in before["clips"] if c["video_id"] == film["video_id"]}
    assert "film backwards" in str(texts(made.out))
    assert "first of film" in texts(made.out)

    done = made.purge(made.url)
    assert (done.videos, done.clips, done.quarantine, done.unknown) == (1, FILM, 1, ())
    assert (done.media, done.downloads, done.report) == (FILM, 1, "rebuilt")
    assert done.selections == {"base": FILM, "one": FILM}
    assert done.samples == {"base": FILM}
    assert {name: len(paths) for name, paths in done.shards.items()} == {"base": 1}
    assert done.bytes > 0

    after = made.tables()
    for table, key in KEYS.items():
        if table not in ("purged", "quarantine"):
            dead = gone | {film["video_id"]}
            assert after[table] == [row for row in before[table] if row[key] not in dead], table
    assert [row["stage"] for row in after["quarantine"]] != ["source"]
    assert {p["id"]: p["kind"] for p in after["purged"]} == {
        film["video_id"]: "video",
        **dict.fromkeys(gone, "clip"),
    }
    assert {p["source_key"] for p in after["purged"]} == {made.url}
    assert sorted((p["start"], p["end"]) for p in after["purged"] if p["kind"] == "clip") == sorted(
        (c["start"], c["end"]) for c in before["clips"] if c["clip_id"] in gone
    )
    assert made.samples("base") == {i: s for i, s in samples.items() if i not in gone}
    assert {p.stem for p in made.out.glob("media/*/*")} == {c["clip_id"] for c in after["clips"]}
    assert not [p for p in made.cache.rglob("*") if p.is_file()]
    left = texts(made.out)
    assert not [t for t in left if made.url in t or "film" in t or t in gone]
    assert not (made.out / "report.html.tmp").exists()
    page = (made.out / "report.html").read_text()
    assert made.url not in page
    assert "</html>" in page
    with vidcurate.open(made.out) as run:
        assert run.table("purged").schema.equals(PURGED_SCHEMA)


def test_a_clip_goes_alone_and_is_counted_no_more(made):
    before = made.tables()
    one = next(c for c in before["clips"] if c["caption_source"] == "first of odd")
    done = made.purge(one["clip_id"])
    assert (done.videos, done.clips, done.media, done.downloads) == (0, 1, 1, 0)
    after = made.tables()
    assert after["videos"] == before["videos"]
    assert after["quarantine"] == before["quarantine"]
    assert [p["id"] for p in after["purged"]] == [one["clip_id"]]
    counts = yaml.safe_load((made.out / "selections" / "base" / "selection.yaml").read_text())
    assert counts["counts"] == {
        **{
            "clips": 5,
            "kept": 5,
            "dropped": [],
            "failed": 0,
            "unjudged": 0,
            "nulls": dict.fromkeys(counts["counts"]["nulls"], 0),
        },
        "hours": pytest.approx(2.5 / 3600),
        **{s: counts["counts"][s] for s in ("train", "val")},
    }
    assert counts["counts"]["train"] + counts["counts"]["val"] == 5
    record = json.loads((made.out / "run.json").read_text())
    assert record["state"] == "done"
    assert record["passes"]["select"]["selections"]["base"]["kept"] == 5
    index = json.loads((made.out / "shards" / "base" / "index.json").read_text())
    packed = record["passes"]["pack"]["selections"]["base"]
    assert (packed["samples"], packed["digest"]) == (5, index["digest"])
    # A purge of the video takes what is left of it.
    rest = made.purge(one["video_id"])
    assert (rest.videos, rest.clips) == (1, 1)
    assert len(made.tables()["purged"]) == 3


def test_pack_has_nothing_to_do_afterwards(made):
    made.purge("f1")
    before = made.state()
    index = (made.out / "shards" / "base" / "index.json").read_bytes()
    shutil.rmtree(made.out / "media")  # it would fail, should it want to cut
    result = CliRunner().invoke(app, ["pack", str(made.out), "--selection", "base"])
    assert result.exit_code == 0, result.output
    assert made.state()["shards"] == before["shards"]
    assert (made.out / "shards" / "base" / "index.json").read_bytes() == index


@pytest.mark.parametrize(
    ("spelling", "clips"),
    [
        ("{clip_id}", 1),
        ("{video_id}", FILM),
        ("f1", FILM),
        ("{source_key}", FILM),
        ("{location}", FILM),
        ("{location}#t=1", FILM),
        ("HTTP://{host}/ok/film.mp4", FILM),
    ],
)
def test_ways_to_name_what_is_meant(whole, spelling, clips):
    (row,) = whole.rows(
        "SELECT c.clip_id, v.video_id, v.source_key, v.location FROM clips c "
        "JOIN videos v USING (video_id) WHERE c.dataset_id = 'f1' AND c.start < 0.1"
    )
    host = row["location"].split("/")[2]
    done = whole.purge(spelling.format(**row, host=host), "who?", dry_run=True)
    assert (done.clips, done.videos, done.unknown) == (clips, int(clips > 1), ("who?",))
    assert done.media == clips
    assert done.downloads == int(clips > 1)
    assert done.selections == {"base": clips, "one": clips}
    assert done.samples["base"] == clips
    assert done.bytes > 0


def test_a_failed_video_is_remembered_and_leaves_the_quarantine(made):
    (fault,) = made.rows("SELECT * FROM quarantine WHERE location LIKE '%zero.mp4'")
    assert "nothing of zero" in fault["payload"]
    done = made.purge(fault["location"])
    assert (done.videos, done.clips, done.quarantine) == (1, 0, 1)
    assert not [t for t in texts(made.out) if "zero" in t]
    (row,) = made.tables()["purged"]
    assert (row["kind"], row["location"]) == ("video", fault["location"])
    assert row["source_key"] is not None


def test_a_video_that_only_a_faulty_row_names_is_remembered(made):
    made.purge("f1")
    url = "https://www.youtube.com/watch?v=abcdefghijk"
    payload = {"where": "t.csv:7", "url": "https://youtu.be/abcdefghijk", "caption": "of a dog"}
    row = dict.fromkeys(f.name for f in vidcurate.clip.QUARANTINE_SCHEMA) | {
        **{"id": "q", "stage": "source", "error": "RowError", "message": "no", "attempts": 1},
        **{"transient": False, "payload": json.dumps(payload)},
    }
    data = pa.Table.from_pylist([row], vidcurate.clip.QUARANTINE_SCHEMA)
    with Lease(made.out) as lease:
        part = write_part(made.out, "quarantine", data)
        Committer(lease).commit("score", {"quarantine": [part]})
    done = made.purge(url)
    assert (done.videos, done.quarantine, done.unknown) == (0, 1, ())
    assert "of a dog" not in str(texts(made.out))
    keys = {p["source_key"] for p in made.tables()["purged"]}
    assert keys == {made.url, "youtube:abcdefghijk"}


def test_unknown_ids_change_nothing(made):
    before = made.state(), sorted(made.out.rglob("*"))
    assert made.purge("f1", "s1", dry_run=True).clips == 4  # nor does a dry run
    with pytest.raises(UserError, match=r"none of the 2 ids is known .*\(a, b\).*`exclude`"):
        made.purge("a", "b", "a")
    assert (made.state(), sorted(made.out.rglob("*"))) == before


def test_the_same_bytes_elsewhere_are_told(made):
    with vidcurate.open(made.out) as run:
        video = run.table("videos", where="dataset_id = 'o1'").drop_columns("duplicate_of")
        copy = video.to_pylist()[0] | {"video_id": "f" * 32, "source_key": "https://x.y/z"}
    with Lease(made.out) as lease:
        part = write_part(made.out, "videos", pa.Table.from_pylist([copy], video.schema))
        Committer(lease).commit("score", {"videos": [part]})
    assert made.purge("o1", dry_run=True).copies == ()  # the id is that of both
    (key,) = (
        {v["source_key"] for v in made.tables()["videos"]}
        - {copy["source_key"]}
        - {v["source_key"] for v in made.tables()["videos"] if v["dataset_id"] != "o1"}
    )
    assert made.purge(key, dry_run=True).copies == ("https://x.y/z",)


def test_a_recipe_that_is_broken_does_not_stand_in_the_way(made):
    (made.out / "report.html").write_text("pictures")
    record = json.loads((made.out / "run.json").read_text())
    record["recipe"]["score"] = ["no_such_thing"]
    (made.out / "run.json").write_text(json.dumps(record))
    done = made.purge("f1")
    assert done.report.startswith("removed: ")
    assert "no_such_thing" in done.report
    assert not (made.out / "report.html").exists()
    assert len(made.samples("base")) == 4


def test_a_damaged_shard_is_told_when_all_else_is_done(made):
    (shard,) = made.purge("f1", dry_run=True).shards["base"]
    os.truncate(made.out / "shards" / "base" / shard, 100)
    with pytest.raises(RunDirectoryError, match=r"is damaged .* pack again"):
        made.purge("f1")
    assert len(made.tables()["clips"]) == 4
    assert len(list(made.out.glob("media/*/*"))) == 4
    shutil.rmtree(made.out / "shards" / "base")
    made.purge("f1")


# Ends the process for good where a step begins.
KILLED = """
import os, signal, sys
from pathlib import Path
from vidcurate.run import purge
from vidcurate.run.lease import Lease

out, cache, name = sys.argv[1:]
real = getattr(purge, name)

def dies(*arguments, **options):
    if name == "_drop_rows":
        real(*arguments, **options)  # in the middle: the counts are still those before
    os.kill(os.getpid(), signal.SIGKILL)

setattr(purge, name, dies)
with Lease(out) as lease:
    purge.purge(lease, ["f1", "z1"], cache=Path(cache))
"""


def test_killed_again_and_again_the_run_is_valid_and_the_next_purge_ends_it(made, whole, tmp_path):
    shutil.copytree(whole.out, tmp_path / "whole")
    shutil.copytree(whole.cache, tmp_path / "whole-cache")
    undisturbed = Made(tmp_path / "whole", tmp_path / "whole-cache", whole.url)
    assert undisturbed.purge("f1", "z1").report is None
    end = undisturbed.state()
    for step in ("compact", "_drop_rows", "purge_shards"):
        command = [sys.executable, "-c", KILLED, made.out, made.cache, step]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        # From the first commit on the film is gone for every reader.
        assert made.tables() == {table: end[table] for table in KEYS}
        assert len(made.samples("base")) == CLIPS  # the index names only bytes that are there
    done = made.purge("f1")
    assert (done.clips, done.videos, done.unknown) == (0, 0, ())
    assert made.state() == end
    assert not [t for t in texts(made.out) if "film" in t]


# --------------------------------------------------------------------------- runs after a purge


def test_what_was_purged_never_comes_back(runs):
    """Not by a run that goes on, not by another splitter, not by --fresh."""
    runs.add(a="cuts", b="odd_size")
    runs.score()
    clips = {(c["dataset_id"], c["start"]): c for c in runs.tables()["clips"]}
    with Lease(runs.out) as lease:
        gone = [clips["a.mp4", 1.0]["clip_id"], clips["b.mp4", 0.0]["video_id"]]
        purge(lease, gone, cache=runs.folder / "cache")
    left = {(c["dataset_id"], c["start"]) for c in runs.tables()["clips"]}
    assert left == {key for key in clips if key[0] == "a.mp4" and key[1] != 1.0}
    for change in ({}, {"fresh": True}):
        runs.score(**change)
        assert {(c["dataset_id"], c["start"]) for c in runs.tables()["clips"]} == left
    # Pieces of 0.8 s have other ids: those that touch the purged second are not made either.
    runs.score(split=[{"fixed": {"length": "800ms"}}])
    times = sorted((c["start"], c["end"]) for c in runs.tables()["clips"])
    assert len(times) > 2
    assert all(end <= 1.0 or start >= 2.0 for start, end in times)
