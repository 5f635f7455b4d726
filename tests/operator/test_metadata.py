import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import MetadataRow, RowFault, UserError, header, metadata_files, read_rows
from vidcurate.operator.metadata import parse_time, suffix_of


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(file: Path, **options: Any) -> list[tuple[int, Any]]:
    """(line, values) of rows and (line, message) of faults."""
    found = []
    for row in read_rows(file, "test", **options):
        name, _, line = row.where.rpartition(":")
        assert name == str(file)
        found.append((int(line), row.values if isinstance(row, MetadataRow) else row.message))
    return found


# ------------------------------------------------------------------ CSV


def test_csv_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = 'id,caption\na,one\n\nb,"two\nlines, and a comma"\nc,three\n'
    assert read(put(tmp_path, "t.csv", text)) == [
        (2, {"id": "a", "caption": "one"}),
        (4, {"id": "b", "caption": "two\nlines, and a comma"}),
        (6, {"id": "c", "caption": "three"}),
    ]


@pytest.mark.parametrize("name", ["t.tsv", "t.TSV", "t.tsv.gz"])
def test_tabs_and_packed_files(tmp_path: Path, name: str) -> None:
    assert read(put(tmp_path, name, "id\tcaption\na\tx, y\n")) == [
        (2, {"id": "a", "caption": "x, y"})
    ]


def test_a_byte_order_mark_and_chinese(tmp_path: Path) -> None:
    file = put(
        tmp_path, "t.csv", "video_id:FILE,title\na.mp4,妈妈给宝宝听胎心\n".encode("utf-8-sig")
    )
    assert header(file, "test") == ["video_id:FILE", "title"]
    assert read(file) == [(2, {"video_id:FILE": "a.mp4", "title": "妈妈给宝宝听胎心"})]


