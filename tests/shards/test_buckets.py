"""Which bucket a clip goes to."""

from __future__ import annotations

from fractions import Fraction

import pytest

from vidcurate.recipe.model import Buckets, Fit, Pack
from vidcurate.shards.buckets import NATIVE, Bucket, assign, bucket_size, crop_loss

PACK = Pack(
    buckets=Buckets(
        short_side=(256, 480, 720),
        aspect=("16:9", "4:3", "1:1", "9:16"),
        frames=(1, 49, 97, 121),
    ),
    fit=Fit(no_bucket="report"),
)


@pytest.mark.parametrize(
    ("width", "height", "frames", "name", "size"),
    [
        (1920, 1080, 300, "720p_16x9_121f", (1280, 720)),
        (1280, 720, 120, "720p_16x9_97f", (1280, 720)),
        (1279, 720, 97, "480p_16x9_97f", (848, 480)),  # one column short of 720p
        (854, 480, 96, "480p_16x9_49f", (848, 480)),
        (640, 480, 48, "480p_4x3_1f", (640, 480)),
        (480, 854, 49, "480p_9x16_49f", (480, 848)),
        (500, 480, 49, "480p_1x1_49f", (480, 480)),
        (456, 256, 49, "256p_16x9_49f", (448, 256)),
        (1920, 1000, 49, "720p_16x9_49f", (1280, 720)),  # loses 7 %
    ],
)
def test_assign(width: int, height: int, frames: int, name: str, size: tuple[int, int]) -> None:
    bucket = assign(width, height, frames, PACK)
    assert bucket == Bucket(name, *size, int(name.rsplit("_", 1)[1][:-1]))


@pytest.mark.parametrize(
    ("width", "height", "why"),
    [(320, 240, "too small"), (1920, 800, "2.4:1 loses 26 %"), (1000, 830, "1.2:1")],
)
def test_no_bucket(width: int, height: int, why: str) -> None:
    loose = PACK.model_copy(update={"fit": Fit(no_bucket="native")})
    if why == "1.2:1":  # between 4:3 and 1:1: 10 % lost, which is allowed
        assert assign(width, height, 50, PACK).name == "720p_4x3_49f"
        return
    assert assign(width, height, 50, PACK) is None
    assert assign(width, height, 50, loose) == NATIVE


def test_too_few_frames_and_no_buckets_at_all() -> None:
    long = Pack(buckets=Buckets(short_side=(256,), frames=(49,)), fit=Fit(no_bucket="report"))
    assert assign(1280, 720, 48, long) is None
    assert assign(1280, 720, 49, long).frames == 49
    assert assign(33, 17, 1, Pack()) == NATIVE


@pytest.mark.parametrize("short_side", [240, 256, 360 // 16 * 16, 480, 512, 720, 1088])
@pytest.mark.parametrize("ratio", [Fraction(16, 9), Fraction(3, 4), Fraction(1), Fraction(21, 9)])
def test_sizes_are_multiples_of_16_that_need_no_upscale(short_side: int, ratio: Fraction) -> None:
    width, height = bucket_size(short_side, ratio)
    assert width % 16 == height % 16 == 0
    assert min(width, height) == short_side
    assert max(width, height) <= short_side * max(ratio, 1 / ratio)
    assert abs(width / height / float(ratio) - 1) < 16 / short_side


def test_crop_loss() -> None:
    assert crop_loss(1920, 1080, 1280, 720) == 0
    assert crop_loss(1440, 1080, 1080, 1080) == pytest.approx(0.25)
    assert crop_loss(1080, 1440, 1080, 1080) == pytest.approx(0.25)
