from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from vidcurate import Box, Clip, ScoreError
from vidcurate.operators.edit.crop import Crop

ClipOf = Callable[..., Clip]
PICTURE = np.zeros((1, 180, 320), np.uint8)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"bottom": 20}, Box(0, 0, 320, 160)),
        ({"bottom": "10%"}, Box(0, 0, 320, 162)),
        ({"left": 0.25, "right": 0.25}, Box(80, 0, 160, 180)),
        ({"left": 3, "top": 5}, Box(4, 6, 316, 174)),
        ({"aspect": "1:1"}, Box(70, 0, 180, 180)),
        ({"aspect": "9:16"}, Box(110, 0, 100, 180)),
        ({"aspect": "4:1"}, Box(0, 50, 320, 80)),
        ({"aspect": "16:9"}, Box(0, 0, 320, 180)),
        ({"top": 36, "aspect": "2:1"}, Box(16, 36, 288, 144)),
    ],
)
def test_the_box_of_a_320x180_picture(
    parameters: dict[str, Any], expected: Box, clip_of: ClipOf
) -> None:
    assert Crop(**parameters).box(clip_of(PICTURE)) == expected


def test_margins_count_from_the_earlier_box(clip_of: ClipOf) -> None:
    clip = clip_of(PICTURE, Box(20, 10, 200, 100))
    assert Crop(left="10%", top=4).box(clip) == Box(40, 14, 180, 96)


def test_a_crop_that_leaves_nothing_fails_that_clip(clip_of: ClipOf) -> None:
    with pytest.raises(ScoreError, match="nothing of a picture of 320x180"):
        Crop(left=200, right=120).box(clip_of(PICTURE))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs left, top, right, bottom or aspect"),
        ({"left": "60"}, "a number of pixels"),
        ({"left": "120%"}, "less than 1"),
        ({"left": -2}, "greater than or equal to 0"),
        ({"aspect": "wide"}, "should match pattern"),
        ({"aspect": "16:0"}, "should match pattern"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Crop(**parameters)
