import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.table import Table

Rows = list[dict[str, Any]]


def csv_file(folder: Path, text: str, name: str = "table.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def json_file(folder: Path, rows: Rows) -> str:
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def parquet_file(folder: Path, rows: Rows) -> str:
    path = folder / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def read(table: Table) -> tuple[list[VideoRow], list[RowFault]]:
    rows = list(table.videos())
    videos = [row for row in rows if isinstance(row, VideoRow)]
    return videos, [row for row in rows if isinstance(row, RowFault)]


def one_video(table: Table) -> VideoRow:
    [video], faults = read(table)
    assert faults == []
    return video


def one_fault(table: Table) -> RowFault:
    _, [fault] = read(table)
    return fault


ROWS: Rows = [
    {"video": "a.mp4", "start": 1.5, "end": 4.0, "caption": "a dog", "score": 0.5, "views": 3},
    {"video": "a.mp4", "start": 4.0, "end": 6.0, "caption": "a cat", "score": 2.0, "views": 4},
    {"video": "https://x.org/b.mp4?q=1", "start": 0.0, "end": 2.0, "caption": "", "score": 1.0,
     "views": 5},
]  # fmt: skip


def as_csv(rows: Rows) -> str:
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_same_rows_in_each_format(tmp_path: Path, kind: str) -> None:
    make = {
        "csv": lambda folder, rows: csv_file(folder, as_csv(rows)),
        "jsonl": json_file,
        "parquet": parquet_file,
    }[kind]
    table = Table(path=make(tmp_path, ROWS))
    assert table.dataset_schema() == pa.schema({"score": pa.float64(), "views": pa.int64()})
    videos, faults = read(table)
    assert faults == []
    assert videos == [
        VideoRow(
            str(tmp_path / "a.mp4"),
            relative="a.mp4",
            clips=(
                ClipRow(1.5, 4.0, "a dog", {"score": 0.5, "views": 3}),
                ClipRow(4.0, 6.0, "a cat", {"score": 2.0, "views": 4}),
            ),
        ),
        VideoRow(
            "https://x.org/b.mp4?q=1",
            clips=(ClipRow(0.0, 2.0, None, {"score": 1.0, "views": 5}),),
        ),
    ]


def test_a_row_without_times_is_the_whole_video(tmp_path: Path) -> None:
    video = one_video(Table(path=csv_file(tmp_path, "path,topic,caption\nx/a.mp4,sea,waves\n")))
    assert video.clips == (ClipRow(None, None, "waves", {"topic": "sea"}),)
    assert video.fields == {"topic": "sea"}
    assert (video.location, video.relative) == (str(tmp_path / "x/a.mp4"), "x/a.mp4")


def test_columns_by_name_ids_and_rights(tmp_path: Path) -> None:
    text = "clip,from,to,text,key,license\na.mp4,1,2,hello,k1,CC-BY-4.0\n"
    table = Table(
        path=csv_file(tmp_path, text),
        column="clip",
        start="from",
        end="to",
        caption="text",
        dataset_id="key",
    )
    video = one_video(table)
    assert video.dataset_id == "k1"
    assert video.rights == {"license": "CC-BY-4.0"}
    assert video.clips == (ClipRow(1.0, 2.0, "hello", {"key": "k1"}),)


def test_base_and_absolute_paths(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path\na.mp4\n/data/b.mp4\n")
    videos, _ = read(Table(path=path, base="/data/films"))
    assert [(v.location, v.relative) for v in videos] == [
        ("/data/films/a.mp4", "a.mp4"),
        ("/data/b.mp4", "../b.mp4"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:01:20.880", 80.88),
        ("00:01:20", 80.0),
        ("1:20.5", 80.5),
        ("80.25", 80.25),
        ("12:00:00.001", 43200.001),
        ("", None),
    ],
)
def test_times(tmp_path: Path, text: str, seconds: float | None) -> None:
    video = one_video(Table(path=csv_file(tmp_path, f"path,start\na.mp4,{text}\n")))
    assert video.clips[0].start == seconds


def test_an_end_alone_starts_at_zero(tmp_path: Path) -> None:
    video = one_video(Table(path=csv_file(tmp_path, "path,start,end\na.mp4,,2\n")))
    assert (video.clips[0].start, video.clips[0].end) == (0.0, 2.0)


def test_a_parquet_nan_is_no_time(tmp_path: Path) -> None:
    rows = [{"path": "a.mp4", "start": float("nan"), "end": float("nan")}]
    assert one_video(Table(path=parquet_file(tmp_path, rows))).clips == (ClipRow(),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,soon,2", "start: 'soon' is not a time; write seconds or HH:MM:SS.mmm"),
        ("a.mp4,-1,2", "start: '-1' is not a time; write seconds or HH:MM:SS.mmm"),
        ("a.mp4,3,2", "start (3 s) is not before end (2 s)"),
        ("a.mp4,2,2", "start (2 s) is not before end (2 s)"),
        (" ,1,2", "no path or URL of a video in this row"),
        ("a\0.mp4,1,2", "the path holds a zero byte"),
        ("a.mp4,1", "2 cells where the header has 3"),
        ("a.mp4,1,2,3", "4 cells where the header has 3"),
    ],
)
def test_a_malformed_csv_row_is_named_and_the_rest_goes_on(
    tmp_path: Path, row: str, message: str
) -> None:
    path = csv_file(tmp_path, f"path,start,end\nok.mp4,0,1\n\n{row}\nok.mp4,1,2\n")
    [video], [fault] = read(Table(path=path))
    assert len(video.clips) == 2
    assert (fault.where, fault.message) == (f"{path}:4", message)


def test_the_payload_of_a_fault_is_the_row(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path,start,end,topic\na.mp4,3,2,sea\n")
    fault = one_fault(Table(path=path))
    assert fault.payload == {"path": "a.mp4", "start": "3", "end": "2", "topic": "sea"}


def test_lines_count_through_cells_of_several_lines(tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'path,caption,start\na.mp4,"two\nlines",1\nb.mp4,x,soon\n')
    assert one_fault(Table(path=path)).where == f"{path}:4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "not readable as JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"path": "\xff.mp4"}', "not valid UTF-8"),
        (b'{"path": "a.mp4", "caption": "\\ud83d"}', "half a character"),
        (b'{"path": 7}', "no path or URL"),
        (b'{"path": "a.mp4", "start": true}', "start: True is not a time"),
        (b'{"path": "a.mp4", "start": 1e999}', "start: inf is not a time"),
        (b"[" * 100_000, "not readable as JSON"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "table.jsonl"
    path.write_bytes(b'{"path": "ok.mp4", "start": 0, "caption": "x"}\n\n' + line + b"\n")
    [video], [fault] = read(Table(path=str(path)))
    assert video.dataset_id is None
    assert fault.where == f"{path}:3"
    assert message in fault.message


def test_a_byte_that_is_no_utf8_spoils_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"path,caption\na.mp4,caf\xe9\nb.mp4,caf\xc3\xa9\n")
    [video], [fault] = read(Table(path=str(path)))
    assert video.clips[0].caption == "café"
    assert (fault.where, fault.message) == (f"{path}:2", "not valid UTF-8")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "\ufeffpath\na.mp4\n")
    assert one_video(Table(path=path)).relative == "a.mp4"