def test_rows_of_another_encoding_are_faults_of_their_own(tmp_path: Path) -> None:
    text = "id,caption\na,café\nb,tea\n".encode("latin-1")
    assert read(put(tmp_path, "t.csv", text)) == [
        (2, "not valid UTF-8"),
        (3, {"id": "b", "caption": "tea"}),
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_header_of_another_encoding_names_the_remedy(tmp_path: Path, encoding: str) -> None:
    file = put(tmp_path, "t.csv", "id,légende\na,b\n".encode(encoding))
    with pytest.raises(UserError, match=r"t\.csv is not UTF-8; convert it.* iconv"):
        read(file)


def test_rows_with_cells_too_many_or_too_few(tmp_path: Path) -> None:
    assert read(put(tmp_path, "t.csv", "a,b\n1\n1,2,3\n1,2\n")) == [
        (2, "1 cells where the header has 2"),
        (3, "3 cells where the header has 2"),
        (4, {"a": "1", "b": "2"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: its first line must name the columns"),
        ("\n\na,b\n", "is empty: its first line must name the columns"),
        ("id,x,id\n1,2,3\n", "has two columns 'id'; rename one"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(put(tmp_path, "t.csv", text))


def test_cells_far_beyond_the_usual_limit(tmp_path: Path) -> None:
    cell = "x" * 300_000
    [(line, values)] = read(put(tmp_path, "t.csv", f"id,cell\na,{cell}\n"))
    assert (line, values["cell"]) == (2, cell)


def test_a_quote_that_never_ends_swallows_what_follows(tmp_path: Path) -> None:
    # As CSV says; the fault stands at its first line, whether or not its cells are enough.
    for row in ('"3,4', '3,"4'):
        assert read(put(tmp_path, "t.csv", f"a,b\n1,2\n{row}\n5,6\n7,8")) == [
            (2, {"a": "1", "b": "2"}),
            (3, "a quotation mark is not closed: 2 more lines are lost in it"),
        ]
    assert read(put(tmp_path, "t.csv", 'a,b\n1,"2\n3"')) == [(2, {"a": "1", "b": "2\n3"})]


# ------------------------------------------------------------------ JSON


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"a": 1}',
        b"",
        b'{"a": "caf\xe9"}',
        b'{"a": ',
        b'["a"]',
        b"[" * 100_000,
        b'{"a": "half \\ud83d"}',
        b'{"a": "whole \\ud83d\\ude00"}',
    ]
    found = read(put(tmp_path, "t.jsonl", b"\n".join(lines)))
    assert [line for line, _ in found] == [1, 3, 4, 5, 6, 7, 8]
    assert found[0][1] == {"a": 1}
    assert found[1][1] == "not valid UTF-8"
    assert found[2][1].startswith("not readable as JSON: Expecting value")
    assert found[3][1] == "not a JSON object"
    assert found[4][1].startswith("not readable as JSON: maximum recursion depth")
    assert found[5][1] == "holds half a character (a lone surrogate)"
    assert found[6][1] == {"a": "whole \U0001f600"}


def test_a_json_list_and_one_inside_an_object(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "字"}, {"id": 2, "text": None}]
    assert read(put(tmp_path, "t.json", json.dumps(rows))) == [(1, rows[0]), (2, rows[1])]
    inside = put(tmp_path, "u.json.gz", json.dumps({"info": {}, "videos": rows, "more": [1]}))
    assert read(inside, items="videos.item") == [(1, rows[0]), (2, rows[1])]
    assert read(inside, items="more.item") == [(1, "not a JSON object")]
    assert read(inside, items="absent.item") == []
    with pytest.raises(UserError, match=r"u\.json\.gz holds no list of rows but one JSON object"):
        read(inside)


def test_a_json_list_that_breaks_in_the_middle(tmp_path: Path) -> None:
    found = read(put(tmp_path, "t.json", '[{"id": 1}, {"id": 2}, {"id": 3, "te'))
    assert found[:2] == [(1, {"id": 1}), (2, {"id": 2})]
    [(place, message)] = found[2:]
    assert place == 3
    assert message.startswith("not readable as JSON from here to the file's end: ")


# ------------------------------------------------------------------ packed files, Parquet


def test_a_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    # Nothing compresses here, so that the rows before the cut come out.
    rows = "".join(f'{{"id": "{os.urandom(40).hex()}"}}\n' for _ in range(2_000))
    data = gzip.compress(rows.encode())
    file = tmp_path / "t.jsonl.gz"
    file.write_bytes(data[: len(data) // 2])
    found = read(file)
    assert 500 < len(found) < 1_500
    assert [line for line, _ in found] == list(range(1, len(found) + 1))
    assert found[-1][1] == (
        "not readable from here to the file's end: "
        "Compressed file ended before the end-of-stream marker was reached"
    )
    assert all(isinstance(values, dict) for _, values in found[:-1])


def test_a_csv_that_is_packed_in_name_only(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_text("id\na\n")
    with pytest.raises(UserError, match=r"t\.csv\.gz cannot be read: Not a gzipped file"):
        read(tmp_path / "t.csv.gz")


def test_parquet(tmp_path: Path) -> None:
    rows = [{"id": "a", "times": [0.5, 1.0]}, {"id": None, "times": []}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert header(tmp_path / "t.parquet", "test") == ["id", "times"]
    assert read(tmp_path / "t.parquet") == [(1, rows[0]), (2, rows[1])]
    with pytest.raises(UserError, match=r"u\.parquet is not a Parquet file"):
        read(put(tmp_path, "u.parquet", "id\na\n"))


def test_a_damaged_page_of_a_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    table = pa.table({"id": [os.urandom(20).hex() for _ in range(4_000)]})
    pq.write_table(table, file, row_group_size=1_000, compression="gzip", use_dictionary=False)
    start = pq.ParquetFile(file).metadata.row_group(2).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start + 100 : start + 20_000] = bytes(19_900)
    file.write_bytes(data)
    found = read(file)
    assert [values["id"] for _, values in found[:1000]] == table["id"].to_pylist()[:1000]
    assert found[-1][1].startswith("not readable from here to the file's end: ")
    assert len(found) - 1 in (1_024, 2_000, 2_048)  # whole batches before the damage


# ------------------------------------------------------------------ headers of all formats


def test_the_columns_of_json_are_those_of_its_first_rows(tmp_path: Path) -> None:
    lines = put(tmp_path, "t.jsonl", '{"a": 1}\nnot JSON\n{"b": 1, "a": 2}\n')
    assert header(lines, "test") == ["a", "b"]
    inside = put(tmp_path, "t.json", '{"videos": [{"start time": 1}]}')
    assert header(inside, "test", items="videos.item") == ["start time"]
    assert header(put(tmp_path, "u.jsonl", "nothing\n"), "test") == []


# ------------------------------------------------------------------ files


def test_a_file_a_folder_and_a_pattern(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.jsonl.gz", "notes.txt"):
        put(tmp_path, name, "id\n1\n")
    (tmp_path / "below.csv").mkdir()
    assert metadata_files(str(tmp_path / "b.csv"), "test") == [tmp_path / "b.csv"]
    assert [f.name for f in metadata_files(str(tmp_path), "test")] == [
        "a.csv",
        "b.csv",
        "c.jsonl.gz",
    ]
    assert [f.name for f in metadata_files(f"{tmp_path}/*.csv", "test")] == ["a.csv", "b.csv"]
    assert suffix_of(Path("x/c.JSONL.GZ")) == ".jsonl"
    with pytest.raises(UserError, match=r"notes\.txt ends in none of \.csv, "):
        metadata_files(f"{tmp_path}/n*.txt", "test")
    with pytest.raises(UserError, match=r"none\.csv is not a metadata file; name one in the sour"):
        metadata_files(str(tmp_path / "none.csv"), "test")


# ------------------------------------------------------------------ times, faults


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0:01:20.880", 80.88),
        ("00:03:10.567", 190.567),
        ("100:00:00", 360000.0),
        ("1:20", 80.0),
        (" 12.5 ", 12.5),
        (7, 7.0),
        ("", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_times(value: Any, seconds: float | None) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize("value", ["-1", -1, "soon", "1e999", float("inf"), True, [1], "1:2:3:4"])
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a time; write seconds or HH:MM:SS"):
        parse_time(value)


def test_a_fault_holds_its_row_with_long_cells_cut_short() -> None:
    row = MetadataRow("t.csv:3", {"id": "a", "n": 2, "cell": "x" * 5_000, "list": [1, "b"]})
    assert row.fault("too long") == RowFault(
        "t.csv:3",
        "too long",
        {"id": "a", "n": 2, "cell": "x" * 2_000 + "... (5000 characters)", "list": "[1, 'b']"},
    )
