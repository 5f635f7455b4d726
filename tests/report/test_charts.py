from __future__ import annotations

import re

from vidcurate import column
from vidcurate.operator.columns import Threshold
from vidcurate.recipe.model import Step
from vidcurate.report.charts import bar, histogram
from vidcurate.report.figures import Bin, Distribution

from .conftest import Page, sharpness


def rects(svg: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in Page(svg).tags if tag == "rect"]


def test_bar_parts_are_shares_from_the_left() -> None:
    found = rects(bar([(0.5, "pass", ""), (0, "none", ""), (0.25, "fail", "a <b>")]))

    assert [(r["x"], r["width"], r["class"]) for r in found] == [
        ("0.000", "50.000", "pass"),
        ("50.000", "25.000", "fail"),
    ]
    assert "a &lt;b&gt;" in bar([(1, "fail", "a <b>")])


def test_a_tiny_part_is_still_seen() -> None:
    (found,) = rects(bar([(1e-6, "fail", "")]))
    assert found["width"] == "0.250"


def distribution(threshold: Threshold | None, bins: list[Bin], **known: float) -> Distribution:
    return Distribution(
        "sharpness",
        Step("sharpness", sharpness()),
        column("float32"),
        threshold,
        judged=sum(b.clips for b in bins),
        spared=0,
        nulls=0,
        nans=0,
        failing=None,
        bins=bins,
        **known,
    )


def test_histogram_bars_are_as_tall_as_their_counts() -> None:
    it = distribution(None, [Bin(0, 1, 10), Bin(1, 2, 0), Bin(2, 3, 5)])
    first, last = rects(histogram(it))

    assert float(first["height"] or 0) == 2 * float(last["height"] or 0)
    assert (first["x"], last["x"]) == ("0.00", "240.00")
    assert first["class"] == last["class"] == "pass"


def test_histogram_changes_colour_at_the_threshold() -> None:
    it = distribution(Threshold(min=1.5), [Bin(0, 1, 1), Bin(1, 2, 1), Bin(2, 3, 1)])
    svg = histogram(it)

    assert [r["class"] for r in rects(svg)] == ["fail", "fail", "pass", "pass"]
    assert [r["x"] for r in rects(svg)] == ["0.00", "120.00", "180.00", "240.00"]
    assert "min 1.5" in Page(svg).text
    assert 'x1="180.00"' in svg


def test_histogram_on_a_logarithmic_scale() -> None:
    it = distribution(Threshold(max=10), [Bin(1, 10, 1), Bin(10, 100, 1)], low=1, high=100)
    it.log = True
    first, last = rects(histogram(it))

    assert (first["x"], first["class"]) == ("0.00", "pass")
    assert (last["x"], last["class"]) == ("180.00", "fail")


def test_histogram_says_that_values_lie_beyond() -> None:
    it = distribution(None, [Bin(0, 1, 1), Bin(1, 2, 1)], low=-5, high=50)
    ticks = re.findall(r'class="tick"[^>]*>([^<]*)<', histogram(it))

    assert ticks == ["≤ 0", "≥ 2"]
