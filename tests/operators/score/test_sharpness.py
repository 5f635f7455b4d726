import cv2
import numpy as np
import pytest

from vidcurate import Frames
from vidcurate.operators.score.sharpness import sharpness


def at(picture, height):
    width = round(picture.shape[1] * height / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def score(make_clip, picture):
    return sharpness().score(make_clip([picture] * 3))


def test_request():
    assert sharpness().request() == Frames(count=3, short_side="native", color="gray")


def test_equals_the_variance_of_the_smoothed_laplacian_at_480_lines(make_clip, texture):
    picture = texture(480, 640)
    smooth = cv2.GaussianBlur(picture.astype(float), (0, 0), 1.0)
    beside = sum(np.roll(smooth, step, axis) for step in (1, -1) for axis in (0, 1))
    expected = (beside - 4 * smooth)[1:-1, 1:-1].var()
    assert score(make_clip, picture) == pytest.approx(expected, rel=0.02)


def test_falls_with_blur(make_clip, texture):
    picture = texture(480, 640)
    values = [score(make_clip, cv2.GaussianBlur(picture, (0, 0), s)) for s in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 50 * values[-1]


@pytest.mark.parametrize("height", [540, 720, 1080, 1440])
def test_one_scene_reads_alike_at_every_size(make_clip, texture, height):
    scene = texture(1440, 1920)
    reference = score(make_clip, at(scene, 480))
    assert score(make_clip, at(scene, height)) == pytest.approx(reference, rel=0.2)


def test_enlarging_adds_no_sharpness(make_clip, texture):
    small = at(texture(960, 1280), 240)
    large = cv2.resize(small, (1280, 960), interpolation=cv2.INTER_CUBIC)
    true = score(make_clip, at(texture(960, 1280), 480))
    assert score(make_clip, large) == pytest.approx(score(make_clip, small), rel=0.25)
    assert score(make_clip, small) < 0.7 * true


def test_one_blurred_frame_of_three_does_not_decide(make_clip, texture):
    picture = texture(480, 640)
    clip = make_clip([picture, cv2.GaussianBlur(picture, (0, 0), 8), picture])
    assert sharpness().score(clip) == score(make_clip, picture)


def test_flat_is_zero(make_clip):
    assert score(make_clip, np.full((180, 320), 77)) == 0