def test_types_are_told_from_all_values(tmp_path: Path) -> None:
    text = (
        "path,whole,number,zeros,flag,words,empty,mixed\n"
        "a.mp4,1,1,007,true,x,,1\n"
        "b.mp4,-20,2.5e3,010,False,,,one\n"
        "c.mp4,,,,,y,,\n"
    )
    table = Table(path=csv_file(tmp_path, text))
    assert table.dataset_schema() == pa.schema(
        {
            "whole": pa.int64(),
            "number": pa.float64(),
            "zeros": pa.string(),
            "flag": pa.bool_(),
            "words": pa.string(),
            "empty": pa.string(),
            "mixed": pa.string(),
        }
    )
    videos, _ = read(table)
    assert [dict(v.fields) for v in videos] == [
        {"whole": 1, "number": 1.0, "zeros": "007", "flag": True, "words": "x", "empty": "",
         "mixed": "1"},
        {"whole": -20, "number": 2500.0, "zeros": "010", "flag": False, "words": "", "empty": "",
         "mixed": "one"},
        {"whole": None, "number": None, "zeros": "", "flag": None, "words": "y", "empty": "",
         "mixed": ""},
    ]  # fmt: skip


def test_json_values_keep_their_types_and_nested_ones_become_text(tmp_path: Path) -> None:
    rows = [
        {"path": "a.mp4", "n": 1, "x": 1, "tags": ["a", "é"], "flag": True},
        {"path": "b.mp4", "n": 2, "x": 0.5, "late": "y", "flag": None},
    ]
    table = Table(path=json_file(tmp_path, rows))
    assert table.dataset_schema() == pa.schema(
        {
            "n": pa.int64(),
            "x": pa.float64(),
            "tags": pa.string(),
            "flag": pa.bool_(),
            "late": pa.string(),
        }
    )
    videos, _ = read(table)
    assert videos[0].fields == {
        "n": 1,
        "x": 1.0,
        "tags": '["a", "é"]',
        "flag": True,
        "late": None,
    }
    assert pa.Table.from_pylist([dict(v.fields) for v in videos], table.dataset_schema()).num_rows


