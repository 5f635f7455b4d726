"""Which bucket a clip goes to."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import pytest
from pydantic import ValidationError

from vidcurate.recipe.model import Buckets, Fit
from vidcurate.shards.buckets import (
    NATIVE,
    Bucket,
    assign,
    bucket_size,
    crop_loss,
    frame_step,
)

BUCKETS = Buckets(
    short_side=(256, 480, 720), aspect=("16:9", "4:3", "1:1", "9:16"), frames=(1, 49, 97, 121)
)
STRICT = Fit(no_bucket="report")


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
    bucket = assign(width, height, frames, BUCKETS, STRICT)
    assert bucket == Bucket(name, *size, int(name.rsplit("_", 1)[1][:-1]))


@pytest.mark.parametrize(
    ("width", "height", "why"),
    [(320, 240, "too small"), (1920, 800, "2.4:1 loses 26 %"), (1000, 830, "1.2:1")],
)
def test_no_bucket(width: int, height: int, why: str) -> None:
    if why == "1.2:1":  # between 4:3 and 1:1: 10 % lost, which is allowed
        assert assign(width, height, 50, BUCKETS, STRICT).name == "720p_4x3_49f"
        return
    assert assign(width, height, 50, BUCKETS, STRICT) is None
    assert assign(width, height, 50, BUCKETS, Fit()) == NATIVE


def test_too_few_frames_and_no_buckets_at_all() -> None:
    long = Buckets(short_side=(256,), frames=(49,))
    assert assign(1280, 720, 48, long, STRICT) is None
    assert assign(1280, 720, 49, long, STRICT).frames == 49
    assert assign(33, 17, 1, None, STRICT) == NATIVE


@pytest.mark.parametrize(
    ("skip", "frames", "name"),
    [
        ((), 100, "720p_16x9_97f"),
        (("720p_16x9_97f",), 100, "720p_16x9_49f"),  # 1280*720*49 is more than 848*480*97
        (("720p_16x9_97f", "720p_16x9_49f"), 100, "480p_16x9_97f"),
        (("720p_16x9_49f",), 60, "480p_16x9_49f"),  # not the images of 720p
        (("720p_16x9_1f",), 40, "480p_16x9_1f"),
        ((f"{side}p_16x9_49f" for side in (256, 480, 720)), 60, None),
    ],
)
def test_skipped_groups(skip: Iterable[str], frames: int, name: str | None) -> None:
    buckets = Buckets(**BUCKETS.model_dump() | {"skip": tuple(skip)})
    bucket = assign(1280, 720, frames, buckets, STRICT)
    assert (bucket and bucket.name) == name


def test_a_group_to_skip_must_be_one() -> None:
    with pytest.raises(ValidationError, match="skip '720p_2x1_49f' is none of the groups"):
        Buckets(**BUCKETS.model_dump() | {"skip": ("720p_2x1_49f",)})
    assert len(BUCKETS.names()) == 3 * 4 * 4
    with pytest.raises(ValidationError, match="at least 1 item"):
        Buckets(short_side=(), frames=(1,))


def test_of_two_aspects_equally_near_the_wider_is_taken() -> None:
    """4:3 lies in the middle of 16:9 and 1:1, whichever is named first."""
    for aspects in (("16:9", "1:1"), ("1:1", "16:9")):
        buckets = Buckets(short_side=(256,), aspect=aspects, frames=(1,))
        assert assign(640, 480, 1, buckets, Fit(max_crop=0.25)).name == "256p_16x9_1f"


@pytest.mark.parametrize(
    ("fps", "most", "step", "rate"),
    [
        (60000 / 1001, 30.0, 2, 30000 / 1001),
        (60.02, 30.0, 2, 30.01),  # a measured rate
        (30.02, 30.0, 1, 30.02),
        (25.0, 30.0, 1, 25.0),
        (50.0, 30.0, 2, 25.0),
        (120.0, 30.0, 4, 30.0),
        (240.0, 24.0, 16, 15.0),
        (120.0, None, 1, 120.0),
    ],
)
def test_frame_step_halves_the_rate(fps: float, most: float | None, step: int, rate: float) -> None:
    assert frame_step(fps, Fit(max_fps=most)) == step
    assert fps / step == pytest.approx(rate)


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
