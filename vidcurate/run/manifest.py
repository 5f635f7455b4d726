"""Commits of a run directory: parts, the manifests that name them, and the rows they retire.

A part is one Parquet file, written by any task. The driver alone publishes manifests, one file
each, in sequence; what no manifest names does not exist. A manifest may retire ids: their rows
are dead in the parts of all manifests before it, while rows of its own parts live.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.clip import SCHEMA_VERSION, short_hash
from vidcurate.durable import TEMP, replacing, sync_directory
from vidcurate.errors import RunDirectoryError, StorageError

KEYS: Mapping[str, str] = {
    "clips": "clip_id",
    "videos": "video_id",
    "quarantine": "id",
    "vectors": "clip_id",
    "groups": "clip_id",
    "annotations": "clip_id",
    "purged": "id",
}
"""The tables of a run directory, and the column that names a row in each."""


# Small groups let readers skip and share out the work; larger ones no longer compress better.
ROW_GROUP = 100_000

_RETIRED_SCHEMA = pa.schema(
    [pa.field("table", pa.string(), nullable=False), pa.field("id", pa.string(), nullable=False)]
)


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table.

    path: below the run directory, with `/`. rows, bytes: of the file.
    schema: digest of its Arrow schema; parts with equal digests have equal columns.
    """

    path: str
    rows: int
    bytes: int
    schema: str


@dataclass(frozen=True)
class Manifest:
    """One commit, as published.

    seq: 1, 2, 3... without a gap. pass_name: the pass that made it. parts: new parts by table.
    retired: path of the Parquet file (table, id) of the rows it retires; None without any.
    retired_rows: how many ids it retires, by table.
    drops: parts of earlier manifests that its own parts replace (a compaction).
    """

    seq: int
    pass_name: str
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    retired: str | None = None
    retired_rows: Mapping[str, int] = field(default_factory=dict)
    drops: Sequence[str] = ()


def local_directory(out: str | Path) -> Path:
    """The run directory as a local path (a shared file system counts as local).

    Raises:
        RunDirectoryError: `out` is a URL such as s3://..., which this version cannot write to.
    """
    if "://" in str(out):
        raise RunDirectoryError(
            f"{out}: a run directory is a local or shared file system path as yet; "
            "use such a path and copy the shards afterwards"
        )
    return Path(out).expanduser().absolute()


# --------------------------------------------------------------------------- durable files


def schema_digest(schema: pa.Schema) -> str:
    """A short digest of an Arrow schema: names, types and field metadata."""
    return short_hash(schema.serialize().to_pybytes().hex())[:16]


def new_part_path(table: str) -> str:
    """A path below the run directory for a new part of `table`; no two calls agree."""
    assert table in KEYS, table
    return f"{table}/part-{uuid.uuid4().hex}.parquet"


def write_part(out: Path, table: str, rows: pa.Table) -> Part:
    """Write a part of `table` (one of KEYS); it does not exist until a manifest names it.

    May be called in any process. The file is zstd Parquet, durable when this returns.

    Raises:
        StorageError: the file cannot be written.
    """
    assert KEYS[table] in rows.column_names, f"{table} without {KEYS[table]}"
    path = new_part_path(table)
    with replacing(out / path) as temporary:
        pq.write_table(rows, temporary, compression="zstd", row_group_size=ROW_GROUP)
    return describe_part(out, path)


def describe_part(out: Path, path: str) -> Part:
    """The Part of a finished Parquet file at `path` below `out`."""
    with pq.ParquetFile(out / path) as file:
        return Part(
            path,
            file.metadata.num_rows,
            (out / path).stat().st_size,
            schema_digest(file.schema_arrow),
        )


# --------------------------------------------------------------------------- reading


def read_manifests(out: Path) -> list[Manifest]:
    """All manifests of a run directory in order; empty where nothing was committed.

    Raises:
        RunDirectoryError: a manifest is damaged, missing in the sequence, or of a newer version.
    """
    files = sorted((out / "manifests").glob("[0-9]*.json"))
    manifests = [_read_manifest(file) for file in files]
    for number, (file, manifest) in enumerate(zip(files, manifests, strict=True), start=1):
        if manifest.seq != number:
            raise RunDirectoryError(
                f"{file.with_name(f'{number:08}.json')} is missing; restore it, "
                "or start anew with --fresh"
            )
    return manifests


