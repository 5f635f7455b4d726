import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vidcurate import ClipRow, DataError
from vidcurate.media.probe import probe
from vidcurate.operators.split.timestamps import Timestamps


def test_each_row_is_an_interval_in_order() -> None:
    rows = [ClipRow(5.0, 9.5), ClipRow(1.0, 6.0), ClipRow(), ClipRow(start=3.0), ClipRow(end=2.0)]
    assert Timestamps().known(None, rows) == [
        (5.0, 9.5),
        (1.0, 6.0),
        (0.0, math.inf),
        (3.0, math.inf),
        (0.0, 2.0),
    ]


def test_a_video_without_rows_is_one_interval() -> None:
    assert Timestamps().known(None, []) == [(0.0, math.inf)]


def test_frames_are_the_very_ones_of_the_file(
    footage: Callable[[str], Path], truth: Callable[[str], dict[str, Any]], score_one: Any
) -> None:
    known = truth("cuts")  # 24 fps
    edges = [0, *known["cuts"], known["frames"]]
    shots = list(pairwise(edges))
    rows = [ClipRow(frames=pair) for pair in shots]
    # Frame 0 is the first one at or after the start: 1 s is frame 24, 1.01 s is before frame 25.
    rows += [ClipRow(1.0, frames=(2, 7)), ClipRow(1.01, frames=(2, 7))]
    found = score_one(footage("cuts"), rows, split=[{"timestamps": {}}])
    assert not found.faults
    spans = [(round(c["start"] * 24, 3), round(c["end"] * 24, 3)) for c in found.clips]
    assert spans == sorted([*shots, (26, 31), (27, 32)])
    assert [c["n_frames"] for c in found.clips] == [end - first for first, end in spans]


@pytest.mark.parametrize(
    ("fps", "start", "expected"),
    [
        (Fraction(25), None, (Fraction(2, 25), Fraction(5, 25))),
        (Fraction(30000, 1001), 0.0, (Fraction(2002, 30000), Fraction(5005, 30000))),
        # 2.2 * 25 is 55.00000000000001 in floats, and still frame 55.
        (Fraction(25), 2.2, (Fraction(57, 25), Fraction(60, 25))),
        # 0.1 s is after frame 2 of 29.97 fps (0.0667 s); frame 3 is at 0.1001 s.
        (Fraction(30000, 1001), 0.1, (Fraction(5005, 30000), Fraction(8008, 30000))),
    ],
)
def test_frames_by_rate_and_start(
    footage: Callable[[str], Path],
    fps: Fraction,
    start: float | None,
    expected: tuple[Fraction, Fraction],
) -> None:
    video = replace(probe(footage("static"), max_pixels=10**6, max_duration=60), fps=fps)
    [interval] = Timestamps().known(video, [ClipRow(start, frames=(2, 5))])
    assert interval == (float(expected[0]), float(expected[1]))


def test_a_file_without_a_rate_cannot_count_frames(footage: Callable[[str], Path]) -> None:
    video = replace(probe(footage("static"), max_pixels=10**6, max_duration=60), fps=Fraction(0))
    assert Timestamps().known(video, [ClipRow(1.0, 2.0)]) == [(1.0, 2.0)]
    with pytest.raises(DataError, match=r"states no frame rate; .*ffmpeg -i IN -c copy OUT\.mp4"):
        Timestamps().known(video, [ClipRow(1.0, 2.0), ClipRow(frames=(0, 5))])