def test_parquet_types_are_kept_as_they_are(tmp_path: Path) -> None:
    schema = pa.schema({"path": pa.string(), "tags": pa.list_(pa.string()), "f": pa.float32()})
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table([["a.mp4"], [["x", "y"]], [0.5]], schema=schema), path)
    table = Table(path=str(path))
    assert table.dataset_schema() == pa.schema({"tags": schema[1].type, "f": pa.float32()})
    assert one_video(table).fields == {"tags": ["x", "y"], "f": 0.5}


def test_a_late_value_of_another_type_names_the_remedy(tmp_path: Path) -> None:
    lines = ["path,score", *(f"{i}.mp4,{i}" for i in range(10_000)), "late.mp4,n/a"]
    path = csv_file(tmp_path, "\n".join(lines) + "\n")
    fault = one_fault(Table(path=path))
    assert fault.where == f"{path}:10002"
    assert "'n/a' is no int64" in fault.message
    assert "types: {score: string}" in fault.message
    videos, faults = read(Table(path=path, types={"score": "string"}))
    assert (len(videos), faults) == (10_001, [])


def test_rows_of_a_video_are_joined_within_a_bounded_look_ahead(tmp_path: Path) -> None:
    near = ["a.mp4,0,1", *(f"n{i}.mp4,0,1" for i in range(999)), "a.mp4,1,2"]
    videos, _ = read(Table(path=csv_file(tmp_path, "\n".join(["path,start,end", *near]))))
    assert len(videos) == 1000
    assert videos[0].relative == "a.mp4"  # in the order of their first rows
    assert [c.start for c in videos[0].clips] == [0.0, 1.0]
    far = ["a.mp4,0,1", *(f"n{i}.mp4,0,1" for i in range(1000)), "a.mp4,1,2"]
    videos, _ = read(Table(path=csv_file(tmp_path, "\n".join(["path,start,end", *far]))))
    assert [v.relative for v in videos].count("a.mp4") == 2


def test_a_repeated_clip_is_a_fault(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path,start,end,caption\na.mp4,0,1,x\na.mp4,1,2,y\na.mp4,0,1,z\n")
    [video], [fault] = read(Table(path=path))
    assert [c.caption for c in video.clips] == ["x", "y"]
    assert (fault.where, fault.message) == (f"{path}:4", "repeats the clip of line 2")


def test_huge_cells_are_read(tmp_path: Path) -> None:
    path = csv_file(tmp_path, f"path,notes\na.mp4,{'x' * 300_000}\n")
    assert len(one_video(Table(path=path)).fields["notes"]) == 300_000


def test_tabs(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "path\tnotes\na.mp4\tone, two\n", "table.tsv")
    assert one_video(Table(path=path)).fields == {"notes": "one, two"}


def test_a_json_list_and_a_packed_file(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('[{"path": "a.mp4", "views": 7}, 5]')
    table = Table(path=str(tmp_path / "table.json"))
    assert table.dataset_schema() == pa.schema({"views": pa.int64()})
    [video], [fault] = read(table)
    assert video.fields == {"views": 7}
    assert (fault.where, fault.message) == (f"{tmp_path}/table.json:2", "not a JSON object")
    with gzip.open(tmp_path / "table.csv.gz", "wt") as file:
        file.write("path,views\na.mp4,7\n")
    assert one_video(Table(path=str(tmp_path / "table.csv.gz"))).fields == {"views": 7}


def test_a_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = csv_file(tmp_path, ",path,views\n0,a.mp4,7\n")
    assert one_video(Table(path=path)).fields == {"views": 7}


@pytest.mark.parametrize(
    ("name", "content", "parameters", "message"),
    [
        ("gone.csv", None, {}, "is not a file; set the source's path"),
        ("t.xlsx", b"x", {}, "ends in none of .csv, .tsv, .jsonl, .ndjson, .json, .parquet"),
        ("t.csv", b"", {}, "its first line must name the columns"),
        ("t.csv", b"path,a,a\nx,1,2\n", {}, "two columns 'a'"),
        ("t.csv", b"name\nx\n", {}, "none of the columns path, file, url, video; name the one"),
        ("t.csv", b"path\nx\n", {"column": "paht"}, "no column 'paht' .*did you mean 'path'"),
        ("t.csv", b"path\nx\n", {"end": "stop"}, r"no column 'stop' \(end\)"),
        ("t.csv", b"path\nx\n", {"types": {"n": "int64"}}, r"no column 'n' \(types\)"),
        ("t.csv", "path,n\nx,1\n".encode("utf-16"), {}, "is not UTF-8; convert it"),
        ("t.parquet", b"path", {}, "is not a Parquet file"),
    ],
)
def test_mistakes_of_the_user(
    tmp_path: Path, name: str, content: bytes | None, parameters: dict[str, Any], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    table = Table(path=str(tmp_path / name), **parameters)
    with pytest.raises(UserError, match=message):
        table.dataset_schema()
    with pytest.raises(UserError, match=message):
        list(table.videos())
