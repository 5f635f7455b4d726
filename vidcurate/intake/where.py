"""A source's `where`: which of its videos and clips are taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vidcurate.errors import UserError
from vidcurate.operator.base import Range


def passes(
    where: Mapping[str, Range | tuple[Any, ...]],
    video: Mapping[str, Any],
    clip: Mapping[str, Any],
) -> bool:
    """True where the dataset's values satisfy all conditions; a null satisfies none."""
    for name, wanted in where.items():
        value = clip.get(name, video.get(name))
        if value is None:
            return False
        if isinstance(wanted, Range):
            if not isinstance(value, int | float):
                raise UserError(f"where: {name} holds {value!r}, which min and max cannot judge")
            low = -math.inf if wanted.min is None else wanted.min
            high = math.inf if wanted.max is None else wanted.max
            if not low <= value <= high:
                return False
        elif value not in wanted:
            return False
    return True
