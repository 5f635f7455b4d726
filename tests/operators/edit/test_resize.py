from typing import Any

import pytest
from pydantic import ValidationError

from vidcurate.operators.edit.resize import Resize


@pytest.mark.parametrize(
    ("parameters", "size", "expected"),
    [
        ({"short_side": 480}, (1920, 1080), (854, 480)),
        ({"short_side": 480}, (1080, 1920), (480, 854)),
        ({"short_side": 480}, (640, 360), (640, 360)),  # never up
        ({"short_side": 480}, (319, 181), (318, 180)),  # even all the same
        ({"short_side": 480}, (720, 480), (720, 480)),
        ({"short_side": 481}, (1920, 1080), (856, 480)),
        ({"width": 640}, (1920, 1080), (640, 360)),
        ({"height": 360}, (1920, 800), (864, 360)),
        ({"width": 640, "height": 640}, (1080, 1920), (360, 640)),
        ({"width": 4000}, (1920, 1080), (1920, 1080)),
        ({"short_side": 16}, (1, 1000), (2, 1000)),
    ],
)
def test_size(parameters: dict[str, Any], size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Resize(**parameters).size(*size) == expected


@pytest.mark.parametrize("parameters", [{}, {"short_side": 480, "width": 640}])
def test_exactly_one_way_to_say_it(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="short_side, or else width and/or height"):
        Resize(**parameters)


def test_sizes_have_a_floor() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 16"):
        Resize(short_side=8)
