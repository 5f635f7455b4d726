"""What a run does again and what it does not: fingerprints, gates, limits, changed files."""

from __future__ import annotations

import shutil

import pytest

from vidcurate.plan import in_audit


def fresh(runs, name, **sections):
    """The tables of a run of this recipe in a new directory."""
    runs.score(out=runs.folder / name, **sections)
    return runs.tables(runs.folder / name)


def test_a_run_scores_all_and_a_second_one_does_nothing(runs):
    runs.add("cuts", "odd_size", "vfr")
    first = runs.score()
    assert (first.seen, first.stats.videos, first.skipped) == (3, 3, 0)
    assert first.stats.decoded == pytest.approx(230 / 24 + 2 + 3.16, abs=0.05)
    tables, manifests = runs.tables(), runs.manifests()
    assert first.stats.clips == len(tables["clips"]) == 10 + 2 + 4
    assert [v["state"] for v in tables["videos"]] == ["done"] * 3
    assert all(c["score_status"] == "scored" for c in tables["clips"])
    assert tables["quarantine"] == []
    again = runs.score(workers=2)
    assert (again.seen, again.skipped, again.stats.videos) == (3, 3, 0)
    assert again.stats.decoded == 0
    assert runs.manifests() == manifests
    assert runs.tables() == tables


def test_a_threshold_is_no_reason_to_score(runs):
    runs.add("odd_size")
    runs.score()
    again = runs.score(score=["technical", {"brightness": {"mean": {"min": 250}}}])
    assert again.stats.videos == 0


def test_a_new_scorer_is_added_to_old_clips(runs):
    runs.add("cuts", "odd_size")
    runs.score(score=["technical"])
    old = runs.tables()
    again = runs.score(score=["technical", "brightness"])
    assert (again.stats.videos, again.stats.clips) == (2, 12)
    assert set(again.stats.steps) == {"technical", "brightness"}
    assert again.stats.steps["technical"].calls == 0
    assert again.stats.steps["brightness"].calls == 12
    new = runs.tables()
    assert new == fresh(runs, "fresh", score=["technical", "brightness"])
    kept = [c for c in old["clips"][0] if c != "fingerprints"]
    assert [[r[c] for c in kept] for r in new["clips"]] == [
        [r[c] for c in kept] for r in old["clips"]
    ]
    assert new["videos"] == old["videos"]


def test_a_changed_parameter_runs_that_step_alone(runs):
    runs.add("odd_size")
    sections = {"score": ["brightness", {"static": {"eps": 2.0}}]}
    runs.score(score=["brightness", "static"])
    again = runs.score(**sections)
    assert {s: n.calls for s, n in again.stats.steps.items()} == {"brightness": 0, "static": 2}
    assert runs.tables() == fresh(runs, "fresh", **sections)


def test_a_column_of_a_step_that_went_stays(runs):
    runs.add("odd_size")
    runs.score()
    runs.score(score=["technical", "phash"])
    with_all = runs.tables()["clips"]
    assert all(c["brightness_mean"] > 0 and c["phash"] is not None for c in with_all)


def test_a_changed_splitter_retires_the_old_clips(runs):
    runs.add("cuts", "odd_size")
    runs.score()
    again = runs.score(split=[{"fixed": {"length": "2s"}}])
    assert again.stats.videos == 2
    assert runs.tables() == fresh(runs, "fresh", split=[{"fixed": {"length": "2s"}}])


def test_a_changed_crop_keeps_the_ids(runs):
    runs.add("odd_size")
    runs.score()
    ids = [c["clip_id"] for c in runs.tables()["clips"]]
    edit = [{"crop": {"left": 40, "right": 20}}]
    again = runs.score(edit=edit)
    assert again.stats.clips == 2
    cropped = runs.tables()
    assert [c["clip_id"] for c in cropped["clips"]] == ids
    assert cropped == fresh(runs, "fresh", edit=edit)


def test_a_loosened_gate_leaves_clips_unjudged_until_the_next_run(runs, select):
    runs.add("cuts")
    tight = [{"brightness": {"mean": {"max": 1}, "gate": True}}, "static"]
    loose = [
        {"brightness": {"mean": {"max": 255}, "gate": True}},
        {"static": {"max": 1.0}},
    ]
    runs.score(score=tight)
    assert {c["score_by"] for c in runs.tables()["clips"]} == {"brightness"}
    assert all(c["static"] is None for c in runs.tables()["clips"])
    assert select(score=loose).unjudged == 10
    again = runs.score(score=loose)
    assert again.stats.clips == 10
    assert again.stats.steps["brightness"].calls == 0
    assert select(score=loose).unjudged == 0
    assert runs.tables() == fresh(runs, "fresh", score=loose)
    assert runs.score(score=tight).stats.videos == 0


