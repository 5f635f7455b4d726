import numpy as np
import pytest

from vidcurate import Frames
from vidcurate.operators.score.brightness import brightness


def test_request_is_the_shared_one():
    assert brightness().request() == Frames(fps=2, short_side=256, color="gray")


def test_values_of_a_known_picture(make_clip):
    picture = np.zeros((100, 200))
    picture[:, :20] = 10  # 10 %
    picture[:, 20:180] = 100
    picture[:, 180:] = 250  # 10 %
    scores = brightness().score(make_clip([picture] * 2))
    assert scores["mean"] == pytest.approx(picture.mean())
    assert (scores["p5"], scores["p95"]) == (10, 250)
    assert scores["contrast"] == pytest.approx(picture.std())
    assert scores["black"] == 0


def test_percentiles_agree_with_numpy(make_clip, texture):
    pictures = np.stack([texture(90, 160, seed=i) // (i + 1) for i in range(3)])
    scores = brightness().score(make_clip(pictures))
    assert scores["mean"] == pytest.approx(pictures.mean())
    assert scores["p5"] == np.percentile(pictures, 5, method="inverted_cdf")
    assert scores["p95"] == np.percentile(pictures, 95, method="inverted_cdf")
    assert scores["contrast"] == pytest.approx(np.mean([p.std() for p in pictures]))


def test_share_of_black_frames(make_clip):
    dark = np.full((100, 100), 25)
    specks = dark.copy()
    specks[0, :] = 255  # 1 % of light, as a logo or a star: still black
    lit = dark.copy()
    lit[:3, :] = 255  # 3 %
    scores = brightness().score(make_clip([dark, specks, lit, np.full((100, 100), 26)]))
    assert scores["black"] == 0.5


def test_contrast_is_within_frames_not_between_them(make_clip):
    scores = brightness().score(make_clip([np.zeros((50, 50)), np.full((50, 50), 255)]))
    assert scores["contrast"] == 0
    assert scores["mean"] == 127.5
