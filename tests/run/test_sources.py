"""Score passes over datasets: several sources, downloads ahead, metadata that grows."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from vidcurate.acquire.fetch import Fetched, Fetcher, cache_key
from vidcurate.acquire.limits import HostLimits
from vidcurate.errors import AcquireError, StorageError
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire
from vidcurate.run import inline, passes, worker
from vidcurate.run.prefetch import prefetched
from vidcurate.run.score import Retry
from vidcurate.run.tasks import Task


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDCURATE_CACHE", str(tmp_path / "cache"))


def write(file: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A `table` source of these rows, under the file's name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"table": {"id": file.stem, "path": str(file)}}


def downloads(server: Any, name: str) -> int:
    return sum(path.endswith(name) for path, _ in server.seen)


@pytest.fixture
def web(fault_server, footage):
    """Sections of a recipe over the fault server, which has a film of 4 s."""
    fault_server.files["film.mp4"] = footage("cuts")
    return {
        "split": ["timestamps"],
        "acquire": {
            "allow_hosts": [fault_server.host],
            "download": {"tries": 1},
        },
    }


# --------------------------------------------------------------------------- several datasets


def test_what_two_datasets_name_is_downloaded_once(runs, web, fault_server):
    url = fault_server.url("/ok/film.mp4")
    first = [
        {"url": url, "start": 0, "end": 1, "caption": "one", "score": 0.5, "id": "a-1"},
        {"url": url, "start": 1, "end": 2, "caption": "two", "score": 0.6, "id": "a-2"},
    ]
    second = [
        {"url": url + "#t=1", "start": 1, "end": 2, "caption": "zwei", "views": 7},
        {"url": url + "#t=2", "start": 0.5, "end": 1.5, "caption": "halb", "views": 8},
    ]
    source = [write(runs.folder / "a.jsonl", first), write(runs.folder / "b.jsonl", second)]
    result = runs.score(source=source, **web)
    assert downloads(fault_server, "film.mp4") == 1
    [video] = runs.tables()["videos"]
    assert dict(video["expected"]) == {"a": 2, "b": 1}
    assert (video["source"], video["dataset_id"], video["clips"]) == ("a", "a-1", 3)
    clips = sorted(runs.tables()["clips"], key=lambda c: c["start"])
    assert [(c["source"], c["caption_source"], c["score"], c["views"]) for c in clips] == [
        ("a", "one", 0.5, None),
        ("b", "halb", None, 8),
        ("a", "two", 0.6, 7),
    ]
    [(name, says)] = clips[2]["also"]
    assert (name, json.loads(says)["caption"]) == ("b", "zwei")
    assert runs.tables()["quarantine"] == []
    assert result.sources["b"].shared == 1
    # The same again has nothing to do, and asks nobody.
    assert runs.score(source=source, **web).skipped == 1
    assert downloads(fault_server, "film.mp4") == 1


# --------------------------------------------------------------------------- metadata that changes


@pytest.mark.parametrize("at_a_time", [1, 1000])
def test_clips_that_the_metadata_names_later_are_scored_and_old_ones_stay(
    runs, web, fault_server, monkeypatch, at_a_time
):
    monkeypatch.setattr("vidcurate.run.score._LOOK_UP", at_a_time)
    url = fault_server.url("/ok/film.mp4")
    rows = [{"url": url, "start": 0, "end": 1, "score": 1.0}]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, **web)
    rows += [{"url": url, "start": 2, "end": 3, "score": 2.0}]
    write(runs.folder / "a.jsonl", rows)
    assert runs.score(source=source, **web).stats.clips == 2
    assert sorted(c["start"] for c in runs.tables()["clips"]) == [0, 2]
    write(runs.folder / "a.jsonl", rows[1:])
    assert runs.score(source=source, **web).skipped == 1
    assert len(runs.tables()["clips"]) == 2


def test_where_that_came_later_drops_in_select(runs, web, select, fault_server):
    url = fault_server.url("/ok/film.mp4")
    rows = [
        {"url": url, "start": i, "end": i + 1, "score": s} for i, s in enumerate((0.4, 0.5, None))
    ]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, **web)
    source["table"]["where"] = {"score": {"min": 0.45}}
    assert runs.score(source=source, **web).stats.videos == 0
    report = select(source=source, **web)
    assert report.kept == 1
    assert report.dropped == {("a", "score < 0.45"): 1, ("a", "score is null"): 1}


def test_where_on_clips_says_nothing_of_scenes_that_are_our_own(runs, web, select, fault_server):
    rows = [{"url": fault_server.url("/ok/film.mp4"), "start": 0, "end": 1, "score": 0.9}]
    source = write(runs.folder / "a.jsonl", rows)
    source["table"]["where"] = {"score": {"min": 0.5}}
    web["split"] = [{"fixed": {"length": "1s"}}]
    clips = runs.score(source=source, **web).stats.clips
    assert select(source=source, **web).kept == clips > 1


@pytest.mark.parametrize("line", ["a-1", "{url}", "{video_id}", "{clip_id}"])
def test_a_list_that_came_later_drops_in_select(runs, web, select, fault_server, line):
    url = fault_server.url("/ok/film.mp4")
    rows = [{"url": url, "start": 0, "end": 1, "id": "a-1"}]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, **web)
    [clip] = runs.tables()["clips"]
    (runs.folder / "gone.txt").write_text(line.format(url=url, **clip))
    source["table"]["exclude"] = [str(runs.folder / "gone.txt")]
    runs.score(source=source, **web)
    report = select(source=source, **web)
    assert report.dropped == {("a", "excluded"): 1}


def test_new_clips_and_a_new_step_come_in_one_run(runs, web, fault_server):
    url = fault_server.url("/ok/film.mp4")
    rows = [{"url": url, "start": 0, "end": 1}]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, score=["technical"], **web)
    write(runs.folder / "a.jsonl", [*rows, {"url": url, "start": 2, "end": 3}])
    runs.score(source=source, **web)
    clips = runs.tables()["clips"]
    assert sorted(c["start"] for c in clips) == [0, 2]
    assert all(c["brightness_mean"] is not None for c in clips)
    assert runs.score(source=source, **web).stats.videos == 0


def test_one_file_at_two_places_is_one_video(runs):
    sources = []
    for name in ("a", "b"):
        (runs.folder / name).mkdir()
        (runs.folder / name / "film.mp4").write_bytes(runs.footage("cuts").read_bytes())
        sources.append({"folder": {"id": name, "path": str(runs.folder / name)}})
    runs.score(source=sources)
    clips = [c["clip_id"] for c in runs.tables()["clips"]]
    assert len(runs.tables()["videos"]) == 1
    assert len(set(clips)) == len(clips) > 1


def test_a_clip_can_be_excluded_by_our_own_id(runs, web, fault_server):
    url = fault_server.url("/ok/film.mp4")
    rows = [{"url": url, "start": i, "end": i + 1} for i in range(3)]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, **web)
    gone = next(c["clip_id"] for c in runs.tables()["clips"] if c["start"] == 1)
    (runs.folder / "gone.txt").write_text(gone)
    source["table"]["exclude"] = [str(runs.folder / "gone.txt")]
    runs.score(source=source, fresh=True, **web)
    assert sorted(c["start"] for c in runs.tables()["clips"]) == [0, 2]
    assert runs.tables()["quarantine"] == []


# --------------------------------------------------------------------------- downloads


def test_a_transient_failure_is_retried_and_a_permanent_one_is_not(runs, web, fault_server):
    rows = [
        {"url": fault_server.url("/fail/1/503/film.mp4")},
        {"url": fault_server.url("/status/404/film.mp4")},
    ]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, **web)
    faults = {q["error"]: q["transient"] for q in runs.tables()["quarantine"]}
    assert faults == {"TransferError": True, "VideoGoneError": False}
    assert {v["state"] for v in runs.tables()["videos"]} == {"failed"}
    result = runs.score(source=source, retry=Retry(), **web)
    assert (result.stats.videos, result.stats.clips) == (1, 1)
    assert [q["error"] for q in runs.tables()["quarantine"]] == ["VideoGoneError"]
    assert downloads(fault_server, "/status/404/film.mp4") == 1


@pytest.mark.parametrize("keep", ["always", "never"])
def test_downloads_go_once_their_clips_are_cut(runs, web, fault_server, keep):
    web["acquire"]["keep_sources"] = keep
    rows = [{"url": fault_server.url("/ok/film.mp4"), "start": 0, "end": 1}]
    runs.score(source=write(runs.folder / "a.jsonl", rows), media="clips", **web)
    [clip] = runs.tables()["clips"]
    assert (runs.out / clip["media"]).exists()
    [video] = runs.tables()["videos"]
    assert (len(video["sha256"]), len(video["retrieved_at"])) == (64, 25)
    files = [p for p in (runs.folder / "cache").rglob("*") if p.is_file() and p.stat().st_size]
    assert bool(files) == (keep == "always")


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_download_that_another_run_drops_comes_again(runs, web, fault_server, monkeypatch, when):
    class Dropped(Fetcher):
        """As when another run with `keep_sources: never` is done with the same video."""

        def fetch(self, row, **options):
            found = super().fetch(row, **options)
            if downloads(fault_server, "film.mp4") == 1:
                if when == "before":
                    self.forget(cache_key(row))
                else:
                    edges = worker.content_edges

                    def last_look(path):
                        monkeypatch.setattr(worker, "content_edges", edges)
                        told = edges(path)
                        self.forget(cache_key(row))
                        return told

                    monkeypatch.setattr(worker, "content_edges", last_look)
            return found

    monkeypatch.setattr(inline, "Fetcher", Dropped)
    rows = [{"url": fault_server.url("/ok/film.mp4"), "start": 0, "end": 1}]
    assert runs.score(source=write(runs.folder / "a.jsonl", rows), **web).stats.clips == 1
    assert downloads(fault_server, "film.mp4") == 2
    assert runs.tables()["quarantine"] == []
    assert [v["state"] for v in runs.tables()["videos"]] == ["done"]


def test_a_download_whose_clips_could_not_be_scored_again_goes_too(runs, web, fault_server):
    web["acquire"]["keep_sources"] = "never"
    rows = [{"url": fault_server.url("/ok/film.mp4"), "start": 0, "end": 1}]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, media="clips", score=["technical"], **web)
    fault_server.files["film.mp4"] = runs.footage("static")
    [clip] = runs.tables()["clips"]
    (runs.out / clip["media"]).unlink()
    runs.score(source=source, media="clips", **web)
    assert runs.tables()["quarantine"] != []
    files = [p for p in (runs.folder / "cache").rglob("*") if p.is_file() and p.stat().st_size]
    assert files == []


def test_downloads_stay_until_all_selections_are_packed(runs, web, fault_server):
    web["acquire"]["keep_sources"] = "until_packed"
    rows = [{"url": fault_server.url("/ok/film.mp4"), "start": 0, "end": 1}]
    source = write(runs.folder / "a.jsonl", rows)
    recipe = runs.recipe(source=source, pack={}, select={"one": {}, "two": {}}, **web)
    with passes.session(recipe, runs.out) as work:
        passes.run_score(work)
        passes.run_select(work)
        passes.run_pack(work, only="one")
        passes.run_pack(work, only="two")
    assert downloads(fault_server, "film.mp4") == 1
    files = [p for p in (runs.folder / "cache").rglob("*") if p.is_file() and p.stat().st_size]
    assert files == []


def test_pack_refuses_another_file_than_the_scored_one(runs, web, fault_server, footage):
    rows = [{"url": fault_server.url("/ok/film.mp4"), "start": 0, "end": 1, "id": "one"}]
    source = write(runs.folder / "a.jsonl", rows)
    runs.score(source=source, **web)
    (runs.folder / "mirror").mkdir()  # it appears later, with another encode
    (runs.folder / "mirror" / "one.mp4").write_bytes(footage("static").read_bytes())
    web["acquire"]["mirror"] = [str(runs.folder / "mirror" / "{video_id}.mp4")]
    with passes.session(runs.recipe(source=source, pack={}, **web), runs.out) as work:
        passes.run_select(work)
        with pytest.raises(AcquireError, match=r"one\.mp4: is not the file that was scored"):
            passes.run_pack(work)


def test_a_slow_host_holds_up_no_other(tmp_path, fault_server, footage):
    fault_server.files["film.mp4"] = footage("cuts")
    cfg = Acquire.model_validate(
        {"allow_hosts": (fault_server.host,), "timeout": 1.5, "download": {"tries": 1}}
    )
    stop = threading.Event()
    places = [
        fault_server.url("/slow/film.mp4"),
        fault_server.url("/ok/film.mp4"),
        str(footage("cuts")),
    ]
    fetcher = Fetcher(cfg, tmp_path / "cache", HostLimits(), stop)
    tasks = list(prefetched((Task(VideoRow(p)) for p in places), fetcher, cfg, stop))
    assert [places.index(t.row.location) for t in tasks] == [2, 1, 0]
    local, ok, slow = (t.fetched for t in tasks)
    assert local is None
    assert isinstance(ok, Fetched)
    assert isinstance(slow, AcquireError)
    assert slow.is_transient


def test_a_full_disk_ends_the_other_downloads(tmp_path, fault_server, footage):
    class Full(Fetcher):
        def fetch(self, row, **options):
            if row.location.endswith("/ok/film.mp4"):
                raise StorageError("full")
            return super().fetch(row, **options)

    fault_server.files["film.mp4"] = footage("cuts")
    cfg = Acquire(allow_hosts=(fault_server.host,), timeout=60)
    stop = threading.Event()
    fetcher = Full(cfg, tmp_path / "cache", HostLimits(), stop)
    places = [fault_server.url("/slow/film.mp4"), fault_server.url("/ok/film.mp4")]
    with pytest.raises(StorageError, match="full"):
        list(prefetched((Task(VideoRow(p)) for p in places), fetcher, cfg, stop))
    assert stop.is_set()


# --------------------------------------------------------------------------- clips cut elsewhere


def test_clips_cut_elsewhere_are_not_decoded_where_no_step_asks_for_frames(runs, footage):
    data = bytearray(footage("cuts").read_bytes())
    middle = data.index(b"mdat") + 2000
    data[middle : middle + 4000] = bytes(4000)  # pictures in ruins, packets in their places
    runs.videos.mkdir(exist_ok=True)
    (runs.videos / "clip.mp4").write_bytes(data)
    rows = [{"path": str(runs.videos / "clip.mp4"), "aesthetic": 5.5}]
    table = write(runs.folder / "scores.jsonl", rows)["table"]
    source = {"adopt": {"path": table["path"]}}
    runs.score(source=source, split=[], score=["technical"])
    [clip] = runs.tables()["clips"]
    assert (clip["aesthetic"], clip["score_status"]) == (5.5, "scored")
    assert clip["technical_fps"] == pytest.approx(24, abs=6)
    assert runs.tables()["quarantine"] == []
    # A step that looks at pictures finds out.
    runs.score(source=source, split=[], score=["technical", "brightness"], fresh=True)
    faults = runs.tables()["quarantine"]
    assert [q["stage"] for q in faults] == ["decode"]


def test_a_dataset_may_name_its_columns_as_pack_names_its_own(runs, footage):
    runs.add("cuts")
    own = {"content_id": "theirs", "source_key": "theirs", "split": "test", "scores": "many"}
    rows = [{"path": str(runs.videos / "cuts.mp4"), "start": 0, "end": 1, **own}]
    recipe = runs.recipe(source=write(runs.folder / "a.jsonl", rows), split=["timestamps"], pack={})
    with passes.session(recipe, runs.out) as work:
        passes.run_score(work)
        passes.run_select(work)
        assert passes.run_pack(work)["default"].samples == 1
    [clip] = runs.tables()["clips"]
    assert {name: clip[f"source_{name}"] for name in own} == own
