"""The report's charts: small inline SVGs without scripts, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from vidcurate.report import format
from vidcurate.report.figures import Distribution

_WIDTH, _TOP, _BASE, _HEIGHT = 360, 20, 112, 132


def bar(parts: Sequence[tuple[float, str, str]], label: str = "") -> Markup:
    """A horizontal bar of stacked parts, as wide as its place on the page.

    Args:
        parts: (share of the whole width in 0..1, CSS class, tooltip), from the left.
        label: what it shows, for those who cannot see it.
    """
    x = 0.0
    rects = []
    for part, css, tip in parts:
        if part <= 0:
            continue
        # What is there is seen: one clip of a million keeps a hair's width.
        width = max(100 * part, 0.25)
        rects.append(
            Markup('<rect x="{:.3f}" width="{:.3f}" height="1" class="{}"><title>{}</title></rect>')
            .format(min(x, 100 - width), width, css, tip)
        )  # fmt: skip
        x += 100 * part
    return Markup(
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(rects))


def histogram(it: Distribution) -> Markup:
    """The bars of a numeric column; what its threshold drops has another colour."""
    limits = it.threshold
    edges = [
        (x, word)
        for x, word in ((limits.min, "min"), (limits.max, "max"))
        if x is not None
    ] if limits else []  # fmt: skip
    low, high = it.bins[0].low, it.bins[-1].high
    tallest = max(b.clips for b in it.bins) or 1

    def at(x: float) -> float:
        if it.log:
            return _WIDTH * math.log(x / low) / math.log(high / low)
        return _WIDTH * (x - low) / (high - low)

    marks = []
    for b in it.bins:
        if not b.clips:
            continue
        tall = max(1.5, (_BASE - _TOP) * b.clips / tallest)
        tip = f"{format.value(b.low)} to {format.value(b.high)}: {format.count(b.clips)} clips"
        # A bar that a threshold passes through changes its colour there.
        stops = [b.low, *sorted(x for x, _ in edges if b.low < x < b.high), b.high]
        for left, right in pairwise(stops):
            middle = (left + right) / 2
            fails = limits is not None and limits.violated(middle) is not None
            gap = 0.6 if right == b.high else 0.0
            marks.append(
                Markup(
                    '<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" class="{}">'
                    "<title>{}</title></rect>"
                ).format(
                    at(left),
                    _BASE - tall,
                    max(0.4, at(right) - at(left) - gap),
                    tall,
                    "fail" if fails else "pass",
                    tip,
                )
            )
    for x, word in edges:
        # The label stands on the failing side, where bars are dim, unless it would leave the page.
        before = (word == "min") != (at(x) < 60 if word == "min" else at(x) > _WIDTH - 60)
        marks.append(
            Markup(
                '<line x1="{0:.2f}" x2="{0:.2f}" y1="4" y2="{1}" class="limit"/>'
                '<text x="{2:.2f}" y="12" class="limit" text-anchor="{3}">{4} {5}</text>'
            ).format(
                min(max(at(x), 0.75), _WIDTH - 0.75),
                _BASE,
                at(x) + (-5 if before else 5),
                "end" if before else "start",
                word,
                format.limit(x),
            )
        )
    first = ("≤ " if it.low is not None and it.low < low else "") + format.value(low)
    last = ("≥ " if it.high is not None and it.high > high else "") + format.value(high)
    ticks = [(0.0, "start", first), (float(_WIDTH), "end", last)]
    if len(it.bins) > 2:
        middle = it.bins[len(it.bins) // 2].low
        ticks.append((at(middle), "middle", format.value(middle)))
    for place, anchor, text in ticks:
        marks.append(
            Markup('<text x="{:.2f}" y="{}" class="tick" text-anchor="{}">{}</text>').format(
                place, _HEIGHT - 4, anchor, text
            )
        )
    return Markup(
        '<svg class="histogram" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<line x1="0" x2="{}" y1="{}" y2="{}" class="axis"/></svg>'
    ).format(
        _WIDTH,
        _HEIGHT,
        f"Histogram of {it.column} over {it.judged} clips",
        Markup("").join(marks),
        _WIDTH,
        _BASE + 0.5,
        _BASE + 0.5,
    )
