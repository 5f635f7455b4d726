"""What became of the clips of each dataset: real runs, every number checked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import vidcurate
from vidcurate.run import passes
from vidcurate.run.accounts import Account, accounts, has_datasets

NO_FRAMES = "no frames at these times"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCURATE_CACHE", str(tmp_path / "cache"))


def table(runs, name: str, rows: Iterable[dict[str, Any] | str], **more: Any) -> dict[str, Any]:
    """A `table` source of these rows (text stands as it is), under this id."""
    file = runs.folder / f"{name}.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines))
    return {"table": {"id": name, "path": str(file), "base": str(runs.videos), **more}}


def clip(path: str, start: float | None = None, end: float | None = None, **more: Any):
    times = {} if start is None else {"start": start, "end": end}
    return {"path": path, **times, **more}


def run(runs, *sources: dict[str, Any], limit: int | None = None, **sections: Any):
    """Accounts by source after a score pass; those of complete runs must add up."""
    sections = {"split": ["timestamps"], "score": ["technical"], **sections}
    recipe = runs.recipe(source=list(sources), **sections)
    with passes.session(recipe, recipe.output) as work:
        passes.run_score(work, limit=limit)
        with vidcurate.open(work.out) as opened:
            found = accounts(opened, work.record.passes)
    for it in found:
        assert it.expected == it.obtained + sum(it.lost.values())
        if it.named is not None:
            assert it.named - it.filtered - it.excluded - it.shared == it.expected
    return {it.source: it for it in found}


def test_each_clip_of_a_table_comes_to_one_end(runs):
    runs.add("cuts", "zero")
    (runs.folder / "removed.txt").write_text("r-1\n")
    rows = [
        clip("cuts.mp4", 0, 1, score=0.9),
        clip("cuts.mp4", 1, 2, score=0.9),
        clip("cuts.mp4", 1, 2, score=0.9),  # repeats a clip
        clip("cuts.mp4", 90, 91, score=0.9),  # past the end
        clip("cuts.mp4", 2, 3, score=0.1),
        "{broken",
        clip("gone.mp4", 0, 1, score=0.9),
        clip("gone.mp4", 1, 2, score=0.9),
        clip("gone.mp4", 2, 3, score=0.1),
        clip("zero.mp4", 0, 1, score=0.9),
        clip("dull.mp4", 0, 1, score=0.1),
        clip("removed.mp4", 0, 1, score=0.9, id="r-1"),
        clip("removed.mp4", 1, 2, score=0.9, id="r-1"),
    ]
    excluded = {"exclude": [str(runs.folder / "removed.txt")]}
    found = run(runs, table(runs, "t", rows, where={"score": {"min": 0.5}}, **excluded))
    assert found == {
        "t": Account(
            "t",
            named=11,
            filtered=3,
            excluded=2,
            faults=2,
            expected=6,
            lost={"not to be had": 2, "no video": 1, NO_FRAMES: 1},
        )
    }
    assert found["t"].obtained == 2
    assert found["t"].plain["obtained"] == 2
    assert len(runs.tables()["clips"]) == 2


def test_a_clip_of_two_datasets_counts_for_the_first_and_is_summed_once(runs):
    runs.add("cuts")
    first = [clip("cuts.mp4", 0, 1), clip("cuts.mp4", 90, 91), clip("gone.mp4", 0, 1)]
    second = [
        clip("cuts.mp4", 0, 1),
        clip("cuts.mp4", 90, 91),
        clip("cuts.mp4", 1, 2),
        clip("cuts.mp4", 95, 96),
        clip("gone.mp4", 0, 1),
        clip("gone.mp4", 1, 2),
    ]
    sources = table(runs, "a", first), table(runs, "b", second)
    found = run(runs, *sources)
    assert found == {
        "a": Account("a", named=3, expected=3, lost={"not to be had": 1, NO_FRAMES: 1}),
        "b": Account("b", named=6, shared=3, expected=3, lost={"not to be had": 1, NO_FRAMES: 1}),
    }
    assert sum(it.obtained for it in found.values()) == len(runs.tables()["clips"]) == 2
    assert run(runs, *sources) == found  # the next run reads it all again and changes nothing


def test_whole_videos_count_as_one_and_losses_are_told_by_what_the_host_says(
    runs, fault_server, footage
):
    fault_server.files["film.mp4"] = footage("cuts")
    urls = ["/ok/film.mp4", "/status/404/x", "/status/403/x", "/json"]
    rows = [{"url": fault_server.url(path)} for path in urls]
    download = {"allow_hosts": [fault_server.host], "download": {"tries": 1}}
    found = run(
        runs, table(runs, "web", rows), acquire=download, split=[{"fixed": {"length": "1s"}}]
    )
    assert found["web"].named == found["web"].expected == 4
    assert found["web"].lost == {
        "removed or not found": 1,
        "throttled by its host": 1,
        "not to be had": 1,
    }


def test_what_was_named_is_known_once_all_was_read(runs):
    runs.add(a="cuts", b="cuts")
    source = table(runs, "t", [clip("a.mp4", 0, 1), clip("b.mp4", 0, 1), clip("b.mp4", 1, 2)])
    assert run(runs, source, limit=1) == {"t": Account("t", named=None, expected=1)}
    complete = run(runs, source)
    assert complete == {"t": Account("t", named=3, expected=3)}
    assert run(runs, source, limit=1) == complete


def test_rows_of_a_video_may_stand_far_apart(runs):
    runs.add("cuts")
    between = (clip(f"{i}.mp4", 0, 1, score=0) for i in range(1001))
    rows = [clip("cuts.mp4", 0, 1, score=1), *between, clip("cuts.mp4", 1, 2, score=1)]
    found = run(runs, table(runs, "t", rows, where={"score": {"min": 1}}))
    assert found == {"t": Account("t", named=1003, filtered=1001, expected=2)}
    assert runs.tables()["quarantine"] == []


def test_a_video_that_a_grouped_source_names_twice_is_a_fault(runs):
    line = "bbbbbbbbbbb,\"[['0:00:00', '0:00:01']]\",\"['a']\",\"[0.5]\"\n"
    file = runs.folder / "panda.csv"
    file.write_text(f"videoID,timestamp,caption,matching_score\n{line}{line}")
    found = run(runs, {"panda70m": {"metadata": str(file)}}, acquire={"download": False})
    lost = {"not to be had": 1}
    assert found == {"panda70m": Account("panda70m", named=1, faults=1, expected=1, lost=lost)}
    messages = [q["message"] for q in runs.tables()["quarantine"]]
    assert any("named again further on" in message for message in messages)


def test_scattered_rows_are_counted_as_what_they_come_to(runs):
    runs.add(birdsbirds1="cuts")

    def row(start: int, end: int, caption: str, video: str = "birdsbirds1") -> dict[str, Any]:
        times = {"Start_timestamp": f"00:00:0{start}", "End_timestamp": f"00:00:0{end}"}
        return {"YoutubeID": video, **times, "Caption": caption}

    rows = [
        row(0, 1, "one"),
        row(0, 1, "one", "elsewhere-2"),
        row(1, 2, "two"),
        row(0, 1, "one"),  # says the same again
        row(1, 2, "something else"),
        row(2, 1, "backwards"),
    ]
    (runs.folder / "i.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = {"internvid": {"metadata": str(runs.folder / "i.jsonl")}}
    acquire = {"mirror": f"{runs.videos}/{{video_id}}.mp4", "download": False}
    found = run(runs, source, acquire=acquire)
    it = found["internvid"]
    assert (it.named, it.expected, it.obtained, it.faults) == (3, 3, 2, 2)
    assert sum(it.lost.values()) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"folder": {"path": "."}}, False),
        ("folder", False),
        ([{"folder": {}}, {"name": "folder", "id": "b"}], False),
        ([{"folder": {}}, {"table": {"path": "a.csv"}}], True),
        ({"name": "webvid"}, True),
    ],
)
def test_folders_have_nothing_to_account_for(source, expected):
    assert has_datasets({"source": source}) is expected
