"""Table: videos named by the rows of a CSV, JSONL or Parquet file."""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate import ClipRow, RowFault, Source, UserError, VideoRow

_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_VIDEO_COLUMNS = ("path", "file", "url", "video")
_RIGHTS = ("license", "terms", "channel", "retrieved_at", "sha256")
_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
_SAMPLE = 10_000  # rows from which the types of CSV and JSONL columns are told
_LOOK_AHEAD = 1_000  # videos that wait for more rows
_CELL = 2**27  # characters: published cells are far longer than csv's own limit

# No leading zeros: 007 is a name.
_INT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][-+]?\d+)?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")

Row = Mapping[str, Any]
TypeName = Literal["string", "int64", "float64", "bool"]


class Table(Source):
    """One video, or one clip of a video, per row of a CSV, TSV, JSONL or Parquet file.

    path: the file; its ending tells the format. CSV has a header and is UTF-8.
    column: names the video: a local path or an http(s) URL. Default: the first of path, file,
        url, video that exists.
    start, end: columns with the clip's times, as seconds or HH:MM:SS.mmm, from the video's first
        frame. Default: the columns of these names, where they exist. Without them a row is the
        whole video. The splitter `timestamps` cuts at them.
    caption: the column of the dataset's caption (default: caption).
    dataset_id: the column of the dataset's own id (default: id); of the video's first row.
    base: the folder that relative paths start from (default: the table's own).
    types: column -> string, int64, float64 or bool, where the type told from the first 10,000
        rows of a CSV or JSONL file is not the right one.

    All other columns are kept with their types, and the id's, too; license, terms, channel,
    retrieved_at and sha256 become the video's rights. A CSV column is a number only if every
    value looks like one (007 does not); nested JSON is kept as JSON text; a CSV column without a
    name is left out. Files are streamed. Rows of one video become one video with several clips if
    no more than 1,000 other videos stand between them; else the video comes up again. A row that
    is malformed, repeats a clip, or misses its column's type goes to the quarantine.
    """

    name: ClassVar[str] = "table"

    path: str
    column: str | None = None
    start: str | None = None
    end: str | None = None
    caption: str | None = None
    dataset_id: str | None = None
    base: str | None = None
    types: dict[str, TypeName] = {}

    def dataset_schema(self) -> pa.Schema:
        """The columns that are kept for each clip, in the order of the file.

        Raises:
            UserError: the file is missing, of another format, or lacks a named column.
        """
        return pa.schema(list(self._columns().kept.items()))

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in the order of their first rows; faults as they are met.

        Raises:
            UserError: the file is missing, of another format, or lacks a named column.
        """
        file, columns = self._file(), self._columns()
        waiting: OrderedDict[str, _Video] = OrderedDict()
        for line, row in _rows(file):
            where = f"{file}:{line}"
            if isinstance(row, str):
                yield RowFault(where, row)
                continue
            try:
                location = self._location(row.get(columns.video))
                clip = _clip(row, columns)
                if location not in waiting:
                    waiting[location] = _Video(_text(row, columns.dataset_id), _rights(row))
                waiting[location].add(clip, line)
            except ValueError as error:
                yield RowFault(where, str(error), _plain(row))
                continue
            if len(waiting) > _LOOK_AHEAD:
                yield self._video(*waiting.popitem(last=False))
        for item in waiting.items():
            yield self._video(*item)

    def _file(self) -> Path:
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise UserError(f"table: {file} is not a file; set the source's path, or give --input")
        if file.suffix.lower() not in _FORMATS:
            raise UserError(f"table: {file} ends in none of {', '.join(_FORMATS)}")
        return file

    def _columns(self) -> _Columns:
        file = self._file()
        types = _types(file, {name: _TYPES[kind] for name, kind in self.types.items()})

        def named(what: str, given: str | None, *defaults: str) -> str | None:
            if given is None or given in types:
                return given or next((name for name in defaults if name in types), None)
            near = difflib.get_close_matches(given, types, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"table: {file} has no column {given!r} ({what}){hint} It has: {', '.join(types)}"
            )

        for name in self.types:
            named("types", name)
        video = named("column", self.column, *_VIDEO_COLUMNS)
        if video is None:
            raise UserError(
                f"table: {file} has none of the columns {', '.join(_VIDEO_COLUMNS)}; name the one "
                f"that holds paths or URLs with `column`. It has: {', '.join(types)}"
            )
        start, end = named("start", self.start, "start"), named("end", self.end, "end")
        caption = named("caption", self.caption, "caption")
        apart = {video, start, end, caption, *_RIGHTS}
        return _Columns(
            video,
            start,
            end,
            caption,
            named("dataset_id", self.dataset_id, "id"),
            {name: kind for name, kind in types.items() if name not in apart},
            is_text=file.suffix.lower() in (".csv", ".tsv"),
            is_typed=file.suffix.lower() == ".parquet",
        )

    def _location(self, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError("no path or URL of a video in this row")
        value = value.strip()
        if "\0" in value:
            raise ValueError("the path holds a zero byte")
        return value if "://" in value else str(self._base() / value)

    def _base(self) -> Path:
        given = self.path if self.base is None else self.base
        folder = Path(given).expanduser()
        return folder.parent if self.base is None else folder

    def _video(self, location: str, video: _Video) -> VideoRow:
        relative = None
        if "://" not in location:
            relative = Path(os.path.relpath(location, self._base())).as_posix()
        whole = len(video.clips) == 1 and video.clips[0].start is video.clips[0].end is None
        return VideoRow(
            location,
            relative=relative,
            dataset_id=video.dataset_id,
            clips=tuple(video.clips),
            # Of the whole video, then, and of whatever clips it is split into.
            fields=video.clips[0].fields if whole else {},
            rights=video.rights,
        )


@dataclass(frozen=True)
class _Columns:
    """Which column is what. `kept`: the dataset's columns that stay, with their types."""

    video: str
    start: str | None
    end: str | None
    caption: str | None
    dataset_id: str | None
    kept: Mapping[str, pa.DataType]
    is_text: bool
    is_typed: bool


