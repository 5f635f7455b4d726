import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow, url_key
from vidcurate.operators.sources.internvid import InternVid

# A row as it is published.
PUBLISHED = {
    "YoutubeID": "HdYoyzCSWyw",
    "Start_timestamp": "00:03:10.567",
    "End_timestamp": "00:03:11.200",
    "Caption": "woman using a computer mouse and keyboard",
    "Aesthetic_Score": 4.58984375,
    "UMT_Score": 0.39794921875,
}


def lines(folder: Path, *rows: dict[str, Any] | str, name: str = "internvid.jsonl") -> str:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    data = text.encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def one(source: InternVid) -> VideoRow:
    [row] = source.videos()
    assert isinstance(row, VideoRow)
    return row


def test_a_published_row(tmp_path: Path) -> None:
    source = InternVid(metadata=lines(tmp_path, PUBLISHED))
    scores = pa.schema({"UMT_Score": pa.float64(), "Aesthetic_Score": pa.float64()})
    assert source.dataset_schema() == scores
    video = one(source)
    assert video == VideoRow(
        "https://www.youtube.com/watch?v=HdYoyzCSWyw",
        key="youtube:HdYoyzCSWyw",
        dataset_id="HdYoyzCSWyw",
        clips=(
            ClipRow(
                190.567,
                191.2,
                "woman using a computer mouse and keyboard",
                {"UMT_Score": 0.39794921875, "Aesthetic_Score": 4.58984375},
            ),
        ),
    )
    assert video.key == url_key(video.location)


@pytest.mark.parametrize(
    "names",
    [
        ("YoutubeID", "Start_timestamp", "End_timestamp", "Caption", "UMT-SIM"),
        ("youtube_id", "start_timestamp", "end_timestamp", "caption", "umt_score"),
        ("videoid", "Start_Time", "End_Time", "CAPTION", "UMT_Sim"),
        ("VideoID", "start", "end", "Caption", "UMT_SCORE"),
    ],
)
def test_names_as_they_are_found(tmp_path: Path, names: tuple[str, ...]) -> None:
    row = dict(zip(names, ("-_012345678", "00:00:01.5", "2.5", "a dog", 0.5), strict=True))
    video = one(InternVid(metadata=lines(tmp_path, row)))
    assert video.key == "youtube:-_012345678"
    scores = {"UMT_Score": 0.5, "Aesthetic_Score": None}
    assert video.clips == (ClipRow(1.5, 2.5, "a dog", scores),)


def test_one_video_for_each_row_also_of_the_same_video(tmp_path: Path) -> None:
    # The runner brings them together; here they overlap, and one stands there twice.
    rows = [
        PUBLISHED,
        {**PUBLISHED, "YoutubeID": "abcdefghijk"},
        {**PUBLISHED, "Start_timestamp": "00:03:11.000", "End_timestamp": "00:03:14.000"},
        PUBLISHED,
    ]
    assert not InternVid(metadata="x.jsonl").is_grouped
    found = list(InternVid(metadata=lines(tmp_path, *rows)).videos())
    assert [(v.dataset_id, v.clips[0].start) for v in found if isinstance(v, VideoRow)] == [
        ("HdYoyzCSWyw", 190.567),
        ("abcdefghijk", 190.567),
        ("HdYoyzCSWyw", 191.0),
        ("HdYoyzCSWyw", 190.567),
    ]


def test_scores_that_are_missing_and_scores_as_text(tmp_path: Path) -> None:
    bare = {k: v for k, v in PUBLISHED.items() if not k.endswith("Score")}
    rows = [bare, {**bare, "UMT_Score": None}, {**bare, "UMT_Score": "0.25"}, {**bare, "x": 1}]
    found = list(InternVid(metadata=lines(tmp_path, *rows)).videos())
    assert [v.clips[0].fields["UMT_Score"] for v in found if isinstance(v, VideoRow)] == [
        None,
        None,
        0.25,
        None,
    ]


def test_further_columns_are_kept_as_text(tmp_path: Path) -> None:
    rows = [
        {**PUBLISHED, "language": "日本語", "type": ["Gaming", "教育"]},
        {**PUBLISHED, "views": 12, "language": ""},
    ]
    source = InternVid(metadata=lines(tmp_path, *rows))
    assert source.dataset_schema().names[2:] == ["language", "type", "views"]
    further = [
        {k: v for k, v in row.clips[0].fields.items() if not k.endswith("Score")}
        for row in source.videos()
        if isinstance(row, VideoRow)
    ]
    assert further == [
        {"language": "日本語", "type": '["Gaming", "教育"]', "views": None},
        {"language": None, "type": None, "views": "12"},
    ]