def test_the_audit_share_is_scored_in_full(runs):
    runs.add("cuts")
    gated = [{"brightness": {"mean": {"max": 1}, "gate": True}}, "static"]
    runs.score(score=gated, audit="40%")
    clips = runs.tables()["clips"]
    marked = [c for c in clips if c["audit"]]
    assert 0 < len(marked) < len(clips)
    for clip in clips:
        assert clip["audit"] == in_audit(clip["clip_id"], 0.4)
        assert (clip["static"] is not None) == clip["audit"]
        assert clip["score_status"] == ("scored" if clip["audit"] else "gated")
    assert runs.score(score=gated, audit="40%").stats.videos == 0
    again = runs.score(score=gated, audit="100%")
    assert again.stats.clips == len(clips) - len(marked)
    assert all(c["static"] is not None for c in runs.tables()["clips"])


def test_limit_takes_the_first_videos_in_source_order(runs):
    runs.add(a="odd_size", b="static", c="vfr")
    result = runs.score(limit=2)
    assert (result.seen, result.stats.videos) == (2, 2)
    assert sorted(v["dataset_id"] for v in runs.tables()["videos"]) == ["a.mp4", "b.mp4"]
    assert runs.score(limit=2).stats.videos == 0
    grown = runs.score(limit=1, score=["technical", "phash"])
    assert grown.stats.videos == 1
    assert {v["dataset_id"] for v in runs.rows(
        "SELECT DISTINCT dataset_id FROM clips WHERE phash IS NOT NULL"
    )} == {"a.mp4"}  # fmt: skip
    assert runs.score().stats.videos == 1


def test_fresh_forgets_what_was_there(runs):
    runs.add(a="odd_size", b="static")
    runs.score()
    (runs.videos / "a.mp4").unlink()
    (runs.out / "mine.txt").write_text("not the run's")
    result = runs.score(fresh=True)
    assert result.stats.videos == 1
    assert [v["dataset_id"] for v in runs.tables()["videos"]] == ["b.mp4"]
    assert (runs.out / "mine.txt").exists()


def test_a_video_that_is_gone_keeps_its_clips(runs):
    runs.add(a="odd_size", b="static")
    runs.score()
    before = runs.tables()
    (runs.videos / "a.mp4").unlink()
    runs.score()
    assert runs.tables() == before


def test_a_changed_file_replaces_its_clips(runs):
    runs.add(a="odd_size", b="static")
    runs.score()
    runs.add(a="cuts")
    again = runs.score()
    assert (again.stats.videos, again.skipped) == (1, 1)
    assert runs.tables() == fresh(runs, "fresh")
    assert runs.score().stats.videos == 0


def test_a_broken_file_is_read_again_once_it_is_replaced(runs):
    runs.add(a="zero", b="static")
    runs.score()
    assert len(runs.tables()["quarantine"]) == 1
    assert runs.score().stats.videos == 0
    runs.add(a="odd_size")
    assert runs.score().stats.videos == 1
    assert runs.tables() == fresh(runs, "fresh")


def test_equal_bytes_under_two_names_are_told(runs):
    runs.add(a="odd_size", b="odd_size", c="static")
    runs.score()
    videos = {v["dataset_id"]: v for v in runs.tables()["videos"]}
    pair = sorted((videos["a.mp4"], videos["b.mp4"]), key=lambda v: v["video_id"])
    assert pair[0]["content_id"] == pair[1]["content_id"]
    assert [v["duplicate_of"] for v in pair] == [None, pair[0]["video_id"]]
    assert videos["c.mp4"]["duplicate_of"] is None
    assert len(runs.tables()["clips"]) == 2 + 2 + 3


def test_a_moved_folder_keeps_the_ids(runs):
    runs.add("odd_size")
    runs.score()
    ids = [c["clip_id"] for c in runs.tables()["clips"]]
    shutil.move(runs.videos, runs.folder / "elsewhere")
    source = {"folder": {"path": str(runs.folder / "elsewhere")}}
    again = runs.score(source=source)
    assert (again.stats.videos, again.stats.clips, again.stats.decoded) == (1, 0, 0)
    moved = runs.tables()
    assert [c["clip_id"] for c in moved["clips"]] == ids
    assert moved == fresh(runs, "fresh", source=source)
    assert runs.score(source=source).stats.videos == 0
