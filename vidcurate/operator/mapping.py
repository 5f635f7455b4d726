"""Rows of a table as videos: which column is what, and which types the others have."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa

from vidcurate.clip import RIGHTS, is_url
from vidcurate.errors import UserError
from vidcurate.operator.base import ClipRow, RowFault, VideoRow
from vidcurate.operator.metadata import (
    SUFFIXES,
    MetadataRow,
    header,
    parquet_file,
    parse_time,
    read_rows,
    suffix_of,
)

VIDEO_COLUMNS = ("path", "file", "url", "video")
"""The column of the video is the first of these that a table has, unless it is named."""

TypeName = Literal["string", "int64", "float64", "bool"]
"""How recipes write a column's type."""

_TYPES: Mapping[TypeName, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
_SAMPLE = 10_000  # rows from which the types of columns are told
_LOOK_AHEAD = 1_000  # videos that wait for more rows

# No leading zeros: 007 is a name.
_INT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][-+]?\d+)?")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RowMap:
    """Which column of a table is what; made by `of`.

    kept: the dataset's columns that stay, with their types. base: the folder, or the URL, that
    relative paths start from. is_text: values are text that may stand for numbers (CSV).
    is_typed: values have their column's type already (Parquet).
    """

    video: str
    start: str | None
    end: str | None
    caption: str | None
    dataset_id: str | None
    kept: Mapping[str, pa.DataType]
    base: str
    is_text: bool = False
    is_typed: bool = False

    @classmethod
    def of(
        cls,
        who: str,
        place: str,
        columns: Mapping[str, pa.DataType],
        *,
        base: str,
        column: str | None = None,
        times: tuple[str | None, str | None] | None = None,
        caption: str | None = None,
        dataset_id: str | None = None,
        video_columns: Sequence[str] = VIDEO_COLUMNS,
        given: Iterable[str] = (),
        is_text: bool = False,
        is_typed: bool = False,
    ) -> RowMap:
        """Find the columns.

        Args:
            who: the source, and place: the file or data set; both for messages.
            columns: all columns of the table, with their types.
            column, times (start and end), caption, dataset_id: names that the user gave; None
                takes the usual name where there is such a column. Without `times` no column is a
                clip's time: a row is a whole video.
            video_columns: usual names of the video's column. given: other columns that must exist.

        Raises:
            UserError: a named column does not exist, or none holds the videos.
        """

        def named(what: str, name: str | None, *usual: str) -> str | None:
            if name is None or name in columns:
                return name or next((each for each in usual if each in columns), None)
            near = difflib.get_close_matches(name, columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{who}: {place} has no column {name!r} ({what}){hint} It has: {', '.join(columns)}"
            )

        for name in given:
            named("types", name)
        video = named("column", column, *video_columns)
        if video is None:
            raise UserError(
                f"{who}: {place} has none of the columns {', '.join(video_columns)}; name the one "
                f"that holds paths or URLs with `column`. It has: {', '.join(columns)}"
            )
        start = end = None
        if times is not None:
            start, end = named("start", times[0], "start"), named("end", times[1], "end")
        caption = named("caption", caption, "caption")
        apart = {video, start, end, caption, *RIGHTS}
        return cls(
            video,
            start,
            end,
            caption,
            named("dataset_id", dataset_id, "id"),
            {name: kind for name, kind in columns.items() if name not in apart},
            base,
            is_text=is_text,
            is_typed=is_typed,
        )

    @classmethod
    def of_file(
        cls,
        who: str,
        path: str,
        types: Mapping[str, TypeName],
        *,
        base: str | None = None,
        **columns: Any,
    ) -> tuple[Path, RowMap]:
        """A metadata file and its map; `base` (a folder or a URL) is by default its folder.

        Args:
            who: the source, for messages. path: the file. types: those that the user gave.
            columns: as for `of`.

        Raises:
            UserError: the file is missing, of another format, or lacks a named column.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"{who}: {file} is not a file; set the source's path, or give --input")
        if suffix_of(file) not in SUFFIXES:
            raise UserError(f"{who}: {file} ends in none of {', '.join(SUFFIXES)}")
        if base is None:
            base = str(file.parent)
        elif not is_url(base):
            base = str(Path(base).expanduser())
        suffix = suffix_of(file)
        return file, cls.of(
            who,
            str(file),
            file_types(file, who, types),
            base=base,
            given=types,
            is_text=suffix in (".csv", ".tsv"),
            is_typed=suffix == ".parquet",
            **columns,
        )

    def schema(self) -> pa.Schema:
        """The columns that are kept for each clip, in the table's order."""
        return pa.schema(list(self.kept.items()))

    def videos(self, rows: Iterable[MetadataRow | RowFault]) -> Iterator[VideoRow | RowFault]:
        """The videos of the rows, in the order of their first rows; faults as they are met.

        Rows of one video become one VideoRow if no more than 1,000 other videos stand between
        them; else the video comes up again, for the runner to bring together. `where` of the rows
        ends in ":" and their number.
        """
        waiting: OrderedDict[str, _Video] = OrderedDict()
        for found in rows:
            if isinstance(found, RowFault):
                yield found
                continue
            row = found.values
            try:
                location = self._location(row.get(self.video))
                clip = self._clip(row)
                if location not in waiting:
                    waiting[location] = _Video(_text(row, self.dataset_id), _rights(row))
                waiting[location].add(clip, int(found.where.rpartition(":")[2]))
            except ValueError as error:
                yield found.fault(str(error))
                continue
            if len(waiting) > _LOOK_AHEAD:
                yield self._row(*waiting.popitem(last=False))
        for item in waiting.items():
            yield self._row(*item)

    def _location(self, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError("no path or URL of a video in this row")
        where: str = value.strip()
        if "\0" in where:
            raise ValueError("the path holds a zero byte")
        if is_url(where):
            return where
        if is_url(self.base):
            # Rows of strangers name files beside them, never files of this machine.
            return f"{self.base.rstrip('/')}/{quote(where.lstrip('/'))}"
        return str(Path(self.base) / where)

    def _clip(self, row: Row) -> ClipRow:
        start, end = _time(row, self.start), _time(row, self.end)
        if end is not None:
            start = start or 0.0
            if start >= end:
                raise ValueError(f"start ({start:g} s) is not before end ({end:g} s)")
        fields = {
            name: row.get(name)
            if self.is_typed
            else fit_value(name, row.get(name), kind, self.is_text)
            for name, kind in self.kept.items()
        }
        return ClipRow(start, end, _text(row, self.caption), fields)

    def _row(self, location: str, video: _Video) -> VideoRow:
        relative = None
        if not is_url(location):
            relative = Path(os.path.relpath(location, self.base)).as_posix()
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


def file_types(file: Path, who: str, given: Mapping[str, TypeName]) -> dict[str, pa.DataType]:
    """Column -> type of a metadata file, in its order.

    Parquet states its types; of CSV and JSON they are told from the first 10,000 rows, except
    those that are `given`. A column without a name is left out.

    Raises:
        UserError: the file is not of the format that its name says.
    """
    suffix = suffix_of(file)
    if suffix == ".parquet":
        schema = parquet_file(file, who).schema_arrow
        return dict(zip(schema.names, schema.types, strict=True))
    is_text = suffix in (".csv", ".tsv")
    names = header(file, who) if is_text else []
    found = islice(read_rows(file, who), _SAMPLE)
    rows = [row.values for row in found if not isinstance(row, RowFault)]
    return tell_types(rows, given, names=names, is_text=is_text)


def tell_types(
    rows: Sequence[Row],
    given: Mapping[str, TypeName],
    *,
    names: Iterable[str] = (),
    is_text: bool = False,
) -> dict[str, pa.DataType]:
    """Column -> type, told from some rows: the narrowest that all values of the column have.

    Args:
        given: types that are known. names: columns that come first, whether or not a row has them.
        is_text: values are text that may stand for numbers.
    """
    known = dict.fromkeys(names)
    for row in rows:
        known.update(dict.fromkeys(row))
    return {
        name: _TYPES[given[name]] if name in given else _kind(rows, name, is_text)
        for name in known
        if name
    }


def fit_value(name: str, value: Any, kind: pa.DataType, is_text: bool = False) -> Any:
    """A value of CSV (`is_text`) or JSON as one of its column's type; nested ones as JSON text.

    Raises:
        ValueError: it does not fit; the message names the column and the remedy.
    """
    if value is None or (is_text and value == "" and kind != pa.string()):
        return None
    if kind == pa.string():
        if isinstance(value, str):
            return value
        return json.dumps(value, ensure_ascii=False, default=str)
    if _fits(value, kind, is_text):
        if kind == pa.bool_():
            return value.lower() == "true" if is_text else value
        return int(value) if kind == pa.int64() else float(value)
    raise ValueError(
        f"{name}: {value!r} is no {kind}, as the column's first rows are; "
        f"set types: {{{name}: string}} to keep all of it"
    )


def _kind(rows: Sequence[Row], name: str, is_text: bool) -> pa.DataType:
    values = [v for row in rows if (v := row.get(name)) is not None and not (is_text and v == "")]
    for kind in (pa.bool_(), pa.int64(), pa.float64()):
        if values and all(_fits(value, kind, is_text) for value in values):
            return kind
    return pa.string()


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
    found = {name: _text(row, name) for name in RIGHTS}
    return {name: value for name, value in found.items() if value is not None}
