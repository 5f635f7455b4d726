from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vidcurate.recipe.model import Recipe
from vidcurate.report.build import build_report
from vidcurate.report.datasets import datasets
from vidcurate.run.record import RunRecord, read_record
from vidcurate.run.tables import Run
from vidcurate.run.tables import open as open_run

from .conftest import Page, commit, read, video_row

READ = {
    "panda": {"clips": 20, "filtered": 3, "excluded": 2, "shared": 0, "faults": 0},
    "web <i>": {"clips": 1100, "filtered": 0, "excluded": 0, "shared": 90, "faults": 1},
}


def fault(place: str, error: str) -> dict[str, object]:
    row = video_row(place)
    return {
        "id": place,
        "stage": "acquire",
        "video_id": row["video_id"],
        "location": place,
        "error": error,
        "message": "not there",
        "attempts": 1,
        "transient": False,
        "payload": "{}",
    }


@pytest.fixture
def of_datasets(tmp_path: Path, recipe: Recipe) -> Run:
    out = tmp_path / "out"
    videos = [
        video_row("a", expected=[("panda", 9), ("web <i>", 1000)]),
        video_row("b", expected=[("panda", 4)], state="failed"),
        video_row("c", expected=[("panda", 2)], state="failed"),
        video_row("d", expected=[("web <i>", 10)], state="failed"),
    ]
    faults = [
        fault(place, error)
        for place, error in (
            ("b", "VideoGoneError"),
            ("c", "ThrottledError"),
            ("d", "OddError"),
        )
    ]
    commit(out, recipe, {"videos": videos, "quarantine": faults})
    record = RunRecord(
        name="two",
        state="done",
        recipe={"source": [{"panda70m": {"id": "panda"}}, {"webvid": {"id": "web <i>"}}]},
        passes={"score": {"sources": READ}},
    )
    record.write(out)
    return open_run(out)


def parts(page: Page) -> list[str | None]:
    return [a["data-part"] for a in page.having("data-part")]


def test_each_source_has_a_bar_that_adds_up(of_datasets: Run, recipe: Recipe) -> None:
    panda, web = datasets(of_datasets, read_record(of_datasets.out))
    assert [(p.title, p.clips) for p in panda.parts] == [
        ("obtained", 9),
        ("removed or not found", 4),
        ("throttled by its host", 2),
        ("left out by where", 3),
        ("left out by exclude", 2),
    ]
    assert sum(p.clips for p in panda.parts) == panda.account.named == 20
    assert [(p.title, p.clips, p.css) for p in web.parts] == [
        ("obtained", 1000, "pass"),
        ("OddError", 10, "broken"),
        ("in an earlier dataset, too", 90, "open"),
    ]
    assert 'width="45.000"' in panda.bar
    page = read(build_report(of_datasets, recipe))
    assert [a["data-source"] for a in page.having("data-source")] == ["panda", "web <i>"]
    assert parts(page) == [p.title for it in (panda, web) for p in it.parts]
    assert "20 named, 15 expected, 60 % obtained" in page.text
    assert "1,100 named, 1,010 expected, 99 % obtained; 1 row cannot be used" in page.text
    assert {"href": "#datasets"} in page.having("href")


def test_what_is_not_read_to_its_end_has_no_sum(of_datasets: Run, recipe: Recipe) -> None:
    record = read_record(of_datasets.out)
    assert record is not None
    replace(record, passes={}).write(of_datasets.out)
    page = read(build_report(of_datasets, recipe))
    assert " named, " not in page.text
    assert "15 expected, 60 % obtained" in page.text


def test_folders_have_no_such_section(of_datasets: Run, recipe: Recipe) -> None:
    record = read_record(of_datasets.out)
    assert record is not None
    replace(record, recipe={"source": {"folder": {"path": "x"}}}).write(of_datasets.out)
    page = read(build_report(of_datasets, recipe))
    assert parts(page) == []
    assert {"href": "#datasets"} not in page.having("href")
