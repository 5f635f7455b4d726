import os
import pty
import subprocess
import sys
import threading

import pytest

from vidcurate.cli import progress
from vidcurate.recipe.load import parse
from vidcurate.run.score import ScoreResult
from vidcurate.run.tasks import Stats


def result_of(videos, clips=0, failed=0, skipped=0):
    return ScoreResult(skipped=skipped, stats=Stats(videos=videos, clips=clips, failed=failed))


@pytest.mark.parametrize(
    ("result", "counted", "expected"),
    [
        (result_of(1, 4), None, ("1 video, 4 clips", 1, None)),
        (result_of(2, 1, 1), 5, ("2 of 5 videos, 1 clip, 1 failed", 2, 5)),
        # Videos that were done before are neither done now nor to be done.
        (result_of(2, 9, skipped=90), 100, ("2 of 10 videos, 9 clips", 2, 10)),
        # Clips that are scored again, of videos that are not new.
        (result_of(3, 9, skipped=4), 5, ("3 videos, 9 clips", 3, None)),
    ],
)
def test_what_is_shown_of_the_score_pass(result, counted, expected):
    assert progress._scored(result, counted) == expected


def test_plain_lines_now_and_then_and_at_the_end(capsys, monkeypatch):
    with progress.packing() as update:
        update("base", 1, 3)
        update("base", 2, 3)
        update("base", 3, 3)
        update("one", 1, 2)
    told = [line.rsplit(", ", 1)[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["pack: base, 3 of 3 clips", "pack: one, 1 of 2 clips"]
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    with progress.packing() as update:
        update("base", 1, 3)
    assert capsys.readouterr().err.splitlines()[0].endswith(" s left")


def test_nothing_to_do_says_nothing(capsys):
    with progress.packing():
        pass
    assert capsys.readouterr().err == ""


def test_the_source_is_counted_beside_the_run(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    recipe = parse(f"source: {{folder: {{path: {tmp_path}}}}}\noutput: out\n")
    for limit, total in ((None, 3), (2, 2)):
        counter = progress._Counter(recipe, limit)
        counter.run()
        assert counter.total == total
    gone = parse(f"source: {{folder: {{path: {tmp_path}/gone}}}}\noutput: out\n")
    counter = progress._Counter(gone, None)
    counter.run()
    assert counter.total is None
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), progress.scoring(recipe, None):
        raise ZeroDivisionError
    assert threading.active_count() <= before + 1
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(footage, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"source: {{folder: {{path: {footage('static')}}}}}\n"
        f"score: [technical]\npack: {{}}\noutput: {tmp_path}/out\n"
    )
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vidcurate", "run", str(recipe)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        text=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    assert "━".encode() in shown
    assert b"eta" in shown
    assert b"default, 1 of 1 clip" in shown
    assert shown.rstrip().endswith(b"\x1b[2K"), "the bar is wiped away"
    assert stdout.splitlines()[0].split() == ["videos", "1"]
    assert "\x1b" not in stdout
