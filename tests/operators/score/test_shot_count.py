import numpy as np
import pytest

from vidcurate import Frames
from vidcurate.operators.score.shot_count import shot_count


@pytest.fixture
def scene(texture):
    """Pictures of 64x114 that pan over a texture by `speed` px a frame."""

    def make(seed, count=20, speed=1):
        big = texture(64, 114 + 20 * 30, seed=seed)
        return [big[:, i * speed : i * speed + 114] for i in range(count)]

    return make


def test_request_is_dense_and_small():
    assert shot_count().request() == Frames(every=1, short_side=64, color="gray")


@pytest.mark.parametrize("shots", [1, 2, 3, 5])
def test_counts_made_cuts(make_clip, scene, shots):
    pictures = [p for seed in range(shots) for p in scene(seed)]
    assert shot_count().score(make_clip(pictures, fps=25)) == shots


@pytest.mark.parametrize("at", [1, 2, 19])
def test_cut_near_an_end_counts(make_clip, scene, at):
    pictures = scene(0)[:at] + scene(1)[at:]
    assert shot_count().score(make_clip(pictures, fps=25)) == 2


@pytest.mark.parametrize("length", [1, 2, 3])
def test_flash_is_no_cut(make_clip, scene, length):
    pictures = scene(0, count=40)
    pictures[20 : 20 + length] = [np.full((64, 114), 250)] * length
    assert shot_count().score(make_clip(pictures, fps=25)) == 1


@pytest.mark.parametrize("speed", [4, 10, 20])
def test_fast_pan_is_no_cut(make_clip, scene, speed):
    assert shot_count().score(make_clip(scene(0, count=28, speed=speed), fps=25)) == 1


def test_dissolve_is_not_counted(make_clip, scene):
    a, b = scene(0, count=60), scene(1, count=60)
    weight = np.clip((np.arange(60) - 20) / 20, 0, 1)
    pictures = [(1 - w) * x + w * y for w, x, y in zip(weight, a, b, strict=True)]
    assert shot_count().score(make_clip(pictures, fps=25)) == 1


def test_cut_between_dark_scenes_counts_when_asked(make_clip, scene):
    pictures = [p // 8 for p in scene(0) + scene(1)]
    assert shot_count().score(make_clip(pictures, fps=25)) == 1
    assert shot_count(jump=3).score(make_clip(pictures, fps=25)) == 2


def test_compressed_cuts(encode, decode, texture):
    pictures = [texture(180, 320, seed=i // 15) for i in range(45)]
    path = encode(pictures, options={"crf": "30"})
    assert shot_count().score(decode(path, shot_count().request())) == 3


def test_one_frame_gives_no_verdict_and_two_do(make_clip, scene):
    assert shot_count().score(make_clip(scene(0)[:1])) is None
    assert shot_count().score(make_clip(scene(0)[:2])) == 1
    assert shot_count().score(make_clip([scene(0)[0], scene(1)[0]])) == 2