@dataclass
class _Video:
    """What is known so far of one video."""

    dataset_id: str | None
    rights: Mapping[str, str]
    clips: list[ClipRow] = field(default_factory=list)
    lines: dict[tuple[float | None, float | None], int] = field(default_factory=dict)

    def add(self, clip: ClipRow, line: int) -> None:
        first = self.lines.setdefault((clip.start, clip.end), line)
        if first != line:
            raise ValueError(f"repeats the clip of line {first}")
        self.clips.append(clip)


def _clip(row: Row, columns: _Columns) -> ClipRow:
    start, end = _time(row, columns.start), _time(row, columns.end)
    if end is not None:
        start = start or 0.0
        if start >= end:
            raise ValueError(f"start ({start:g} s) is not before end ({end:g} s)")
    fields = {
        name: row.get(name) if columns.is_typed else _value(name, row.get(name), kind, columns)
        for name, kind in columns.kept.items()
    }
    return ClipRow(start, end, _text(row, columns.caption), fields)


def _time(row: Row, column: str | None) -> float | None:
    """Seconds; None where the row has none (a NaN is how pandas writes that)."""
    value = row.get(column) if column else None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        clock = _CLOCK.fullmatch(text)
        if clock:
            return round(int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3]), 6)
        if _FLOAT.fullmatch(text):
            value = float(text)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ValueError(f"{column}: {value!r} is not a time; write seconds or HH:MM:SS.mmm")


def _text(row: Row, column: str | None) -> str | None:
    value = row.get(column) if column else None
    return None if value is None or value == "" else str(value)


def _rights(row: Row) -> dict[str, str]:
    found = {name: _text(row, name) for name in _RIGHTS}
    return {name: value for name, value in found.items() if value is not None}


def _value(name: str, value: Any, kind: pa.DataType, columns: _Columns) -> Any:
    """A cell of a CSV or JSONL row as a value of its column's type."""
    if value is None or (columns.is_text and value == "" and kind != pa.string()):
        return None
    if kind == pa.string():
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if _fits(value, kind, columns.is_text):
        if kind == pa.bool_():
            return value.lower() == "true" if columns.is_text else value
        return int(value) if kind == pa.int64() else float(value)
    raise ValueError(
        f"{name}: {value!r} is no {kind}, as the column's first rows are; "
        f"set types: {{{name}: string}} to keep all of it"
    )