def _read_manifest(file: Path) -> Manifest:
    try:
        data = json.loads(file.read_bytes())
        version = data["schema_version"]
        if version > SCHEMA_VERSION:
            raise RunDirectoryError(
                f"{file} is of a newer vidcurate (schema {version}, this one reads "
                f"{SCHEMA_VERSION}); upgrade vidcurate"
            )
        manifest = Manifest(
            seq=data["seq"],
            pass_name=data["pass"],
            parts={t: [Part(**part) for part in parts] for t, parts in data["parts"].items()},
            retired=data["retired"],
            retired_rows=data["retired_rows"],
            drops=data["drops"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"{file} is damaged ({type(error).__name__}: {error}); restore it, "
            "or start anew with --fresh"
        ) from error
    if unknown := set(manifest.parts) - set(KEYS):
        raise RunDirectoryError(f"{file} is damaged: unknown table {min(unknown)!r}")
    if file.stem != f"{manifest.seq:08}":
        raise RunDirectoryError(f"{file} is damaged: it says it is number {manifest.seq}")
    return manifest


@dataclass(frozen=True)
class LivePart:
    """A part that counts, with the number of the manifest that names it."""

    seq: int
    part: Part


def live_parts(manifests: Iterable[Manifest]) -> dict[str, list[LivePart]]:
    """The parts of each table that no compaction has replaced, in order of commit."""
    manifests = list(manifests)
    dropped = {path for manifest in manifests for path in manifest.drops}
    return {
        table: [
            LivePart(manifest.seq, part)
            for manifest in manifests
            for part in manifest.parts.get(table, ())
            if part.path not in dropped
        ]
        for table in KEYS
    }


def retirements(manifests: Iterable[Manifest], table: str, first: int) -> list[Manifest]:
    """The manifests after number `first` that retire rows of `table`."""
    return [m for m in manifests if m.seq > first and m.retired_rows.get(table)]


def check_parts(out: Path, parts: Mapping[str, Sequence[LivePart]]) -> None:
    """Make sure that every part is there in full size.

    Raises:
        RunDirectoryError: a part is missing or cut short.
    """
    for live in parts.values():
        for entry in live:
            file = out / entry.part.path
            try:
                size = file.stat().st_size
            except OSError as error:
                raise RunDirectoryError(
                    f"{file} is named by manifest {entry.seq} but cannot be read "
                    f"({error.strerror}); restore it, or start anew with --fresh"
                ) from error
            if size != entry.part.bytes:
                raise RunDirectoryError(
                    f"{file} has {size} bytes instead of the {entry.part.bytes} of manifest "
                    f"{entry.seq}; restore it, or start anew with --fresh"
                )


# --------------------------------------------------------------------------- publishing


def publish(out: Path, manifest: Manifest) -> None:
    """Publish a manifest: durable and atomic, never over another one.

    Raises:
        RunDirectoryError: its number is taken (another writer).
        StorageError: it cannot be written.
    """
    final = out / "manifests" / f"{manifest.seq:08}.json"
    temporary = final.with_name(f"{TEMP}{uuid.uuid4().hex}")
    text = json.dumps(_as_json(manifest), indent=1, sort_keys=True)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _name_new(temporary, final)
        sync_directory(final.parent)
    except FileExistsError as error:
        raise RunDirectoryError(
            f"{final} was written by another process; only one may write to {out}"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{final} cannot be written ({error.strerror or error}); free space or mend the "
            "permissions and run again: all that is committed is kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _name_new(temporary: Path, final: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(temporary, final)  # unlike a rename it fails where the name is taken
    except OSError as error:
        # exFAT and some shares know no links; there the lease alone keeps a second writer out.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) or final.exists():
            raise
        temporary.replace(final)


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "seq": manifest.seq,
        "pass": manifest.pass_name,
        "parts": {t: [asdict(p) for p in parts] for t, parts in manifest.parts.items() if parts},
        "retired": manifest.retired,
        "retired_rows": dict(manifest.retired_rows),
        "drops": list(manifest.drops),
    }


def write_retired(out: Path, seq: int, retire: Mapping[str, pa.Array]) -> str:
    """Write the ids that manifest `seq` retires, by table; gives the file's path below `out`."""
    path = f"manifests/{seq:08}-retired.parquet"
    with (
        replacing(out / path) as temporary,
        pq.ParquetWriter(temporary, _RETIRED_SCHEMA, compression="zstd") as writer,
    ):
        for table, ids in retire.items():
            names = pa.array([table], pa.string()).take(pa.array([0] * len(ids), pa.int8()))
            writer.write_table(pa.table([names, ids], schema=_RETIRED_SCHEMA))
    return path
