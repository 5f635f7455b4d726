import math

import pyarrow as pa
import pytest

from vidcurate import OperatorError, column
from vidcurate.operator.columns import Threshold, column_name


def test_the_arrow_field_carries_unit_range_and_description():
    field = column("float32", unit="share", range=(0, None), description="how much").field("x")
    assert field.type == pa.float32()
    assert field.nullable
    assert field.metadata == {b"unit": b"share", b"range": b"0..", b"description": b"how much"}


def test_an_unknown_type():
    with pytest.raises(OperatorError, match="unknown column type 'float16'; one of: bool, int32"):
        column("float16")


def test_names():
    assert column_name("motion", "p95") == "motion_p95"
    assert column_name("sharpness", "") == "sharpness"


@pytest.mark.parametrize(
    ("threshold", "value", "reason"),
    [
        (Threshold(min=0.5), 0.5, None),
        (Threshold(min=0.5), 0.4, "< 0.5"),
        (Threshold(max=2), 2, None),
        (Threshold(max=2), 3, "> 2"),
        (Threshold(min=1, max=2), 1.5, None),
        (Threshold(min=0), math.nan, "< 0"),
        (Threshold(max=0), math.nan, "> 0"),
        (Threshold(allow=("a", "b")), "a", None),
        (Threshold(allow=("a", "b")), "c", "not in [a, b]"),
        (Threshold(deny=("a",)), "a", "in [a]"),
        (Threshold(deny=("a",)), "b", None),
        (Threshold(min=1), None, None),
        (Threshold(min=1, on_null="drop"), None, "is null"),
    ],
)
def test_thresholds(threshold, value, reason):
    assert threshold.violated(value) == reason