def _fits(value: Any, kind: pa.DataType, is_text: bool) -> bool:
    if is_text:
        if kind == pa.bool_():
            return value.lower() in ("true", "false")
        return (_INT if kind == pa.int64() else _FLOAT).fullmatch(value) is not None
    if isinstance(value, bool) or kind == pa.bool_():
        return isinstance(value, bool) and kind == pa.bool_()
    if kind == pa.int64():
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float)


def _types(file: Path, given: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Column -> type, in the order of the file."""
    if file.suffix.lower() == ".parquet":
        schema = _parquet(file).schema_arrow
        return dict(zip(schema.names, schema.types, strict=True))
    is_text = file.suffix.lower() in (".csv", ".tsv")
    names = dict.fromkeys(_header(file)) if is_text else {}
    rows = [row for _, row in islice(_rows(file), _SAMPLE) if not isinstance(row, str)]
    for row in rows:
        names.update(dict.fromkeys(row))
    return {name: given.get(name) or _kind(rows, name, is_text) for name in names if name}


def _kind(rows: Sequence[Row], name: str, is_text: bool) -> pa.DataType:
    """The narrowest type that all values of the column have."""
    values = [v for row in rows if (v := row.get(name)) is not None and not (is_text and v == "")]
    for kind in (pa.bool_(), pa.int64(), pa.float64()):
        if values and all(_fits(value, kind, is_text) for value in values):
            return kind
    return pa.string()


def _rows(file: Path) -> Iterator[tuple[int, Row | str]]:
    """(line, row) of the file, or (line, what is wrong with it)."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(file)
    return _csv_rows(file) if suffix in (".csv", ".tsv") else _json_rows(file)


def _csv_text(file: Path) -> TextIO:
    # surrogateescape: a byte that is no UTF-8 spoils its own row only.
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _csv_reader(lines: TextIO, file: Path) -> Any:
    csv.field_size_limit(_CELL)
    return csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")


def _header(file: Path) -> list[str]:
    with _csv_text(file) as lines:
        header: list[str] = next(_csv_reader(lines, file), [])
    if not _is_unicode("".join(header)):
        raise UserError(
            f"table: {file} is not UTF-8; convert it, for example with iconv -f LATIN1 -t UTF-8 "
            "(UTF-16 for a table from a spreadsheet)"
        )
    if not any(header):
        raise UserError(f"table: {file} is empty: its first line must name the columns")
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise UserError(f"table: {file} has two columns {sorted(twice)[0]!r}; rename one")
    return header


def _csv_rows(file: Path) -> Iterator[tuple[int, Row | str]]:
    header = _header(file)
    with _csv_text(file) as lines:
        reader = _csv_reader(lines, file)
        next(reader)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"not readable as CSV: {error}"
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield line, f"{len(cells)} cells where the header has {len(header)}"
            elif not _is_unicode("".join(cells)):
                yield line, "not valid UTF-8"
            else:
                yield line, dict(zip(header, cells, strict=True))


def _json_rows(file: Path) -> Iterator[tuple[int, Row | str]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                yield number, "not valid UTF-8"
            except (ValueError, RecursionError) as error:
                yield number, f"not readable as JSON: {error}"
            else:
                if not isinstance(row, dict):
                    yield number, "not a JSON object"
                # Half of a surrogate pair can be written as \ud800.
                elif b"\\ud" in line and not _is_unicode(json.dumps(row, ensure_ascii=False)):
                    yield number, "holds half a character (a lone surrogate)"
                else:
                    yield number, row


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UserError(f"table: {file} is not a Parquet file: {error}") from error


def _parquet_rows(file: Path) -> Iterator[tuple[int, Row | str]]:
    """Rows count from 1."""
    number = 0
    with _parquet(file) as parquet:
        for batch in parquet.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _plain(row: Row) -> dict[str, Any]:
    """The row as JSON can hold it."""
    simple = str | int | float | bool | None
    return {name: v if isinstance(v, simple) else str(v) for name, v in row.items()}
