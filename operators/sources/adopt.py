"""Adopt: clips that another tool has cut, with its table of scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vidcurate import RowFault, RowMap, Source, TypeName, VideoRow, read_rows


class Adopt(Source):
    """Clips already cut elsewhere: one clip file per row of a CSV, JSON or Parquet table.

    path: the table; its ending tells the format, as of the source `table`.
    column: names the clip's file: a local path or an http(s) URL. Default: the first of path,
        file, clip, video that exists.
    caption: the column of the caption (default: caption).
    dataset_id: the column of the clip's own id (default: id).
    base: the folder, or the URL, that relative paths start from (default: the table's folder).
    types: column -> string, int64, float64 or bool, where the type told from the first 10,000
        rows of a CSV or JSON file is not the right one.

    A row is always a whole file. Times and the URL of the video that it was cut from (start, end,
    url and the like) are columns as all others, never intervals to cut. Every column is kept with
    its type, so that thresholds on the other tool's scores stand in the source's `where` or in
    select; license, terms, channel, retrieved_at and sha256 become the clip's rights. A row that
    is malformed, names a file again, or misses its column's type goes to the quarantine.
    """

    name: ClassVar[str] = "adopt"
    is_cut: ClassVar[bool] = True

    path: str
    column: str | None = None
    caption: str | None = None
    dataset_id: str | None = None
    base: str | None = None
    types: dict[str, TypeName] = {}

    def dataset_schema(self) -> pa.Schema:
        """The columns that are kept for each clip, in the order of the table.

        Raises:
            UserError: the table is missing, of another format, or lacks a named column.
        """
        return self._map()[1].schema()

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The clips in the table's order, each a whole file; faults as they are met.

        Raises:
            UserError: the table is missing, of another format, or lacks a named column.
        """
        file, columns = self._map()
        yield from columns.videos(read_rows(file, self.name))

    def _map(self) -> tuple[Path, RowMap]:
        return RowMap.of_file(
            self.name,
            self.path,
            self.types,
            base=self.base,
            column=self.column,
            video_columns=("path", "file", "clip", "video"),
            caption=self.caption,
            dataset_id=self.dataset_id,
        )
