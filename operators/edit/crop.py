"""Crop: a fixed box."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from vidcurate import Box, Clip, Editor, ScoreError


def _margin(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100  # "abc%": float's ValueError names it
    if isinstance(value, str):
        raise ValueError("a margin is a number of pixels (60) or a share of the side (12%)")
    return value


Margin = Annotated[
    Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, lt=1)],
    BeforeValidator(_margin, json_schema_input_type=int | float | str),
]
"""Pixels (an int), or a share of the picture's side ("12%" or 0.12)."""


class Crop(Editor):
    """Keep a fixed part of the picture: margins off its sides, then a centred aspect.

    left, top, right, bottom: pixels (60) or a share of the side (12%), default 0.
    aspect: width:height, as "16:9"; the largest centred box of that shape inside the margins.
    The box starts from that of the editors before; its sides are even, rounded inwards.
    """

    name: ClassVar[str] = "crop"

    left: Margin = 0
    top: Margin = 0
    right: Margin = 0
    bottom: Margin = 0
    aspect: Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")] | None = None

    @model_validator(mode="after")
    def _crops(self) -> Self:
        if not (self.left or self.top or self.right or self.bottom or self.aspect):
            raise ValueError("crop needs left, top, right, bottom or aspect")
        return self

    def box(self, clip: Clip) -> Box:
        """The box in display pixels of the source.

        Raises:
            ScoreError: nothing remains of this clip's picture.
        """
        outer = clip.crop or Box(0, 0, clip.video.width, clip.video.height)
        left, right = _pixels(self.left, outer.width), _pixels(self.right, outer.width)
        top, bottom = _pixels(self.top, outer.height), _pixels(self.bottom, outer.height)
        x, y = outer.x + left, outer.y + top
        width, height = outer.width - left - right, outer.height - top - bottom
        if self.aspect is not None and width > 0 and height > 0:
            shape = Fraction(*map(int, self.aspect.split(":")))
            new_width, new_height = min(width, int(height * shape)), min(height, int(width / shape))
            x, y = x + (width - new_width) // 2, y + (height - new_height) // 2
            width, height = new_width, new_height
        end_x, end_y = (x + width) // 2 * 2, (y + height) // 2 * 2
        x, y = -(-x // 2) * 2, -(-y // 2) * 2
        if end_x <= x or end_y <= y:
            raise ScoreError(
                f"crop leaves nothing of a picture of {outer.width}x{outer.height} pixels"
            )
        return Box(x, y, end_x - x, end_y - y)


def _pixels(margin: float, side: int) -> int:
    return margin if isinstance(margin, int) else round(margin * side)
