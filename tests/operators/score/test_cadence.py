import numpy as np
import pytest

from vidcurate import Frames
from vidcurate.operators.score.cadence import cadence


@pytest.fixture
def scene(texture):
    """Picture number n of a scene that pans by 2 px a picture."""
    big = texture(128, 228 + 300, seed=2)
    return lambda n, speed=2: big[:, n * speed : n * speed + 228]


def test_request_is_dense_and_short():
    assert cadence().request() == Frames(every=1, short_side=128, color="gray", head="4s")


@pytest.mark.parametrize(
    ("numbers", "share"),
    [
        (list(range(100)), 0),  # as filmed
        ([i // 2 for i in range(120)], 0.5),  # 15 fps sold as 30
        ([i * 4 // 5 for i in range(120)], 0.2),  # 24 telecined to 30
        ([i * 24 // 60 for i in range(200)], 0.6),  # 24 sold as 60
        ([i * 24 // 25 for i in range(100)], 0.04),
    ],
)
def test_share_of_repeats(make_clip, scene, numbers, share):
    clip = make_clip([scene(n) for n in numbers], fps=30)
    assert cadence().score(clip) == pytest.approx(share, abs=0.01)


def test_repeats_survive_compression(encode, decode, scene):
    path = encode([scene(i // 2) for i in range(100)], options={"crf": "26"})
    assert cadence().score(decode(path, cadence().request())) == pytest.approx(0.5, abs=0.03)


def test_slow_movement_is_no_repeat(make_clip):
    # differences of 0.5, all below eps, beside a part that moves by 1
    ramp = np.cumsum([1] * 10 + [0, 1] * 20)  # luma rises by 1, then every other frame
    level = np.cumsum([2] * 10 + [1] * 40)
    half = np.zeros((50, 128, 228))
    half[:, ::2] = level[:, None, None]  # mean difference 1, then 0.5: never a repeat
    assert cadence().score(make_clip(half, fps=30)) == 0
    whole = np.broadcast_to(ramp[:, None, None], (50, 128, 228))
    assert cadence().score(make_clip(whole, fps=30)) == pytest.approx(20 / 49, abs=0.02)


def test_still_part_is_not_judged(make_clip, scene):
    numbers = [i // 2 for i in range(60)] + [29] * 60
    clip = make_clip([scene(n) for n in numbers], fps=30)
    assert cadence().score(clip) == pytest.approx(0.5, abs=0.06)


def test_no_verdict_on_stills_and_on_few_frames(make_clip, scene):
    assert cadence().score(make_clip([scene(0)] * 100, fps=25)) is None
    slides = [scene(i // 25 * 20) for i in range(100)]
    assert cadence().score(make_clip(slides, fps=25)) is None
    assert cadence().score(make_clip([scene(i) for i in range(8)], fps=25)) is None
    assert cadence().score(make_clip([scene(0)], fps=25)) is None


def test_a_cut_does_not_hide_slow_movement(make_clip, texture):
    first = [np.full((128, 228), 60 + i // 2) for i in range(40)]  # slow, on twos
    clip = make_clip([*first, *([texture(128, 228)] * 40)], fps=25)
    assert cadence().score(clip) == pytest.approx(0.5, abs=0.1)
