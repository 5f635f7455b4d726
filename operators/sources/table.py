"""Table: videos named by the rows of a CSV, JSON or Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vidcurate import RowFault, RowMap, Source, TypeName, VideoRow, read_rows


class Table(Source):
    """One video, or one clip of a video, per row of a CSV, TSV, JSONL, JSON or Parquet file.

    path: the file; its ending tells the format. CSV has a header and is UTF-8; JSON is a list of
        objects; all but Parquet may be packed as .gz.
    column: names the video: a local path or an http(s) URL. Default: the first of path, file,
        url, video that exists.
    start, end: columns with the clip's times, as seconds or HH:MM:SS.mmm, from the video's first
        frame. Default: the columns of these names, where they exist. Without them a row is the
        whole video. The splitter `timestamps` cuts at them.
    caption: the column of the dataset's caption (default: caption).
    dataset_id: the column of the dataset's own id (default: id); of the video's first row.
    base: the folder, or the URL, that relative paths start from (default: the table's folder).
    types: column -> string, int64, float64 or bool, where the type told from the first 10,000
        rows of a CSV or JSON file is not the right one.

    All other columns are kept with their types, and the id's, too; license, terms, channel,
    retrieved_at and sha256 become the video's rights. A CSV column is a number only if every
    value looks like one (007 does not); nested JSON is kept as JSON text; a CSV column without a
    name is left out. Files are streamed. Rows of one video become one video with several clips,
    wherever they stand. A row that is malformed, repeats a clip, or misses its column's type
    goes to the quarantine.
    """

    name: ClassVar[str] = "table"
    is_grouped: ClassVar[bool] = False

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
        return self._map()[1].schema()

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in the order of their first rows; faults as they are met.

        Raises:
            UserError: the file is missing, of another format, or lacks a named column.
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
            times=(self.start, self.end),
            caption=self.caption,
            dataset_id=self.dataset_id,
        )
