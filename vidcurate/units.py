"""Quantities as people write them in recipes: `2s`, `0.3s`, `4h`, `64MiB`, `1%`.

Each parser takes the text and returns a plain number, so that models and JSON schemas see
one type. A bare number is refused where a unit is needed: `2` could be seconds or frames.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[kKMGT]i?B)")
_PREFIX = {"B": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def parse_duration(value: Any) -> float:
    """Seconds in a duration such as `2s`, `300ms`, `1.5m`, `2h`; 0 needs no unit.

    Raises:
        ValueError: no unit, an unknown one, or not a duration at all.
    """
    if value == 0 and not isinstance(value, bool):
        return 0.0
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        hint = f", for example {value}s" if isinstance(value, int | float) else ""
        raise ValueError(f"a duration needs a number and a unit (ms, s, m, h, d){hint}")
    # Rounded to the microsecond: 0.3 * 1e-3 must not differ from what a person wrote.
    return round(float(match[1]) * _SECONDS[match[2]], 6)


def parse_size(value: Any) -> int:
    """Bytes in a size such as `64MiB`, `4TB`, `500kB`.

    Raises:
        ValueError: no unit, an unknown one, or not a size at all.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size needs a number and a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)")
    base = 1024 if "i" in match[2] else 1000
    return int(float(match[1]) * base ** _PREFIX[match[2][0]])


def parse_share(value: Any) -> float:
    """A share in 0..1, written as `1%` or as a number from 0 to 1.

    Raises:
        ValueError: outside 0..1 or not a share at all.
    """
    if isinstance(value, str):
        match = _SHARE.fullmatch(value.strip())
        if match is None:
            raise ValueError("a share is written as a percentage (1%) or a number from 0 to 1")
        share = float(match[1]) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        share = float(value)
    else:
        raise ValueError("a share is written as a percentage (1%) or a number from 0 to 1")
    if not 0 <= share <= 1:
        raise ValueError("a share lies between 0 and 1 (0% and 100%)")
    return share


def _text_schema(pattern: re.Pattern[str], example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": ["string", "number"], "pattern": f"^{pattern.pattern}$", "examples": [example]}
    )


def _duration_field(value: Any, info: ValidationInfo) -> float:
    # In Python code a number is seconds; in a recipe it is refused, as nobody can see its unit.
    if isinstance(value, int | float) and not isinstance(value, bool) and not from_recipe(info):
        return float(value)
    return parse_duration(value)


def from_recipe(info: ValidationInfo) -> bool:
    """True while values come from a recipe's text and not from Python code."""
    return bool(info.context and info.context.get("recipe"))


Duration = Annotated[float, BeforeValidator(_duration_field), _text_schema(_DURATION, "2s")]
"""A length of time: text with a unit in recipes (`2s`), seconds as float in Python."""


def _size_field(value: Any, info: ValidationInfo) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and not from_recipe(info):
        return value
    return parse_size(value)


Size = Annotated[int, BeforeValidator(_size_field), _text_schema(_SIZE, "64MiB")]
"""An amount of bytes: text with a unit in recipes (`64MiB`), int in Python."""

Share = Annotated[float, BeforeValidator(parse_share), _text_schema(_SHARE, "1%")]
"""A share of a whole: `1%` or 0.01."""
