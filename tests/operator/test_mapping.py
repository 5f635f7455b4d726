import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from vidcurate import MetadataRow, RowMap, VideoRow, fit_value, tell_types
from vidcurate.operators.sources.huggingface import Huggingface


def one(base: str, path: str) -> VideoRow:
    columns = RowMap.of("me", "a table", {"path": pa.string()}, base=base)
    [video] = columns.videos([MetadataRow("a table:1", {"path": path})])
    assert isinstance(video, VideoRow)
    return video


@pytest.mark.parametrize(
    ("base", "path", "location", "relative"),
    [
        ("/data", "a b.mp4", "/data/a b.mp4", "a b.mp4"),
        ("/data", "/films/a.mp4", "/films/a.mp4", "../films/a.mp4"),
        ("https://x.org/v/", "a b.mp4", "https://x.org/v/a%20b.mp4", None),
        # A row that came from elsewhere must not name a file of this machine.
        ("https://x.org/v", "/etc/passwd", "https://x.org/v/etc/passwd", None),
        ("https://x.org/v", "http://y.org/a.mp4", "http://y.org/a.mp4", None),
    ],
)
def test_where_a_path_leads(base: str, path: str, location: str, relative: str | None) -> None:
    video = one(base, path)
    assert (video.location, video.relative) == (location, relative)


def test_without_times_no_column_is_an_interval() -> None:
    kinds = {"path": pa.string(), "start": pa.float64(), "end": pa.float64()}
    columns = RowMap.of("me", "a table", kinds, base="/data")
    assert columns.schema() == pa.schema({"start": pa.float64(), "end": pa.float64()})
    [video] = columns.videos([MetadataRow("t:1", {"path": "a.mp4", "start": 9, "end": 1})])
    assert isinstance(video, VideoRow)
    assert (video.clips[0].start, video.clips[0].fields) == (None, {"start": 9.0, "end": 1.0})


def test_types_are_the_narrowest_of_all_rows() -> None:
    rows = [{"n": 1, "x": 1, "s": 1, "o": {"a": 1}}, {"n": 2, "x": 0.5, "s": "é", "b": True}]
    assert tell_types(rows, {"n": "float64"}, names=["gone"]) == {
        "gone": pa.string(),
        "n": pa.float64(),
        "x": pa.float64(),
        "s": pa.string(),
        "o": pa.string(),
        "b": pa.bool_(),
    }


def test_values_of_their_columns_types() -> None:
    assert fit_value("o", {"a": ["é", None]}, pa.string()) == '{"a": ["é", null]}'
    assert fit_value("n", "2.5e3", pa.float64(), is_text=True) == 2500.0
    assert fit_value("n", "", pa.int64(), is_text=True) is None
    with pytest.raises(ValueError, match="n: 9223372036854775808 is no int64"):
        fit_value("n", 2**63, pa.int64())


def test_a_hubs_source_can_go_to_a_worker_after_use(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"url": "https://x.org/a.mp4", "n": 1}\n')
    source = Huggingface(dataset=str(tmp_path))
    videos = list(source.videos())
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy == source
    assert list(copy.videos()) == videos
