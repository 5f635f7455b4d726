import json
import shutil

import pytest

RECIPE = """\
source: {folder: {path: FOLDER}}
split: [fixed: {length: 1s}]
score: [technical]
output: OUT
"""


@pytest.fixture
def recipe(footage, tmp_path):
    """Three videos of which the middle one is no video."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, made in (("a", "odd_size"), ("b", "zero"), ("c", "odd_size")):
        shutil.copy(footage(made), videos / f"{name}.mp4")
    file = tmp_path / "tiny.yaml"
    text = RECIPE.replace("FOLDER", str(videos)).replace("OUT", str(tmp_path / "out"))
    file.write_text(text)
    return file


def cells(text):
    return [line.split() for line in text.splitlines()]


def test_all_videos_are_tried_where_there_are_no_more(command, recipe, tmp_path):
    result = command("estimate", recipe, "--cores", 8, "--price-per-core-hour", 36)
    assert result.exit_code == 0, result.output
    lines = cells(result.stdout)
    assert result.stdout.startswith("3 videos; tried all of them, of which 1 failed (33.3%)\n")
    assert ["clips", "4"] in lines
    assert ["video", "decoded", "4.0", "s"] in lines
    assert ["failed", "videos", "1"] in lines
    assert any(line[:4] == ["time", "on", "8", "cores"] for line in lines)
    assert any(line[:4] == ["cost", "of", "the", "cores"] for line in lines)
    assert "the numbers have no error bar" in result.stdout
    assert "score: 3 of 3 videos" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.yaml", "videos"]


def test_json_has_the_figures_with_their_intervals(command, recipe):
    arguments = ("estimate", recipe, "--videos", 2, "--seed", 5, "--json", "--keep")
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["videos"], found["tried"], found["seed"]) == (3, 2, 5)
    clips = found["figures"]["clips"]
    assert clips["low"] <= clips["value"] <= clips["high"]
    assert "cost_compute" not in found["figures"]
    # What was kept is a run directory like any other.
    status = command("status", found["folder"])
    assert status.exit_code == 0, status.output


def test_a_single_video_tells_no_error(command, recipe):
    result = command("estimate", recipe, "--videos", 1)
    assert result.exit_code == 0, result.output
    assert "a single video tells no error bar" in result.stdout


def test_a_source_without_videos_is_a_users_mistake(command, recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    result = command("estimate", recipe, "--input", tmp_path / "empty")
    assert result.exit_code == 2
    assert "there are no videos to try" in result.stderr
