from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from vidcurate import Box
from vidcurate.operators.score.technical import technical


def pictures(height=180, width=320):
    return np.zeros((1, height, width))


def test_asks_for_no_frames():
    assert technical().request() is None


def test_values_of_a_landscape_clip(make_clip):
    clip = make_clip(
        pictures(), start=1.0, end=5.0, n_frames=100, fps=25.0, n_bytes=50_000, frames=None
    )
    scores = technical().score(clip)
    assert scores == {
        "duration": 4.0,
        "width": 320,
        "height": 180,
        "short_side": 180,
        "aspect": pytest.approx(16 / 9),
        "fps": 25.0,
        "vfr": False,
        "codec": "h264",
        "bit_depth": 8,
        "bitrate": 100_000,
        "bits_per_pixel": pytest.approx(400_000 / (100 * 320 * 180)),
        "has_audio": False,
        "interlaced": False,
        "hdr": False,
        "rotation": 0,
    }
    assert set(scores) == set(technical.columns)


def test_video_facts_pass_through(make_clip):
    clip = make_clip(pictures(), vfr=True)
    video = replace(
        clip.video,
        codec="hevc",
        bit_depth=10,
        color_transfer="arib-std-b67",
        has_audio=True,
        interlaced=True,
        rotation=90,
        fps=Fraction(30000, 1001),
    )
    scores = technical().score(replace(clip, video=video, fps=29.97))
    assert (scores["codec"], scores["bit_depth"], scores["rotation"]) == ("hevc", 10, 90)
    assert all(scores[name] for name in ("vfr", "has_audio", "interlaced", "hdr"))
    assert scores["fps"] == 29.97  # the clip's own rate, not the container's


def test_crop_changes_the_size_but_not_the_bits_per_pixel(make_clip):
    whole = make_clip(pictures(), n_bytes=7200)
    cropped = replace(whole, crop=Box(100, 0, 100, 180), width=100, height=180)
    scores = technical().score(cropped)
    assert (scores["width"], scores["height"], scores["short_side"]) == (100, 180, 100)
    assert scores["bits_per_pixel"] == technical().score(whole)["bits_per_pixel"] == 1.0


def test_unknown_rates_are_null(make_clip):
    scores = technical().score(make_clip(pictures(), fps=1.0, n_bytes=0))
    assert scores["bitrate"] is None
    assert scores["bits_per_pixel"] is None
    assert technical().score(replace(make_clip(pictures()), fps=0.0))["fps"] is None
