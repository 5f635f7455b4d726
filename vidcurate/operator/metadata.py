"""Reading a dataset's metadata: rows of CSV, JSON and Parquet files, streamed, each with its place.

A row that cannot be read is a `RowFault`; the rows after it are read all the same. Memory does
not grow with the file.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO, cast

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.errors import UserError
from vidcurate.operator.base import RowFault

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of the files that are read; all but Parquet also with `.gz` behind."""

_CELL = 2**27  # characters: published cells are far longer than csv's own limit
_BLANK = 4096  # bytes in which the first bracket of a JSON file stands
_PEEK = 1_000  # rows of JSON that tell its columns
_SHOWN = 2_000  # characters of a cell in the quarantine
# A packed file that is cut off or damaged, a damaged page of a Parquet file, a failing disk.
_BROKEN = (EOFError, OSError, zlib.error, pa.ArrowInvalid)
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_SECONDS = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class MetadataRow:
    """One row of a metadata file.

    where: file and line (the number of the row in JSON lists and Parquet), for people.
    values: column -> value: text in CSV and TSV, else what JSON or Parquet hold.
    """

    where: str
    values: Mapping[str, Any]

    def fault(self, message: str) -> RowFault:
        """That this row cannot be used; the payload is its values, long ones cut short."""
        simple = int | float | bool | None
        plain = {k: v if isinstance(v, simple) else _short(v) for k, v in self.values.items()}
        return RowFault(self.where, message, plain)


def metadata_files(given: str, who: str) -> list[Path]:
    """The files that a path names: one file, or all of a folder or a pattern, sorted.

    Args:
        given: a file, a folder, or a pattern such as "parts/*.csv". who: named in errors.

    Raises:
        UserError: there is no such file, or it is of no format that is read.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        files = [p for p in sorted(path.iterdir()) if p.is_file() and suffix_of(p) in SUFFIXES]
    elif "*" in path.name and not path.exists():
        files = [p for p in sorted(path.parent.glob(path.name)) if p.is_file()]
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise UserError(
            f"{who}: {path} is not a metadata file; name one in the source, or give --input"
        )
    for file in files:
        if suffix_of(file) not in SUFFIXES:
            raise UserError(f"{who}: {file} ends in none of {', '.join(SUFFIXES)}")
        if not os.access(file, os.R_OK):
            raise UserError(f"{who}: {file} cannot be read; check its permissions")
    return files


def suffix_of(file: Path) -> str:
    """The ending in lower case that tells the format, without a `.gz` behind it."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix == ".gz" else suffix


def read_rows(file: Path, who: str, *, items: str = "item") -> Iterator[MetadataRow | RowFault]:
    """The rows of a file in order, streamed.

    Args:
        file: CSV or TSV (UTF-8, the first line names the columns), JSONL, JSON, or Parquet.
        who: named in errors: the source.
        items: of a JSON file, where the rows are: "item" for a list at the top, "videos.item"
            for one under the key "videos" (the paths of ijson).

    Raises:
        UserError: the file has no usable header, or is not of the format that its name says.
    """
    suffix = suffix_of(file)
    if suffix == ".parquet":
        rows = _parquet_rows(file, who)
    elif suffix in (".csv", ".tsv"):
        rows = _csv_rows(file, who)
    elif suffix == ".json":
        rows = _json_items(file, who, items)
    else:
        rows = _json_lines(file)
    number = 0
    try:
        for number, row in rows:
            where = f"{file}:{number}"
            yield RowFault(where, row) if isinstance(row, str) else MetadataRow(where, row)
    except _BROKEN as error:
        message = f"not readable from here to the file's end: {error}"
        yield RowFault(f"{file}:{number + 1}", message)


