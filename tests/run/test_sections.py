"""Score passes over sections of files: the tables are those of whole files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidcurate.acquire.cache import Cache
from vidcurate.clip import url_key
from vidcurate.media.blocks import BLOCK, open_blocks, write_blocks

CLIPS = ((20.5, 21.0), (21.5, 22.0))
OF_A_TIME = ("retrieved_at", "sha256")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCURATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def score(runs, fault_server, heavy):
    """score("ok", sections=True): the tables of a pass over a film of the fault server."""
    fault_server.files = {"film.mp4": heavy("end.mp4")}
    table = runs.folder / "rows.jsonl"

    def run(path, name="out", sections=True, **more):
        url = fault_server.url(f"/{path}/film.mp4")
        rows = [{"url": url, "start": a, "end": b} for a, b in CLIPS]
        table.write_text("".join(json.dumps(r) + "\n" for r in rows))
        out = runs.folder / name
        runs.score(
            out=out,
            source={"table": {"path": str(table)}},
            split=["timestamps"],
            score=["brightness", "technical"],
            acquire={
                "allow_hosts": [fault_server.host],
                "download": {"sections": sections, "tries": 1},
            },
            **more,
        )
        return runs.tables(out)

    return run


def same(tables):
    return {
        table: [{k: v for k, v in row.items() if k not in OF_A_TIME} for row in rows]
        for table, rows in tables.items()
    }


@pytest.fixture
def cached(fault_server, tmp_path):
    """cached(): the files of the film in the cache, by name."""
    key = url_key(fault_server.url("/ok/film.mp4"))
    folder = Cache(tmp_path / "cache").path(key, "x").parent
    return lambda: {p.name.partition("-")[0]: p for p in folder.iterdir() if p.suffix != ".json"}


def without_clips(path, film):
    """Take the clips' blocks out of a file of sections; what opening and content id read stays."""
    data = film.read_bytes()
    last = len(data) // BLOCK
    left = {n: data[n * BLOCK : (n + 1) * BLOCK] for n in (0, last - 1, last)}
    write_blocks(path, len(data), left, "v")
    meta = path.with_name(f"{path.name}.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"size": path.stat().st_size}))


def test_the_tables_are_those_of_whole_files(score, cached, fault_server, heavy):
    parts = score("ok")
    sent = fault_server.sent.total()
    assert sent < heavy("end.mp4").stat().st_size / 2
    assert set(cached()) == {"sections"}
    [video] = parts["videos"]
    assert (video["state"], video["clips"], video["sha256"]) == ("done", 2, "unknown")
    assert video["retrieved_at"].startswith("20")
    whole = score("ok", "whole", sections=False)
    assert fault_server.sent.total() - sent == heavy("end.mp4").stat().st_size
    assert len(whole["videos"][0]["sha256"]) == 64
    assert same(parts) == same(whole)
    assert parts["quarantine"] == []


def test_a_clip_is_cut_from_sections_as_from_the_whole_file(score, runs, cached):
    clips = {}
    for name, sections, files in (
        ("parts", True, {"sections"}),
        ("whole", False, {"sections", "file"}),
    ):
        tables = score("ok", name, sections=sections, media="clips")
        assert tables["quarantine"] == []
        assert set(cached()) == files
        media = [c["media"] for c in tables["clips"]]
        clips[name] = {m: (runs.folder / name / m).read_bytes() for m in media}
    assert len(clips["parts"]) == 2
    assert clips["parts"] == clips["whole"]


def test_a_missing_section_leads_to_the_whole_file(score, cached, heavy):
    first = score("ok", "first")
    path = cached()["sections"]
    without_clips(path, heavy("end.mp4"))
    parts = score("ok")
    assert open_blocks(path) is not None
    assert set(cached()) == {"sections", "file"}
    [video] = parts["videos"]
    assert len(video["sha256"]) == 64  # of the whole file that it was scored from
    assert same(parts) == same(first)
    assert (video["clips"], parts["quarantine"]) == (2, [])


def test_a_whole_file_that_cannot_be_had_is_a_fault_of_the_video(
    score, cached, fault_server, heavy
):
    score("ok", "first")
    without_clips(cached()["sections"], heavy("end.mp4"))
    del fault_server.files["film.mp4"]  # the server answers nothing
    tables = score("ok")
    [fault] = tables["quarantine"]
    assert (fault["error"], fault["transient"]) == ("TransferError", True)
    assert (tables["videos"][0]["state"], tables["clips"]) == ("failed", [])
