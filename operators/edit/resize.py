"""Resize: a smaller picture."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from vidcurate import Editor

Pixels = Annotated[int, Field(ge=16)]


class Resize(Editor):
    """Scale the packed picture down, keeping its shape; never up.

    short_side: of the result in pixels; or
    width, height: the box that it must fit into; one of them alone is enough.
    Both sides of the result are even, also where nothing else changes: encoders need that.
    """

    name: ClassVar[str] = "resize"

    short_side: Pixels | None = None
    width: Pixels | None = None
    height: Pixels | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.short_side is None) == (self.width is None and self.height is None):
            raise ValueError("resize takes short_side, or else width and/or height")
        return self

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The size of the result for a picture of `width` x `height` pixels."""
        if self.short_side is not None:
            scale = self.short_side / min(width, height)
        else:
            scale = min((self.width or width) / width, (self.height or height) / height)
        scale = min(scale, 1.0)
        return _even(width, scale), _even(height, scale)


def _even(side: int, scale: float) -> int:
    """The nearest even length, at least 2 and at most `side` (an odd `side` goes down)."""
    return max(2, min(round(side * scale / 2) * 2, side // 2 * 2))
