from dataclasses import replace

import numpy as np
import pytest

from vidcurate import Box, MotionVectors
from vidcurate.operators.score.motion import motion
from vidcurate.operators.score.motion_vectors import MotionVectorScorer

SCORER = MotionVectorScorer()


def vectors(x, y, dx, dy, area=None):
    values = [np.array(v, np.float32) for v in (x, y, dx, dy, area or [256] * len(x))]
    return MotionVectors(0.0, *values)


def pan(texture, speed, count=26, height=180, width=320):
    big = texture(height, width + 26 * 8, seed=1)
    return [big[:, i * speed : i * speed + width] for i in range(count)]


def test_request():
    assert SCORER.motion_vector_fps() == 3
    assert SCORER.request() is None


def test_mean_is_weighted_by_area_and_in_percent_of_the_diagonal_a_second(make_clip):
    clip = make_clip(np.zeros((1, 180, 320)), fps=25.0)
    clip = replace(clip, motion_vectors=(vectors([8, 20], [8, 8], [3, 0], [4, 0], [256, 64]),))
    scores = SCORER.score(clip)
    diagonal = np.hypot(320, 180)
    assert scores["mean"] == pytest.approx(5 / diagonal * 100 * 25 * 256 / 320)
    assert scores["area"] == pytest.approx(256 / 320)


def test_frames_without_vectors_do_not_count(make_clip):
    clip = make_clip(np.zeros((1, 180, 320)), fps=25.0)
    moving, none = vectors([8], [8], [5], [0]), vectors([], [], [], [])
    alone = SCORER.score(replace(clip, motion_vectors=(moving,)))
    assert SCORER.score(replace(clip, motion_vectors=(none, moving, none))) == alone


def test_null_where_the_codec_exports_none(make_clip):
    clip = make_clip(np.zeros((1, 180, 320)))
    assert SCORER.score(clip) is None
    empty = vectors([], [], [], [])
    assert SCORER.score(replace(clip, motion_vectors=(empty, empty))) is None


def test_wide_pixels_stretch_the_vectors(make_clip):
    clip = make_clip(np.zeros((1, 180, 320)), fps=25.0)
    video = replace(clip.video, coded_width=160)  # SAR 2:1, displayed 320 wide
    wide = replace(clip, video=video, motion_vectors=(vectors([8], [8], [5], [0]),))
    square = replace(clip, motion_vectors=(vectors([16], [8], [10], [0]),))
    assert SCORER.score(wide) == SCORER.score(square)


@pytest.mark.parametrize(
    ("rotation", "box"),
    [
        (0, Box(0, 0, 32, 32)),
        (90, Box(148, 0, 32, 32)),  # the coded top left is shown at the top right
        (180, Box(288, 148, 32, 32)),
        (270, Box(0, 288, 32, 32)),
    ],
)
def test_only_blocks_in_the_crop_count(make_clip, rotation, box):
    clip = make_clip(np.zeros((1, 180, 320)), fps=25.0)
    shown = (180, 320) if rotation in (90, 270) else (320, 180)
    video = replace(clip.video, rotation=rotation, width=shown[0], height=shown[1])
    found = vectors([8, 200, 310, 8], [8, 100, 8, 170], [1, 50, 50, 50], [0] * 4)
    clip = replace(clip, video=video, crop=box, width=32, height=32, motion_vectors=(found,))
    assert SCORER.score(clip)["mean"] == pytest.approx(1 / np.hypot(32, 32) * 100 * 25)


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"bf": "0", "refs": "1"}), ("libx264", {}), ("mpeg4", {"bf": "0", "g": "12"})],
)
def test_order_agrees_with_optical_flow(encode, decode, texture, codec, options):
    flow, codec_speed = [], []
    for speed in (0, 1, 2, 4):
        path = encode(pan(texture, speed), name=f"{speed}.mp4", codec=codec, options=options)
        clip = decode(path, motion().request(), vector_fps=3)
        flow.append(motion().score(clip)["mean"])
        codec_speed.append(SCORER.score(clip)["mean"])
    assert flow == sorted(flow)
    assert codec_speed == sorted(codec_speed)
    assert codec_speed[0] < 0.1


def test_without_b_frames_a_pan_reads_its_speed(encode, decode, texture):
    path = encode(pan(texture, 4), options={"bf": "0", "refs": "1"})
    scores = SCORER.score(decode(path, None, vector_fps=3))
    assert scores["mean"] == pytest.approx(4 / np.hypot(320, 180) * 100 * 25, rel=0.1)
    assert scores["area"] > 0.9


def test_codec_without_vectors_is_null(encode, decode, texture):
    path = encode(pan(texture, 4, count=10), codec="libvpx-vp9", name="made.webm")
    assert SCORER.score(decode(path, None, vector_fps=5)) is None
