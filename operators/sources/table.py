"""Table: videos named by the rows of a CSV, JSONL or Parquet file."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from vidcurate import (
    ClipRow,
    RowFault,
    Source,
    UserError,
    VideoRow,
    header,
    parquet_file,
    parse_time,
    read_rows,
)

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

# No leading zeros: 007 is a name.
_INT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][-+]?\d+)?")

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
        for found in read_rows(file, "table"):
            if isinstance(found, RowFault):
                yield found
                continue
            row = found.values
            try:
                location = self._location(row.get(columns.video))
                clip = _clip(row, columns)
                if location not in waiting:
                    waiting[location] = _Video(_text(row, columns.dataset_id), _rights(row))
                waiting[location].add(clip, int(found.where.rpartition(":")[2]))
            except ValueError as error:
                yield found.fault(str(error))
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
    """Seconds; None where the row has none."""
    try:
        return parse_time(row.get(column) if column else None)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from error


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
        schema = parquet_file(file, "table").schema_arrow
        return dict(zip(schema.names, schema.types, strict=True))
    is_text = file.suffix.lower() in (".csv", ".tsv")
    names = dict.fromkeys(header(file, "table")) if is_text else {}
    found = islice(read_rows(file, "table"), _SAMPLE)
    rows = [row.values for row in found if not isinstance(row, RowFault)]
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
