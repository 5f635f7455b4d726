"""Compaction: many small parts become few large ones, and retired rows go for good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.durable import replacing
from vidcurate.run.commit import Committer
from vidcurate.run.lease import Lease
from vidcurate.run.manifest import KEYS, ROW_GROUP, LivePart, Part, describe_part, new_part_path
from vidcurate.run.tables import Run, parquet_list
from vidcurate.run.tables import open as open_run

TARGET = 128 * 1024**2
_BATCH_ROWS = 10_000
# Rows held back until a row group is worth writing; vectors are wide.
_BUFFER = 64 * 1024**2


def compact(lease: Lease, *, target: int = TARGET) -> int:
    """Merge small parts and drop retired rows; gives the number of parts that were replaced.

    One manifest publishes the merged parts of all tables, then the old files are deleted. A kill
    in between leaves files that no manifest names, for `Committer.clean`. Rows keep their order,
    columns their Arrow types and metadata; memory stays flat. Open `Run`s must be opened again.

    Args:
        lease: held by the caller.
        target: bytes at which a merged part is full; parts of half that size stay as they are,
            unless they hold retired rows.

    Raises:
        RunDirectoryError: the directory is damaged or cannot be written.
    """
    committer = Committer(lease)
    out = lease.out
    merged: dict[str, list[Part]] = {}
    drops: list[str] = []
    with open_run(out) as run:
        for table in KEYS:
            dead = _dead_counts(run, table)
            for group in _groups(run, table, dead, target):
                rows = _dead_rows(run, table, [p for p in group if dead.get(p.part.path)])
                part = _merge(out, table, group, rows)
                if part is not None:
                    merged.setdefault(table, []).append(part)
                drops += [entry.part.path for entry in group]
    committer.commit("compact", merged, drops=drops)
    for path in drops:
        (out / path).unlink(missing_ok=True)
    return len(drops)


def _groups(run: Run, table: str, dead: Mapping[str, int], target: int) -> Iterator[list[LivePart]]:
    """Runs of parts to merge, in order of commit, each of about `target` bytes."""
    group: list[LivePart] = []
    size = 0
    schema = pa.schema([])
    for entry in run.parts[table]:
        part = entry.part
        gone = dead.get(part.path, 0)
        if part.bytes >= target // 2 and not gone:
            continue
        mine = pq.read_schema(run.out / part.path)
        if group and (size >= target or not _agree(schema, mine)):
            if len(group) > 1 or dead.get(group[0].part.path):
                yield group
            group, size = [], 0
        schema = _union([schema, mine]) if group else mine
        group.append(entry)
        size += part.bytes * (part.rows - gone) // max(part.rows, 1)
    if len(group) > 1 or (group and dead.get(group[0].part.path)):
        yield group


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """All columns in order of appearance; the last of a name gives its metadata."""
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        fields |= {field.name: field for field in schema}
    everywhere = set(fields).intersection(*(schema.names for schema in schemas))
    return pa.schema(
        [f if f.name in everywhere else f.with_nullable(True) for f in fields.values()]
    )


def _agree(one: pa.Schema, other: pa.Schema) -> bool:
    """True where both schemas can share a file: a column has one type, or is in one of them.

    Numbers are not promoted here: an operator's old int and new float column stay apart.
    """
    types = {field.name: field.type for field in one}
    return all(types.get(field.name, field.type) == field.type for field in other)


def _dead_counts(run: Run, table: str) -> dict[str, int]:
    """Part -> number of its rows that are retired; parts without any are left out."""
    if not run.retiring(table):
        return {}
    files = parquet_list(str(run.out / entry.part.path) for entry in run.parts[table])
    with run.connect() as connection:
        rows = connection.execute(
            f"SELECT s.file, count(*) {_dead(table, files)} GROUP BY s.file"
        ).fetchall()
    return {Path(file).relative_to(run.out).as_posix(): count for file, count in rows}


def _dead_rows(run: Run, table: str, parts: Sequence[LivePart]) -> dict[str, np.ndarray]:
    """Part -> places of its retired rows."""
    if not parts:
        return {}
    files = parquet_list(str(run.out / entry.part.path) for entry in parts)
    with run.connect() as connection:
        found = connection.execute(
            f"SELECT s.file, list(p.file_row_number) {_dead(table, files)} GROUP BY s.file"
        ).fetchall()
    return {
        Path(file).relative_to(run.out).as_posix(): np.asarray(places, np.int64)
        for file, places in found
    }


def _dead(table: str, files: str) -> str:
    return (
        f"FROM read_parquet({files}, filename = '_file', file_row_number = true, "
        f"union_by_name = true) p "
        f"JOIN _retired_{table} r ON r.id = p.{KEYS[table]} "
        f"JOIN _seq_{table} s ON s.file = p._file "
        f"WHERE r.seq > s.seq"
    )


def _merge(
    out: Path, table: str, group: Sequence[LivePart], dead: Mapping[str, np.ndarray]
) -> Part | None:
    """Write the living rows of `group` as one part; None where all are dead."""
    if sum(p.part.rows - len(dead.get(p.part.path, ())) for p in group) == 0:
        return None
    schema = _union([pq.read_schema(out / entry.part.path) for entry in group])
    path = new_part_path(table)
    with (
        replacing(out / path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        rows: list[pa.Table] = []
        for entry in group:
            gone = dead.get(entry.part.path, np.empty(0, np.int64))
            for batch in _living(out / entry.part.path, gone):
                rows.append(_conform(batch, schema))
                if sum(r.nbytes for r in rows) > _BUFFER or sum(map(len, rows)) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(rows), row_group_size=ROW_GROUP)
                    rows = []
        writer.write_table(pa.concat_tables([*rows, schema.empty_table()]))
    return describe_part(out, path)


def _living(file: Path, gone: np.ndarray) -> Iterator[pa.Table]:
    begin = 0
    with pq.ParquetFile(file) as part:
        for batch in part.iter_batches(_BATCH_ROWS):
            keep = np.ones(batch.num_rows, bool)
            inside = gone[(gone >= begin) & (gone < begin + batch.num_rows)]
            keep[inside - begin] = False
            begin += batch.num_rows
            yield pa.Table.from_batches([batch]).filter(pa.array(keep))


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        rows.column(f.name) if f.name in rows.column_names else pa.nulls(len(rows), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)
