"""Rows brought together by a key, on disk: a dataset's metadata may be larger than memory."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from vidcurate.durable import TEMP

ROWS = f"{TEMP}rows-"
"""How the names of folders begin in which rows of the sources are brought together."""

_BATCH = 20_000
_MEMORY = "512MiB"  # DuckDB spills to disk beyond
_THREADS = 2  # each needs its share of the memory at once: many of them would run out of it
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("row", pa.binary(), nullable=False),
    ]
)


class RowStore:
    """Takes rows with their keys; gives them by key, in the order of each key's first row.

    Args:
        folder: where its temporary folder is made; None takes the system's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix=ROWS, dir=folder)
        self._database = duckdb.connect(
            f"{self._folder}/rows.duckdb",
            config={
                "memory_limit": _MEMORY,
                "threads": _THREADS,
                "preserve_insertion_order": False,  # the ordinals tell it, at less memory
                "temp_directory": f"{self._folder}/spill",
            },
        )
        self._database.execute("CREATE TABLE rows (key VARCHAR, ordinal BIGINT, row BLOB)")
        self._pending: list[tuple[str, int, bytes]] = []
        self._count = 0

    def add(self, key: str, row: Any) -> None:
        """Add one row; it must pickle."""
        self._pending.append((key, self._count, pickle.dumps(row)))
        self._count += 1
        if len(self._pending) >= _BATCH:
            self._write()

    def groups(self) -> Iterator[tuple[str, list[Any]]]:
        """Key and rows, in order of their first and of their own addition."""
        self._write()
        with contextlib.closing(self._database.cursor()) as cursor:
            batches = cursor.sql(
                "SELECT key, row FROM rows JOIN "
                "(SELECT key, min(ordinal) AS first FROM rows GROUP BY key) USING (key) "
                "ORDER BY first, ordinal"
            ).to_arrow_reader(_BATCH)
            key: str | None = None
            group: list[Any] = []
            for batch in batches:
                names, rows = batch.column("key").to_pylist(), batch.column("row").to_pylist()
                for name, row in zip(names, rows, strict=True):
                    if name != key:
                        if key is not None:
                            yield key, group
                        key, group = name, []
                    group.append(pickle.loads(row))  # noqa: S301 (written by this very process)
            if key is not None:
                yield key, group

    def count(self) -> int:
        """How many keys there are."""
        self._write()
        with contextlib.closing(self._database.cursor()) as cursor:
            found = cursor.execute("SELECT count(DISTINCT key) FROM rows").fetchone()
        assert found is not None
        return int(found[0])

    def close(self) -> None:
        """Remove it from the disk."""
        self._database.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self) -> None:
        if not self._pending:
            return
        keys, ordinals, rows = zip(*self._pending, strict=True)
        batch = pa.table([list(keys), list(ordinals), list(rows)], schema=_SCHEMA)
        self._database.register("batch", batch)
        self._database.execute("INSERT INTO rows SELECT * FROM batch")
        self._database.unregister("batch")
        self._pending = []
