from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.adopt import Adopt

TEXT = (
    "clip_id,path,url,start,end,text,aesthetic,license\n"
    "v1_3,clips/v1_3.mp4,https://www.youtube.com/watch?v=-2yHu5qgTzM,9,7.5,a dog,5.25,CC-BY-4.0\n"
    "v1_4,clips/v1_4.mp4,https://www.youtube.com/watch?v=-2yHu5qgTzM,0:01:00,,,,\n"
)


def table(folder: Path, text: str = TEXT) -> str:
    path = folder / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_row_is_a_whole_file_and_every_column_stays(tmp_path: Path) -> None:
    adopt = Adopt(path=table(tmp_path), caption="text", dataset_id="clip_id")
    assert adopt.dataset_schema() == pa.schema(
        {
            "clip_id": pa.string(),
            "url": pa.string(),
            "start": pa.string(),  # 0:01:00 is no number
            "end": pa.float64(),
            "aesthetic": pa.float64(),
        }
    )
    url = "https://www.youtube.com/watch?v=-2yHu5qgTzM"
    first = {"clip_id": "v1_3", "url": url, "start": "9", "end": 7.5, "aesthetic": 5.25}
    second = {"clip_id": "v1_4", "url": url, "start": "0:01:00", "end": None, "aesthetic": None}
    # The times are not intervals: an end before its start is of no concern.
    assert list(adopt.videos()) == [
        VideoRow(
            str(tmp_path / "clips/v1_3.mp4"),
            relative="clips/v1_3.mp4",
            dataset_id="v1_3",
            clips=(ClipRow(None, None, "a dog", first),),
            fields=first,
            rights={"license": "CC-BY-4.0"},
        ),
        VideoRow(
            str(tmp_path / "clips/v1_4.mp4"),
            relative="clips/v1_4.mp4",
            dataset_id="v1_4",
            clips=(ClipRow(None, None, None, second),),
            fields=second,
        ),
    ]


def test_a_source_url_is_never_taken_for_the_clip(tmp_path: Path) -> None:
    adopt = Adopt(path=table(tmp_path, "name,url,start\na.mp4,https://x.org/v.mp4,1\n"))
    with pytest.raises(UserError, match="none of the columns path, file, clip, video; name the"):
        adopt.dataset_schema()


def test_parquet_keeps_lists_and_small_floats(tmp_path: Path) -> None:
    kinds = {"clip": pa.string(), "tags": pa.list_(pa.string()), "score": pa.float32()}
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table([["a.mp4"], [["x", "y"]], [0.5]], schema=pa.schema(kinds)), path)
    adopt = Adopt(path=str(path), base="/data")
    assert adopt.dataset_schema() == pa.schema({"tags": kinds["tags"], "score": pa.float32()})
    [video] = list(adopt.videos())
    assert isinstance(video, VideoRow)
    assert video.location == "/data/a.mp4"
    assert video.fields == {"tags": ["x", "y"], "score": 0.5}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ok.mp4,1", "repeats the clip of line 2"),
        (",1", "no path or URL of a video in this row"),
        ("b.mp4,1,2", "3 cells where the header has 2"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path: Path, row: str, message: str) -> None:
    path = table(tmp_path, f"file,score\nok.mp4,1\n{row}\nlast.mp4,2\n")
    rows: list[Any] = list(Adopt(path=path).videos())
    faults = [r for r in rows if isinstance(r, RowFault)]
    assert [(f.where, f.message) for f in faults] == [(f"{path}:3", message)]
    assert [r.relative for r in rows if r not in faults] == ["ok.mp4", "last.mp4"]
