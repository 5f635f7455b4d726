from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate import Box, DataError
from vidcurate.media.thumbnails import Moment, thumbnails


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """10 s at 10 fps, 200x100, key frames 2 s apart; frame i is of luma 20 + 2i, right half 16."""
    path = tmp_path / "ramp.mp4"
    with av.open(str(path), "w") as file:
        options = {"qp": "2", "preset": "ultrafast", "g": "20", "sc_threshold": "0"}
        stream = file.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 200, 100, "yuv420p"
        for i in range(100):
            planes = np.full((150, 200), 128, np.uint8)
            planes[:100, :100] = 20 + 2 * i
            planes[:100, 100:] = 16
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def level(frame: int) -> float:
    return (20 + 2 * frame - 16) * 255 / 219


def test_each_moment_gives_its_own_frame(ramp: Path) -> None:
    # Near ones are decoded on to, far ones sought; one in reverse order, two of one frame.
    wanted = {"a": 0.0, "b": 0.31, "c": 9.5, "d": 3.5, "e": 5.0, "f": 5.0, "g": 9.0}
    found = {
        moment.key: picture
        for moment, picture in thumbnails(
            ramp, [Moment(key, time, time + 1) for key, time in wanted.items()], box=(50, 50)
        )
    }

    frames = {"a": 0, "b": 4, "c": 95, "d": 35, "e": 50, "f": 50, "g": 90}
    assert set(found) == set(frames)
    for key, frame in frames.items():
        assert found[key].shape == (25, 50, 3)
        assert found[key][:, :23].mean() == pytest.approx(level(frame), abs=2)
        assert found[key][:, 27:].mean() < 3


def test_a_moment_without_a_frame_is_left_out(ramp: Path) -> None:
    moments = [Moment("none", 1.01, 1.05), Moment("past", 30.0, 40.0), Moment("some", 2.0, 3.0)]

    assert [m.key for m, _ in thumbnails(ramp, moments, box=(50, 50))] == ["some"]


def test_crop_and_size(ramp: Path) -> None:
    moment = Moment("dark", 1.0, 2.0, Box(100, 0, 100, 100))
    ((_, dark),) = thumbnails(ramp, [moment], box=(50, 20))
    assert dark.shape == (20, 20, 3)
    assert dark.mean() < 3
    ((_, whole),) = thumbnails(ramp, [Moment("x", 1.0, 2.0)], box=(4000, 4000))
    assert whole.shape == (100, 200, 3)  # never enlarged


def test_a_broken_file_is_an_error_of_its_data(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError):
        list(thumbnails(path, [Moment("a", 0.0, 1.0)], box=(50, 50)))
