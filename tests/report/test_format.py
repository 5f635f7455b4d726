from __future__ import annotations

import pytest

from vidcurate.report import format


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 2, "50 %"),
        (0, 2, "0 %"),
        (2, 2, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10**6, "< 0.1 %"),
        (10**6 - 1, 10**6, "> 99.9 %"),
        (1, 0, format.UNKNOWN),
        (None, 5, format.UNKNOWN),
    ],
)
def test_share(part: float | None, whole: float, text: str) -> None:
    assert format.share(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0028, "2.8 ms"),
        (0.04, "0.04 s"),
        (9.96, "10.0 s"),
        (12.4, "12 s"),
        (59.7, "1 min"),
        (65, "1 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (3600 * 1234, "1,234 h"),
        (None, format.UNKNOWN),
        (float("nan"), format.UNKNOWN),
    ],
)
def test_span(seconds: float | None, text: str) -> None:
    assert format.span(seconds) == text


def test_clock() -> None:
    assert format.clock(0) == "0:00.00"
    assert format.clock(59.999) == "1:00.00"
    assert format.clock(3723.45) == "1:02:03.45"


def test_size() -> None:
    assert format.size(1000) == "1,000 B"
    assert format.size(1536) == "1.5 KiB"
    assert format.size(3 * 2**40) == "3 TiB"


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (999.7, "1,000"),
        (99.96, "100"),
        (0.00012, "0.00012"),
        (float("nan"), "nan"),
        ("h264", "h264"),
    ],
)
def test_value(x: object, text: str) -> None:
    assert format.value(x) == text


def test_limit_keeps_its_digits() -> None:
    assert format.limit(23.976) == "23.976"
    assert format.limit(40.0) == "40"
    assert format.limit(5_000_000) == "5000000"


def test_without_the_files_name() -> None:
    assert format.without("a/b.mp4: empty", "a/b.mp4") == "empty"
    assert format.without("empty", None) == "empty"
