"""Scoring again where the source is gone: from the clips' own media, else with a remedy."""

import pytest

from vidcurate.errors import OperatorError


def test_clips_are_scored_again_from_their_media(runs):
    runs.add("cuts", "pan_8px")
    runs.score(media="clips")
    before = runs.tables()["clips"]
    (runs.videos / "cuts.mp4").unlink()
    runs.score(media="clips", score=["technical", "brightness", "static"])
    runs.add("cuts")
    runs.score(out=runs.folder / "whole", score=["technical", "brightness", "static"])
    after, whole = runs.tables()["clips"], runs.tables(runs.folder / "whole")["clips"]
    assert [c["clip_id"] for c in after] == [c["clip_id"] for c in before]
    assert [c["static"] for c in after] == [c["static"] for c in whole]
    assert [c["brightness_mean"] for c in after] == [c["brightness_mean"] for c in before]
    name = "SELECT location FROM videos v WHERE v.video_id = c.video_id"
    found = runs.rows(f"SELECT ({name}) AS path, scored_from FROM clips c")
    assert {(r["path"].rsplit("/")[-1], r["scored_from"]) for r in found} == {
        ("cuts.mp4", "media"),
        ("pan_8px.mp4", "source"),
    }
    assert runs.tables()["quarantine"] == []


def test_without_media_the_remedy_is_named(runs):
    runs.add("cuts")
    runs.score()
    (runs.videos / "cuts.mp4").unlink()
    runs.score(score=["technical", "brightness", "static"])
    (fault,) = runs.tables()["quarantine"]
    assert fault["stage"] == "acquire"
    assert "put it back to score its 10 clips again" in fault["message"]
    assert "static" not in runs.tables()["clips"][0]
    runs.add("cuts")
    runs.score(score=["technical", "brightness", "static"])
    assert runs.tables()["quarantine"] == []
    assert runs.rows("SELECT count(static) AS n FROM clips") == [{"n": 10}]


def test_an_operator_that_cannot_be_set_up_ends_the_run(runs):
    runs.add("cuts")
    (runs.folder / "heavy.py").write_text(
        "from typing import ClassVar\n"
        "from vidcurate import Scorer, column\n"
        "class Heavy(Scorer):\n"
        '    """Needs weights that are not there."""\n'
        '    name: ClassVar = "heavy"\n'
        '    columns: ClassVar = {"": column("float32")}\n'
        "    def setup(self):\n"
        '        raise FileNotFoundError("weights.pt")\n'
        "    def score(self, clip):\n"
        "        return 0.0\n"
    )
    operators = [str(runs.folder / "heavy.py")]
    with pytest.raises(OperatorError, match=r"'heavy' cannot be set up: .*weights\.pt"):
        runs.score(operators=operators, score=["heavy"])
    assert runs.tables()["quarantine"] == []
