import pytest
from pydantic import ValidationError

from vidcurate.operators.split.fixed import Fixed, Pieces


def cuts(length: float, times: list[float], first: int = 0) -> list[int]:
    detector = Pieces(length)
    found = [i for k, t in enumerate(times) for i in detector.push(first + k, t, None)]
    return [*found, *detector.finish()]


def test_pieces_begin_at_each_multiple() -> None:
    assert cuts(2.0, [i / 25 for i in range(130)]) == [50, 100]


def test_pieces_count_from_the_interval_and_its_first_index() -> None:
    assert cuts(1.0, [7.3 + i / 10 for i in range(25)], first=73) == [83, 93]


def test_binary_fractions_do_not_move_a_piece() -> None:
    # 3 * 0.1 is 0.30000000000000004 and 0.3 / 0.1 is just below 3
    assert cuts(0.1, [k / 30 for k in range(31)]) == list(range(3, 31, 3))


def test_a_gap_in_vfr_video_skips_pieces() -> None:
    assert cuts(1.0, [0.0, 0.5, 3.2, 3.9, 4.0]) == [2, 4]


def test_no_frames_are_requested() -> None:
    assert Fixed(length=5.0).request() is None


def test_wrong_lengths_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValidationError, match="raise max_length too"):
        Fixed(length=90.0)
    assert Fixed(length=90.0, max_length=90.0).length == 90
    with pytest.raises(ValidationError, match="greater than 0"):
        Fixed(length=0.0)