def header(file: Path, who: str, *, items: str = "item") -> list[str]:
    """The columns of a file: of CSV, TSV and Parquet as it names them, in the file's order.

    Of JSONL and JSON: the keys of the first 1,000 rows; none where these cannot be read.

    Args:
        file, who, items: as of `read_rows`.

    Raises:
        UserError: a CSV is not UTF-8, empty, or has a column twice; a Parquet file is none.
    """
    suffix = suffix_of(file)
    if suffix == ".parquet":
        with parquet_file(file, who) as parquet:
            return list(parquet.schema_arrow.names)
    if suffix not in (".csv", ".tsv"):
        rows = islice(read_rows(file, who, items=items), _PEEK)
        found = (row.values for row in rows if isinstance(row, MetadataRow))
        return list(dict.fromkeys(name for values in found for name in values))
    try:
        with _csv_text(file) as lines:
            names: list[str] = next(_csv_reader(lines, file), [])
    except (*_BROKEN, csv.Error) as error:
        raise UserError(f"{who}: {file} cannot be read: {error}") from error
    if not _is_unicode("".join(names)):
        raise UserError(
            f"{who}: {file} is not UTF-8; convert it, for example with iconv -f LATIN1 -t UTF-8 "
            "(UTF-16 for a table from a spreadsheet)"
        )
    if not any(names):
        raise UserError(f"{who}: {file} is empty: its first line must name the columns")
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise UserError(f"{who}: {file} has two columns {sorted(twice)[0]!r}; rename one")
    return names


def parquet_file(file: Path, who: str) -> pq.ParquetFile:
    """The opened file.

    Raises:
        UserError: it is no Parquet file.
    """
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UserError(f"{who}: {file} is not a Parquet file: {error}") from error


def parse_time(value: Any) -> float | None:
    """Seconds of a time given in seconds or as H:MM:SS.mmm or MM:SS; None where there is none.

    None, an empty text and a NaN (how pandas writes that) are no time.

    Raises:
        ValueError: anything else, negative and infinite numbers included.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        clock = _CLOCK.fullmatch(text)
        if clock:
            return round(int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3]), 6)
        if _SECONDS.fullmatch(text):
            value = float(text)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ValueError(f"{repr(value)[:80]} is not a time; write seconds or HH:MM:SS.mmm")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _binary(file: Path) -> IO[bytes]:
    is_packed = file.suffix.lower() == ".gz"
    return cast(IO[bytes], gzip.open(file, "rb")) if is_packed else file.open("rb")


def _csv_text(file: Path) -> TextIO:
    # surrogateescape: a byte that is no UTF-8 spoils its own row only.
    how = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    if file.suffix.lower() == ".gz":
        return cast(TextIO, gzip.open(file, "rt", **how))  # type: ignore[call-overload]
    return cast(TextIO, file.open(**how))  # type: ignore[call-overload]


def _noting_end(lines: Iterable[str], is_read: list[bool]) -> Iterator[str]:
    """The lines; something is put into `is_read` once one more is asked for than there are."""
    yield from lines
    is_read.append(True)


def _csv_reader(lines: Iterable[str], file: Path) -> Any:
    csv.field_size_limit(_CELL)
    return csv.reader(lines, delimiter="\t" if suffix_of(file) == ".tsv" else ",")


def _csv_rows(file: Path, who: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    names = header(file, who)
    with _csv_text(file) as lines:
        is_read: list[bool] = []
        reader = _csv_reader(_noting_end(lines, is_read), file)
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
            if is_read:  # in the middle of a cell
                lost = reader.line_num - line
                yield line, f"a quotation mark is not closed: {lost} more lines are lost in it"
            elif len(cells) != len(names):
                yield line, f"{len(cells)} cells where the header has {len(names)}"
            elif not _is_unicode("".join(cells)):
                yield line, "not valid UTF-8"
            else:
                yield line, dict(zip(names, cells, strict=True))


def _json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    with _binary(file) as lines:
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


def _json_items(file: Path, who: str, items: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Rows count from 1; what follows a mistake in the JSON cannot be read."""
    number = 0
    with _binary(file) as text:
        if items == "item" and text.read(_BLANK).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            raise UserError(
                f"{who}: {file} holds no list of rows but one JSON object; if it has a row a line, "
                "name it .jsonl"
            )
    with _binary(file) as text:
        found = ijson.items(text, items, use_float=True)
        while True:
            try:
                row = next(found)
            except StopIteration:
                return
            except (ijson.JSONError, UnicodeDecodeError) as error:
                yield number + 1, f"not readable as JSON from here to the file's end: {error}"
                return
            number += 1
            if not isinstance(row, dict):
                yield number, "not a JSON object"
            elif not _is_unicode(json.dumps(row, ensure_ascii=False)):
                yield number, "holds half a character (a lone surrogate)"
            else:
                yield number, row


def _parquet_rows(file: Path, who: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Rows count from 1."""
    number = 0
    with parquet_file(file, who) as parquet:
        for batch in parquet.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
