"""What is broken costs itself only: bad files, and operators that crash, hang, swell or raise."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.run.score import Retry

BAD = """
import ctypes, os, time
from pathlib import Path
from vidcurate import Clip, column, scorer

@scorer("bad", columns=column("float32"))
def bad(clip: Clip, *, how: str = "", state: str = "") -> float:
    \"\"\"Fails on the second clip of the video of four seconds.\"\"\"
    if clip.video.duration > 3.5 and 0.9 < clip.start < 1.1:
        tried = Path(state) if state else None
        if tried is None or not tried.exists():
            if tried is not None:
                tried.touch()
            if how == "crash":
                ctypes.string_at(0)
            elif how == "kill":
                os.kill(os.getpid(), 9)
            elif how == "exit":
                os._exit(3)
            elif how == "hang":
                time.sleep(600)
            elif how == "memory":
                held = []
                while True:
                    held.append(bytearray(os.urandom(1 << 20)) * 16)
                    time.sleep(0.01)
            elif how == "raise":
                raise ValueError("no such luck")
            elif how == "nan":
                return float("nan")
            elif how == "text":
                return "much"
    return clip.start
"""


@pytest.fixture
def bad(runs):
    """bad(how="crash") scores three videos, of which the scorer `bad` fails on a clip of one."""
    runs.add(a="odd_size", b="dup_cadence", c="rotated")
    file = runs.folder / "bad.py"
    file.write_text(BAD)

    def score(retry=None, limits=None, on_error="fail", **parameters):
        return runs.score(
            operators=[str(file)],
            score=["technical", {"bad": {"on_error": on_error, **parameters}}],
            limits=limits or {},
            retry=retry,
        )

    return score


def states(runs):
    return {v["dataset_id"]: v["state"] for v in runs.tables()["videos"]}


def starts(runs, name):
    """Starts of the clips of a video with what `bad` said of them."""
    rows = runs.rows(
        f"SELECT round(start) AS s, bad, score_status FROM clips WHERE dataset_id = '{name}' "
        "ORDER BY start"
    )
    return [(r["s"], r["bad"], r["score_status"]) for r in rows]


@pytest.mark.parametrize(
    ("how", "limits", "error", "message", "attempts", "transient"),
    [
        ("crash", {}, "WorkerCrashError", "died of SIGSEGV", 2, False),
        ("kill", {"attempts": 1}, "WorkerCrashError", "died of SIGKILL", 1, True),
        ("exit", {"attempts": 3}, "WorkerCrashError", "ended with status 3", 3, False),
        ("hang", {"stall": "3s", "attempts": 1}, "WorkerTimeoutError", "limits.stall", 1, True),
        ("hang", {"time": "3s", "attempts": 1}, "WorkerTimeoutError", "limits.time", 1, True),
        ("memory", {"memory": "400MiB"}, "WorkerMemoryError", "limits.memory", 2, True),
    ],
)
def test_a_video_that_ends_the_decoder_costs_itself_only(
    runs, bad, how, limits, error, message, attempts, transient
):
    result = bad(how=how, limits=limits)
    assert (result.stats.videos, result.stats.failed, result.interrupted) == (3, 1, False)
    assert states(runs) == {"a.mp4": "done", "b.mp4": "failed", "c.mp4": "done"}
    (fault,) = runs.tables()["quarantine"]
    assert (fault["stage"], fault["error"]) == ("decode", error)
    assert message in fault["message"]
    assert (fault["attempts"], fault["transient"]) == (attempts, transient)
    assert (fault["clip_id"], fault["location"]) == (None, str(runs.videos / "b.mp4"))
    assert json.loads(fault["payload"])["row"]["dataset_id"] == "b.mp4"
    for name in ("a.mp4", "c.mp4"):
        assert starts(runs, name) == [(0.0, 0.0, "scored"), (1.0, pytest.approx(1), "scored")]
    assert starts(runs, "b.mp4") == [(0.0, 0.0, "scored")]


def test_a_second_attempt_that_works_leaves_no_trace(runs, bad):
    result = bad(how="crash", state=str(runs.folder / "tried"))
    assert (result.stats.failed, result.stats.clips) == (0, 8)
    assert set(states(runs).values()) == {"done"}
    assert runs.tables()["quarantine"] == []
    assert [s for s, _, _ in starts(runs, "b.mp4")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raise", "ValueError", "no such luck"),
        ("nan", "ScoreError", "NaN is no score"),
        ("text", "ScoreError", "is no float32"),
    ],
)
def test_an_error_costs_one_clip(runs, bad, how, error, message):
    assert bad(how=how).stats.failed == 0
    assert set(states(runs).values()) == {"done"}
    (fault,) = runs.tables()["quarantine"]
    (clip,) = runs.rows("SELECT * FROM clips WHERE score_status = 'failed'")
    assert (fault["stage"], fault["operator"], fault["error"]) == ("score", "bad", error)
    assert message in fault["message"]
    assert (fault["clip_id"], fault["transient"], fault["attempts"]) == (clip["clip_id"], False, 1)
    assert (clip["score_by"], clip["bad"], clip["technical_fps"]) == ("bad", None, 24)
    assert [s for s, _, _ in starts(runs, "b.mp4")] == [0, 1, 2, 3]
    # Not again by itself, but on request; then it succeeds here.
    assert bad(how=how).stats.videos == 0
    assert bad(how=how, retry=Retry()).stats.videos == 0


def test_on_error_skip_gives_a_null(runs, bad):
    bad(how="raise", on_error="skip")
    assert runs.tables()["quarantine"] == []
    assert [(b, s) for _, b, s in starts(runs, "b.mp4")][1] == (None, "scored")


def test_retry_of_a_failed_clip(runs, bad):
    state = runs.folder / "tried"
    bad(how="raise", state=str(state))
    assert len(runs.tables()["quarantine"]) == 1
    state.unlink()
    bad(how="raise", state=str(state), retry=Retry(everything=True))
    assert len(runs.tables()["quarantine"]) == 1  # failed again: one row still
    result = bad(how="raise", state=str(state), retry=Retry(everything=True))
    assert (result.stats.videos, result.stats.clips) == (1, 1)
    assert runs.tables()["quarantine"] == []
    assert [(b, s) for _, b, s in starts(runs, "b.mp4")][1] == (pytest.approx(1), "scored")
    assert bad(how="raise", state=str(state), retry=Retry(everything=True)).stats.videos == 0


def test_retry_takes_transient_faults_and_on_request_the_others(runs, bad):
    state = runs.folder / "tried"
    limits = {"stall": "8s", "attempts": 1}
    (runs.videos / "text.mp4").write_text("no video\n" * 50)
    bad(how="hang", state=str(state), limits=limits)
    assert {q["error"]: q["transient"] for q in runs.tables()["quarantine"]} == {
        "WorkerTimeoutError": True,
        "RefusedMediaError": False,
    }
    assert bad(how="hang", state=str(state), limits=limits).stats.videos == 0
    result = bad(how="hang", state=str(state), limits=limits, retry=Retry())
    assert (result.stats.videos, result.stats.failed) == (1, 0)
    assert [q["error"] for q in runs.tables()["quarantine"]] == ["RefusedMediaError"]
    assert [s for s, _, _ in starts(runs, "b.mp4")] == [0, 1, 2, 3]
    assert states(runs)["b.mp4"] == "done"
    result = bad(how="hang", state=str(state), limits=limits, retry=Retry(everything=True))
    assert (result.stats.videos, result.stats.failed) == (1, 1)
    assert [q["error"] for q in runs.tables()["quarantine"]] == ["RefusedMediaError"]
    assert states(runs)["text.mp4"] == "failed"


def test_a_crash_while_a_scorer_is_added_leaves_the_old_scores(runs, bad):
    runs.add(a="odd_size", b="dup_cadence", c="rotated")
    runs.score(score=["technical"])
    state = runs.folder / "tried"
    bad(how="crash", state=str(state), limits={"attempts": 1})
    assert set(states(runs).values()) == {"done"}
    (fault,) = runs.tables()["quarantine"]
    assert (fault["stage"], fault["error"]) == ("score", "WorkerCrashError")
    clips = runs.rows("SELECT technical_fps, bad FROM clips WHERE dataset_id = 'b.mp4'")
    assert [c["technical_fps"] for c in clips] == [24.0] * 4
    bad(how="crash", state=str(state), limits={"attempts": 1}, retry=Retry(everything=True))
    assert runs.tables()["quarantine"] == []
    assert all(b is not None for _, b, _ in starts(runs, "b.mp4"))


def test_a_video_that_cannot_be_split_anew_keeps_its_clips(runs):
    runs.add("odd_size")
    runs.score()
    before = runs.tables()["clips"]
    (runs.videos / "odd_size.mp4").rename(runs.folder / "away.mp4")
    (runs.videos / "odd_size.mp4").symlink_to(runs.folder / "nowhere.mp4")
    two = [{"fixed": {"length": "2s"}}]
    runs.score(split=two)
    assert runs.tables()["clips"] == before
    (fault,) = runs.tables()["quarantine"]
    assert (fault["stage"], fault["error"]) == ("acquire", "AcquireError")
    assert "a symbolic link to a missing file" in fault["message"]
    (runs.folder / "away.mp4").rename(runs.folder / "nowhere.mp4")
    runs.score(split=two)
    assert len(runs.tables()["clips"]) == 1
    assert runs.tables()["quarantine"] == []


def test_bad_input(runs):
    """Every kind of file that cannot be read, and one good video among them."""
    runs.add("cuts", "truncated", "truncated_tail", "bitflip", "zero", "text", "playlist")
    runs.add("concat", "audio_only", "huge_dimensions", "damaged_audio", "duplicate")
    (runs.videos / "away.mp4").symlink_to(runs.folder / "nowhere.mp4")
    (runs.videos / "loop").symlink_to(runs.videos)
    (runs.videos / "folder.mp4").mkdir()
    invoked = CliRunner().invoke(app, ["score", str(runs.write())])
    assert invoked.exit_code == 0, invoked.output
    tables = runs.tables()
    told = {
        q["location"] and q["location"].removeprefix(f"{runs.videos}/"): q
        for q in tables["quarantine"]
    }
    reasons = {
        name: (q["stage"], q["error"], q["transient"], q["attempts"]) for name, q in told.items()
    }
    refused = ("decode", "RefusedMediaError", False, 1)
    assert reasons == {
        "truncated.mp4": ("decode", "DecodeError", False, 1),
        "truncated_tail.mp4": ("decode", "DecodeError", False, 1),
        "bitflip.mp4": ("decode", "DecodeError", False, 1),
        "zero.mp4": refused,
        "text.mp4": refused,
        "playlist.mp4": refused,
        "concat.mp4": refused,
        "audio_only.mp4": ("decode", "UnsupportedMediaError", False, 1),
        "huge_dimensions.mkv": refused,
        "away.mp4": ("acquire", "AcquireError", False, 1),
        None: ("source", "RowError", False, 1),
    }
    for name, words in {
        "truncated.mp4": "index",
        "truncated_tail.mp4": "the rest was used",
        "bitflip.mp4": "the rest was used",
        "zero.mp4": "empty",
        "playlist.mp4": "playlist",
        "concat.mp4": "",
        "audio_only.mp4": "no video stream",
        "huge_dimensions.mkv": "16384x16000",
        "away.mp4": "a symbolic link to a missing file",
        None: "a symbolic link back to a folder above it",
    }.items():
        assert words in told[name]["message"], told[name]["message"]
    state = {v["dataset_id"]: v["state"] for v in tables["videos"]}
    good = {n for n, s in state.items() if s == "done"}
    assert good == {"cuts.mp4", "duplicate.mp4", "damaged_audio.mp4"}
    assert {n for n, s in state.items() if s == "partial"} == {"truncated_tail.mp4", "bitflip.mp4"}
    for name in good:
        assert runs.rows(f"SELECT count(*) AS n FROM clips WHERE dataset_id = '{name}'") == [
            {"n": 10}
        ]
    assert runs.rows("SELECT count(*) AS n FROM clips WHERE score_status <> 'scored'")[0]["n"] == 0


def test_rows_of_a_table_that_name_nothing(runs):
    runs.add("odd_size")
    table = runs.folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["path", "start", "end"], ["videos/odd_size.mp4", 0, 1]])
        writer.writerows([["videos/missing.mp4", 0, 1], ["videos/odd_size.mp4", 50, 51]])
        writer.writerow(["videos/odd_size.mp4", 3, "soon"])
    sections = {"source": {"table": {"path": str(table)}}, "split": ["timestamps"]}
    runs.score(**sections)
    told = {(q["stage"], q["error"]): q for q in runs.tables()["quarantine"]}
    assert set(told) == {("acquire", "AcquireError"), ("split", "IntervalError"),
                         ("source", "RowError")}  # fmt: skip
    assert "no such file" in told["acquire", "AcquireError"]["message"]
    assert "no frame lies between 50 and 51 s" in told["split", "IntervalError"]["message"]
    assert len(runs.tables()["clips"]) == 1
    # The row is mended: its fault goes. The file comes: it is scored.
    table.write_text(table.read_text().replace("soon", "4"))
    runs.add(missing="static")
    runs.score(**sections)
    assert {q["stage"] for q in runs.tables()["quarantine"]} == {"split"}
    assert len(runs.tables()["clips"]) == 2


def test_a_run_whose_videos_all_fail_ends_with_1(runs):
    runs.add("text", "zero")
    invoked = CliRunner().invoke(app, ["run", str(runs.write())])
    assert invoked.exit_code == 1, invoked.output
    assert "every video failed" in invoked.stderr
    assert len(runs.tables()["quarantine"]) == 2