def test_csv_parquet_and_packed_lines(tmp_path: Path) -> None:
    text = ",".join(PUBLISHED) + "\n" + ",".join(str(v) for v in PUBLISHED.values()) + "\n"
    (tmp_path / "t.csv").write_text(text, encoding="utf-8-sig")
    columns = {k: [v, v] for k, v in PUBLISHED.items()} | {"UMT_Score": [float("nan"), 0.5]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    lines(tmp_path, PUBLISHED, name="t.jsonl.gz")
    found = list(InternVid(metadata=str(tmp_path)).videos())
    assert all(isinstance(row, VideoRow) and row.dataset_id == "HdYoyzCSWyw" for row in found)
    assert [v.clips[0].fields["UMT_Score"] for v in found if isinstance(v, VideoRow)] == [
        0.39794921875,
        0.39794921875,
        None,
        0.5,
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PUBLISHED, "YoutubeID": "short"}, "YoutubeID: 'short' is not a video's id"),
        ({**PUBLISHED, "YoutubeID": None}, "YoutubeID: None is not a video's id"),
        ({**PUBLISHED, "YoutubeID": 12345678901}, "YoutubeID: 12345678901 is not a video's id"),
        (
            {**PUBLISHED, "End_timestamp": "00:03:10.567"},
            "start (190.567 s) is not before end (190.567 s)",
        ),
        (
            {**PUBLISHED, "End_timestamp": "00:03:10.000"},
            "start (190.567 s) is not before end (190 s)",
        ),
        (
            {**PUBLISHED, "Start_timestamp": "later"},
            "Start_timestamp: 'later' is not a time; write seconds or HH:MM:SS.mmm",
        ),
        ({**PUBLISHED, "End_timestamp": ""}, "End_timestamp: the row has none"),
        ({"YoutubeID": "HdYoyzCSWyw"}, "Start_timestamp: the row has none"),
        ({**PUBLISHED, "UMT_Score": "high"}, "UMT_Score: 'high' is not a number"),
        ({**PUBLISHED, "UMT_Score": True}, "UMT_Score: True is not a number"),
        ({**PUBLISHED, "Aesthetic_Score": [1]}, "Aesthetic_Score: [1] is not a number"),
        ('{"YoutubeID": "HdYoyzCSWyw"', "not readable as JSON: Expecting ',' delimiter: "),
        ('["HdYoyzCSWyw"]', "not a JSON object"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: dict[str, Any] | str, message: str) -> None:
    path = lines(tmp_path, PUBLISHED, row, PUBLISHED)
    before, fault, after = InternVid(metadata=path).videos()
    assert isinstance(fault, RowFault)
    assert fault.where == f"{path}:2"
    assert fault.message.startswith(message)
    assert isinstance(before, VideoRow)
    assert before == after


def test_files_of_something_else(tmp_path: Path) -> None:
    path = lines(tmp_path, {"video": "a.mp4", "Caption": "x"})
    with pytest.raises(UserError, match=r"no column 'YoutubeID'; it has: video, Caption"):
        InternVid(metadata=path).dataset_schema()
    row = {k: v for k, v in PUBLISHED.items() if k != "End_timestamp"}
    with pytest.raises(UserError, match=r"no column 'End_timestamp'; it has: YoutubeID, Start_"):
        list(InternVid(metadata=lines(tmp_path, row)).videos())
    with pytest.raises(UserError, match=r"internvid: .*none\.jsonl is not a metadata file"):
        list(InternVid(metadata=str(tmp_path / "none.jsonl")).videos())


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        row = json.dumps({**PUBLISHED, "Caption": "dog " * 2_000})
        source = InternVid(metadata=lines(tmp_path, *[row] * rows))
        tracemalloc.start()
        assert sum(1 for _ in source.videos()) == rows
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    # A few rows fill every buffer: 16 MB of them need no more than 2 MB.
    assert peak(2_000) < peak(250) + 100_000


def test_sorted_rows_are_joined_as_they_come(tmp_path: Path) -> None:
    def row(video: str, start: int, caption: str) -> dict[str, Any]:
        times = {"Start_timestamp": f"00:00:0{start}", "End_timestamp": f"00:00:0{start + 1}"}
        return {"YoutubeID": video, "Caption": caption, **times}

    birds, cats = "birdsbirds1", "-catscats-2"
    rows = [row(birds, 0, "a"), "{", row(birds, 2, "b"), row(birds, 0, "c"), row(cats, 1, "d")]
    source = InternVid(metadata=lines(tmp_path, *rows, row(birds, 4, "late")), sorted=True)
    assert source.is_grouped
    found = list(source.videos())
    videos = [v for v in found if isinstance(v, VideoRow)]
    assert [(v.dataset_id, [c.caption for c in v.clips]) for v in videos] == [
        (birds, ["a", "b"]),
        (cats, ["d"]),
        (birds, ["late"]),  # the runner tells of a video that comes up again
    ]
    broken, twice = (f for f in found if isinstance(f, RowFault))
    assert broken.where.endswith(":2")
    assert twice.where == "https://www.youtube.com/watch?v=birdsbirds1 0 to 1 s, repeat 1"
    assert (twice.message, twice.payload["caption"]) == (
        "the clip is named twice; the first row is taken",
        "c",
    )
