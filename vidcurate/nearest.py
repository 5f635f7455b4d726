"""Did you mean ...? The remedy for a mistyped name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 24


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known one, and all of them.

    Returns:
        text such as `; did you mean 'p95'? (known: mean, p95)`, to be put behind the message.
    """
    names = list(dict.fromkeys(known))
    if not names:
        return " (none is known here)"
    folded = {n.lower().replace("-", "_"): n for n in names}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=0.55)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return (f"; did you mean {folded[near[0]]!r}?" if near else "") + f" (known: {shown})"
