"""A folder that `datasets.load_dataset` reads: Parquet files by split, and a dataset card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.export.rows import Clips
from vidcurate.export.tables import TableColumn, columns

_FILE_ROWS = 500_000
_GROUP_ROWS = 10_000
_SPLITS = {"val": "validation"}  # as the library calls them; all else is train


@dataclass
class Written:
    """What lies in the folder: columns, split -> rows, license -> clips."""

    columns: list[TableColumn]
    rows: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)


def write_data(clips: Clips, folder: Path) -> Written:
    """Write data/<split>-<number>.parquet, at most half a million rows each.

    The columns are those of the CSV, with their types; unit and description are in the metadata
    of the Parquet schema's fields.
    """
    written = Written(columns(clips))
    schema = pa.schema([column.field for column in written.columns])
    (folder / "data").mkdir(parents=True)
    files: dict[str, pq.ParquetWriter] = {}
    waiting: dict[str, list[dict[str, object]]] = {}

    def flush(split: str) -> None:
        before = written.rows[split]
        if before % _FILE_ROWS == 0:
            if split in files:
                files.pop(split).close()
            name = f"{split}-{before // _FILE_ROWS:05d}.parquet"
            files[split] = pq.ParquetWriter(folder / "data" / name, schema, compression="zstd")
        files[split].write_table(pa.Table.from_pylist(waiting[split], schema))
        written.rows[split] += len(waiting.pop(split))

    try:
        for row in clips:
            split = _SPLITS.get(row["split"], "train")
            line = {column.field.name: column.value(row) for column in written.columns}
            written.licenses[row["video"]["license"]] += 1
            waiting.setdefault(split, []).append(line)
            if len(waiting[split]) == _GROUP_ROWS:
                flush(split)
        for split in list(waiting):
            flush(split)
    finally:
        for file in files.values():
            file.close()
    return written
