import numpy as np
import pytest

from vidcurate import FrameBatch, Frames
from vidcurate.operators.score.static import static


def test_request_is_the_shared_one():
    assert static().request() == Frames(fps=2, short_side=256, color="gray")


def test_still_is_one_and_movement_zero(make_clip, texture):
    picture = texture(180, 320)
    assert static().score(make_clip([picture] * 5)) == 1
    assert static().score(make_clip([np.roll(picture, 3 * i, 1) for i in range(5)])) == 0


def test_share_is_of_time(make_clip, texture):
    picture = texture(180, 320)
    pictures = np.stack([picture, picture, picture[::-1]])
    uneven = FrameBatch(pictures, np.array([0.0, 3.0, 4.0]))
    assert static().score(make_clip(pictures, frames=uneven)) == 0.75


def test_slide_show_counts_as_still(make_clip, texture):
    slides = [texture(180, 320, seed=i // 6) for i in range(24)]  # 4 slides of 3 s
    assert static().score(make_clip(slides)) == pytest.approx(20 / 23)


def test_eps_is_the_limit(make_clip):
    steps = make_clip([np.full((180, 320), 100 + i % 2) for i in range(4)])  # 1 of 255
    assert static().score(steps) == 0
    assert static(eps=1.1).score(steps) == 1


def test_compressed_still_is_still(encode, decode, texture):
    path = encode([texture(180, 320, steep=1.8)] * 50, options={"crf": "28"})
    assert static().score(decode(path, static().request())) == 1


def test_noise_is_evened_out(make_clip, texture):
    noise = np.random.default_rng(0).normal(0, 1, (5, 180, 320))
    assert static().score(make_clip(np.clip(texture(180, 320) + noise, 0, 255))) == 1


def test_one_frame_gives_no_verdict(make_clip):
    assert static().score(make_clip(np.zeros((1, 180, 320)))) is None
