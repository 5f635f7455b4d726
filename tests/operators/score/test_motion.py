import cv2
import numpy as np
import pytest

from vidcurate import FrameBatch, Frames
from vidcurate.operators.score.motion import motion

H, W = 256, 456
DIAGONAL = np.hypot(H, W)


def pan(big, dx, dy, count=3, size=(H, W)):
    """Views of `big` whose content moves by (dx, dy) a frame."""
    height, width = size
    x0, y0 = max(0, dx) * (count - 1), max(0, dy) * (count - 1)
    return [
        big[y0 - i * dy : y0 - i * dy + height, x0 - i * dx : x0 - i * dx + width]
        for i in range(count)
    ]


def test_request_is_the_shared_one():
    assert motion().request() == Frames(fps=2, short_side=256, color="gray")


@pytest.mark.parametrize("direction", [(1, 0), (0, -1), (-0.8, 0.6)])
@pytest.mark.parametrize("shift", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("steep", [0.8, 1.4])
def test_known_shift_reads_within_a_tenth(make_clip, texture, steep, shift, direction):
    dx, dy = (round(shift * part) for part in direction)
    big = texture(H + 64, W + 64, seed=3, steep=steep)
    scores = motion().score(make_clip(pan(big, dx, dy), fps=2))
    true = np.hypot(dx, dy) / DIAGONAL * 100 * 2  # frames are half a second apart
    assert scores["mean"] == pytest.approx(true, rel=0.1)
    assert scores["p95"] == pytest.approx(true, rel=0.1)
    assert scores["residual"] < 0.1 * true  # a pan is all camera


@pytest.mark.parametrize("shift", [64, 100])
def test_fast_pan_reads_its_speed(make_clip, texture, shift):
    big = texture(H + 8, W + 2 * shift, seed=3, steep=1.0)
    scores = motion().score(make_clip(pan(big, -shift, 1), fps=2))
    true = np.hypot(shift, 1) / DIAGONAL * 100 * 2
    assert scores["mean"] == pytest.approx(true, rel=0.1)
    assert scores["residual"] < 0.1 * true


def test_noise_on_a_flat_wall_is_slow(make_clip):
    noise = np.random.default_rng(0).normal(120, 2, (5, H, W))
    assert motion().score(make_clip(noise, fps=2))["mean"] < 4


def test_speed_is_per_second_and_per_diagonal(make_clip, texture):
    big = texture(H + 64, W + 64, seed=5)
    once = motion().score(make_clip(pan(big, 8, 0), fps=2))
    faster = motion().score(make_clip(pan(big, 8, 0), fps=4))
    small = motion().score(make_clip(pan(big, 4, 0, size=(H // 2, W // 2)), fps=2))
    assert faster["mean"] == pytest.approx(2 * once["mean"], rel=1e-6)
    assert small["mean"] == pytest.approx(once["mean"], rel=0.05)


def test_uneven_times_count_as_they_are(make_clip, texture):
    clip = make_clip(pan(texture(H + 64, W + 64), 8, 0, count=2))
    slow = FrameBatch(clip.frames.pixels, np.array([0.0, 2.0]))
    scores = motion().score(make_clip(clip.frames.pixels, frames=slow))
    assert scores["mean"] == pytest.approx(8 / DIAGONAL * 100 / 2, rel=0.1)


def test_still_picture_reads_zero(make_clip, texture):
    scores = motion().score(make_clip([texture(H, W)] * 3))
    assert scores == {"mean": 0, "p95": 0, "residual": 0}


def test_flat_picture_reads_zero(make_clip):
    assert motion().score(make_clip(np.full((3, H, W), 90)))["p95"] == 0


def test_object_over_a_still_background_remains_without_the_camera(make_clip, texture):
    background, thing = texture(H, W, seed=1), texture(96, 96, seed=2)
    pictures = []
    for i in range(4):
        picture = background.copy()
        picture[80:176, 100 + 12 * i : 196 + 12 * i] = thing
        pictures.append(picture)
    scores = motion().score(make_clip(pictures, fps=2))
    speed = 12 / DIAGONAL * 100 * 2
    assert scores["p95"] == pytest.approx(speed, rel=0.15)  # the object fills 8 % of the area
    assert scores["mean"] == pytest.approx(speed * 96 * 96 / (H * W), rel=0.35)
    assert scores["residual"] == pytest.approx(scores["mean"], rel=0.1)


def test_object_is_told_from_the_pan_around_it(make_clip, texture):
    views = pan(texture(H + 64, W + 64, seed=1), 10, 0)
    thing = texture(96, 96, seed=2)
    for picture in (views := [v.copy() for v in views]):
        picture[80:176, 180:276] = thing  # the camera follows it
    scores = motion().score(make_clip(views, fps=2))
    speed = 10 / DIAGONAL * 100 * 2
    assert scores["residual"] == pytest.approx(speed * 96 * 96 / (H * W), rel=0.35)
    assert scores["mean"] > 0.8 * speed


def test_zoom_and_turn_are_camera(make_clip, texture):
    big = texture(H + 64, W + 64, seed=4)
    centre = ((W + 64) / 2, (H + 64) / 2)
    pictures = []
    for i in range(3):
        matrix = cv2.getRotationMatrix2D(centre, 2.0 * i, 1.04**i)
        turned = cv2.warpAffine(big, matrix, (W + 64, H + 64), flags=cv2.INTER_CUBIC)
        pictures.append(turned[32 : 32 + H, 32 : 32 + W])
    scores = motion().score(make_clip(pictures, fps=2))
    assert scores["mean"] > 2
    assert scores["residual"] < 0.1 * scores["mean"]


def test_each_pair_stands_for_itself(make_clip, texture):
    # a start from the flow of the pair before would tie the second pair to the first
    big = texture(H + 64, W + 64, seed=6)
    a, b, c = pan(big, 16, 0)
    both = motion().score(make_clip([a, b, c, c]))
    first, second, third = (motion().score(make_clip(p)) for p in ((a, b), (b, c), (c, c)))
    mean = (first["mean"] + second["mean"] + third["mean"]) / 3
    assert both["mean"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, H, W), (3, 31, 200), (3, 24, 100), (3, 8, 8)])
def test_no_verdict_on_one_frame_or_a_tiny_picture(make_clip, shape):
    assert motion().score(make_clip(np.zeros(shape))) is None


@pytest.mark.parametrize("size", [(32, 32), (32, 600), (600, 32), (45, 37), (256, 2000)])
def test_odd_shapes_are_read(make_clip, texture, size):
    height, width = size
    pictures = pan(texture(height + 8, width + 8, seed=7), 2, 0, size=size)
    scores = motion().score(make_clip(pictures, fps=2))
    true = 2 / np.hypot(height, width) * 100 * 2
    assert scores["mean"] == pytest.approx(true, rel=0.3)
