"""Numbers as people read them: the report's text filters."""

from __future__ import annotations

import math
from typing import Any

UNKNOWN = "\N{EN DASH}"
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: float | None) -> str:
    """`1234567` as `1,234,567`; a dash where it is unknown."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def share(part: float | None, whole: float | None) -> str:
    """`part` of `whole` as a percentage; never `0 %` or `100 %` where that is not exact."""
    if part is None or not whole:
        return UNKNOWN
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.3g} %"


def span(seconds: float | None) -> str:
    """A length of time, in its two largest units below a day: `3 h 20 min`, `1 min 5 s`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 0.01:
        return f"{1000 * seconds:.2g} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 100 * 3600:
        minutes = whole % 3600 // 60
        return f"{whole // 3600} h {minutes} min" if minutes else f"{whole // 3600} h"
    return f"{whole / 3600:,.0f} h"


def clock(seconds: float) -> str:
    """A place in a video: `1:02:03.45`, `2:03.45`."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{rest // 100:02d}.{rest % 100:02d}"


def size(n_bytes: float | None) -> str:
    """An amount of bytes in binary units: `1.4 GiB`."""
    if n_bytes is None:
        return UNKNOWN
    power = 0
    while n_bytes >= 1024 and power < len(_SIZES) - 1:
        n_bytes /= 1024
        power += 1
    return f"{_three(n_bytes)} {_SIZES[power]}"


def value(x: Any) -> str:
    """A score: three significant digits, thousands set apart, labels as they are."""
    if x is None:
        return "null"
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, int):
        return f"{x:,}"
    if isinstance(x, float):
        if not math.isfinite(x):
            return str(x)
        if x and (abs(x) >= 1e9 or abs(x) < 1e-3):
            return f"{x:.3g}"
        return _three(x)
    return str(x)


def _three(x: float) -> str:
    # Not `.3g` alone: it writes 1000 as 1e+03.
    return f"{x:,.0f}" if abs(x) >= 99.95 else f"{x:.3g}"


def without(message: str, location: str | None) -> str:
    """A message that stands beside its file, without the file's name at its beginning."""
    return message.removeprefix(f"{location}: ")


def limit(x: float) -> str:
    """A threshold, with all the digits that its author wrote."""
    return f"{x:.10g}"
