"""The made footage is what its truth says, seen through PyAV alone."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import bad_footage
import cv2
import footage as made
import numpy as np
import pytest

GOOD = [name for name in made.NAMES if name not in made.BAD]


def decode(path, format="rgb24"):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format=format) for f in container.decode(video=0)])


def decoded_until_error(path):
    seen = 0
    with av.open(str(path)) as container:
        try:
            for _ in container.decode(video=0):
                seen += 1
        except av.error.InvalidDataError:
            return seen
    raise AssertionError("all frames were decoded")


@pytest.mark.parametrize("name", GOOD)
def test_frames_rate_and_size_are_as_stated(footage, name):
    known = made.truth(name)
    with av.open(str(footage(name))) as container:
        stream = container.streams.video[0]
        sar = stream.sample_aspect_ratio or Fraction(1)
        assert any(s.type == "audio" for s in container.streams) == known["has_audio"]
        frames = list(container.decode(stream))
        assert len(frames) == known["frames"]
        if "times" in known:
            assert [f.time for f in frames] == pytest.approx(known["times"], abs=1e-6)
        else:
            assert stream.average_rate == Fraction(known["fps"])
    size = (round(frames[0].width * sar), frames[0].height)
    if known.get("rotation"):
        assert frames[0].rotation == -known["rotation"]  # FFmpeg counts anticlockwise
        size = size[::-1]
    assert size == (known["width"], known["height"])


@pytest.mark.parametrize("name", ["cuts", "cuts_gop48", "cuts_sound", "pan_64px", "text_scene"])
def test_only_cuts_change_the_picture_much(footage, name):
    change = np.abs(np.diff(decode(footage(name)).astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    assert [int(n) + 1 for n in np.flatnonzero(change > 25)] == made.truth(name)["cuts"]
    assert np.sort(change)[-1 - len(made.truth(name)["cuts"])] < 12


def test_key_frames_stand_at_cuts_only_by_default(footage):
    def keys(name):
        with av.open(str(footage(name))) as container:
            return [n for n, f in enumerate(container.decode(video=0)) if f.key_frame]

    assert keys("cuts") == [0, *made.truth("cuts")["cuts"]]
    assert keys("cuts_gop48") == [0, 48, 96, 144, 192]


def test_fade_and_flash_stand_where_stated(footage):
    light = decode(footage("fades"), "gray").mean(axis=(1, 2))
    (fade,) = made.truth("fades")["fades"]
    start, end = fade["black"]
    dark = np.flatnonzero(light < 1.5)
    assert [dark[0], dark[-1] + 1] == [start, end]
    assert abs(light[fade["out"]] - light[fade["out"] - 1]) > 3
    assert light[fade["in"]] > light[fade["in"] - 1] + 3
    white = decode(footage("flash"), "gray").mean(axis=(1, 2)) > 230
    assert np.flatnonzero(white).tolist() == made.truth("flash")["flashes"]


@pytest.mark.parametrize("pixels", [1, 4, 32])
def test_pan_moves_by_the_known_shift(footage, pixels):
    gray = decode(footage(f"pan_{pixels}px"), "gray").astype(np.float32)
    (dx, dy), _ = cv2.phaseCorrelate(gray[0], gray[12], cv2.createHanningWindow((456, 256), 5))
    assert dx == pytest.approx(pixels, abs=0.25)
    assert dy == pytest.approx(0, abs=0.25)


@pytest.mark.parametrize("name", ["letterbox", "pillarbox"])
def test_borders_are_black_to_the_pixel(footage, name):
    lit = decode(footage(name), "gray").max(axis=0) > 40
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.3), np.flatnonzero(lit.mean(axis=0) > 0.3)
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    assert box == made.truth(name)["box"]


def test_text_has_its_box_and_moves_as_stated(footage):
    for name in ("text_overlay", "text_scene"):
        known = made.truth(name)
        x, y, width, height = known["text_box"]
        for frame in (0, 50):
            ink = decode(footage(name), "gray")[frame] > 215
            rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
            left = x + known["text_shift"][0] * frame
            got = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert got == pytest.approx([left, y, width, height], abs=2)
        assert known["text_share"] == pytest.approx(width * height / (640 * 360))


def test_clicks_are_heard_when_stated(footage):
    with av.open(str(footage("tone"))) as container:
        frames = list(container.decode(audio=0))
    start = frames[0].time
    sound = np.abs(np.concatenate([f.to_ndarray()[0] for f in frames]))
    loud = start + np.flatnonzero(sound > 0.3) / 48_000
    starts = loud[np.diff(loud, prepend=-1.0) > 0.1]
    assert starts == pytest.approx(made.truth("tone")["clicks"], abs=0.005)


def test_rotated_shows_its_mark_at_the_top_left(footage):
    upright = np.rot90(decode(footage("rotated"), "gray")[5], k=-1)
    x, y, width, height = made.truth("rotated")["mark"]
    assert upright.shape == (320, 180)
    assert upright[y : y + height, x : x + width].mean() > 250
    assert upright[height + 4 :, :].mean() < 220


def test_doubled_interlaced_and_hdr_frames(footage):
    doubled = decode(footage("dup_cadence"), "gray").astype(np.int16)
    step = np.abs(np.diff(doubled, axis=0)).mean(axis=(1, 2))
    assert step[0::2].max() < 0.5
    assert step[1::2].min() > 2
    with av.open(str(footage("interlaced"))) as container:
        assert all(f.interlaced_frame for f in container.decode(video=0))
    known = made.truth("hdr_pq")
    frame = decode(footage("hdr_pq"), "yuv420p10le")[3]
    assert frame[90, 20:320:40] == pytest.approx(known["luma_10bit"], abs=4)


@pytest.mark.parametrize("name", ["cuts_sound", "vp9", "av1", "hevc", "bitflip", "huge_dimensions"])
def test_the_same_bytes_each_time(footage, tmp_path, name):
    assert made.make(name, tmp_path).read_bytes() == footage(name).read_bytes()


@pytest.mark.parametrize("name", ["truncated", "zero", "text", "playlist"])
def test_unreadable_files_do_not_open(footage, name):
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(footage(name)))


@pytest.mark.parametrize("name", ["truncated_tail", "bitflip"])
def test_damaged_files_open_and_fail_midway(footage, name):
    seen = decoded_until_error(footage(name))
    assert 20 < seen < 200


def test_other_bad_files(footage):
    with av.open(str(footage("huge_dimensions"))) as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height) == bad_footage.HUGE
    with av.open(str(footage("audio_only"))) as container:
        assert [s.type for s in container.streams] == ["audio"]
    with av.open(str(footage("damaged_audio"))) as container:
        assert len(list(container.decode(video=0))) == made.truth("cuts_sound")["frames"]
    with (
        av.open(str(footage("damaged_audio"))) as container,
        pytest.raises(av.error.InvalidDataError),
    ):
        list(container.decode(audio=0))
    assert footage("duplicate").read_bytes() == footage("cuts").read_bytes()
    assert "cuts.mp4" in footage("concat").read_text()


def test_command_line_writes_videos_and_truth(tmp_path):
    tool = Path(made.__file__)
    subprocess.run(
        [sys.executable, tool, tmp_path, "--only", "static", "zero"], check=True, timeout=60
    )
    assert {p.name for p in tmp_path.iterdir()} == {"static.mp4", "zero.mp4", "truth.json"}
    known = json.loads((tmp_path / "truth.json").read_text())
    assert known["static"]["frames"] == 72
    assert known["zero"]["why"] == "it has no bytes"


def test_real_footage_is_what_the_fixtures_say(bbb, bikes):
    for path, size, frames in ((bbb, (1280, 720), 132), (bikes, (640, 272), 250)):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (*size, 25)
            assert sum(1 for _ in container.decode(stream)) == frames
