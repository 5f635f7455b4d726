import math

from vidcurate import ClipRow
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
