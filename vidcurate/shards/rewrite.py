"""Writing tars anew without some of their samples; all other members stay byte for byte equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcurate.clip import INDEX_MEMBER, INDEX_SCHEMA, short_hash
from vidcurate.durable import replacing
from vidcurate.errors import RunDirectoryError
from vidcurate.shards.writer import TarWriter

_THREADS = 4  # reading, writing and sha256 leave the interpreter to the others
_COLUMNS = ["clip_id", "video_id", "shard", "sample_id", "members"]

Goes = Callable[[pa.Table], np.ndarray]
"""Which rows, with columns clip_id, video_id and shard, are to go; bool, one a row."""


@dataclass(frozen=True)
class Rewritten:
    """An index without some samples.

    shards: what index.json is to say of each, those that held such samples under new names. rows:
    gives the index rows, a row group at a time.
    """

    shards: list[dict[str, Any]]
    rows: Callable[[], Iterator[pa.Table]]


@dataclass(frozen=True)
class _Moved:
    """A shard that is written anew; "" where nothing is left. members: of each sample that stays,
    in the order of the index."""

    path: str
    members: pa.Array


def index_rows(
    folder: Path, index: Mapping[str, Any], columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The index rows of a packed selection, a row group at a time.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    for name in index["index"]:
        try:
            with pq.ParquetFile(folder / name) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise _damaged(folder, name, error) from error


def rewrite(
    folder: Path, index: Mapping[str, Any], goes: Goes, chosen: Collection[str]
) -> Rewritten:
    """Write shards anew without the samples that go; index.json still names the old ones.

    Args:
        folder: of the selection's shards. index: what its index.json says.
        chosen: paths of the shards to write anew. One of which nothing stays is not opened.

    Raises:
        RunDirectoryError: the index or a tar is damaged.
        StorageError: the folder cannot be written (a full disk).
    """
    stay: dict[str, list[pa.Table]] = {path: [] for path in chosen}
    names = pa.array(chosen, pa.string())
    for table in index_rows(folder, index, _COLUMNS):
        rows = table.filter(pc.is_in(table["shard"], value_set=names))
        rows = rows.filter(pa.array(~goes(rows)))
        for path in pc.unique(rows["shard"]).to_pylist():
            stay[path].append(rows.filter(pc.equal(rows["shard"], path)))

    def one(shard: Mapping[str, Any]) -> tuple[dict[str, Any], _Moved] | None:
        tables = stay[shard["path"]]
        if not tables:
            return None
        path = shard["path"]
        # Of the index that it replaces: a call after a kill writes the same names again.
        stem = short_hash(f"{index['digest']}:{path}")[:12]
        new = f"{shard['bucket']}/{stem}-{path.rpartition('-')[2]}"
        members, facts = _copy(folder, path, new, pa.concat_tables(tables))
        return {**shard, **facts}, _Moved(new, members)

    changed = [shard for shard in index["shards"] if shard["path"] in stay]
    with ThreadPoolExecutor(_THREADS) as threads:
        done = list(threads.map(one, changed))
    new = {old["path"]: result for old, result in zip(changed, done, strict=True)}
    shards = []
    for shard in index["shards"]:
        if shard["path"] not in new:
            shards.append(shard)
        elif (result := new[shard["path"]]) is not None:
            shards.append(result[0])
    nothing = _Moved("", pa.array([], pa.list_(INDEX_MEMBER)))
    moved = {path: result[1] if result else nothing for path, result in new.items()}
    return Rewritten(shards, lambda: _moved_rows(folder, index, goes, moved))


def _copy(folder: Path, old: str, new: str, rows: pa.Table) -> tuple[pa.Array, dict[str, Any]]:
    """Copy the samples of `rows` from one tar to a new one: their members, and facts of the tar."""
    members: list[list[dict[str, Any]]] = []
    copied = 0
    try:
        source = (folder / old).open("rb")
    except OSError as error:
        raise _damaged(folder, old, error) from error
    with source, replacing(folder / new) as temporary, TarWriter(temporary) as tar:
        for row in rows.select(["sample_id", "members"]).to_pylist():
            members.append([])
            for member in row["members"]:
                try:
                    data = _read(source, member)
                    if member["name"] == "json":
                        copied += _was_copied(data)
                except ValueError as error:
                    raise _damaged(folder, old, error) from error
                added = tar.add(f"{row['sample_id']}.{member['name']}", data)
                members[-1].append(member | {"offset": added.offset})
    facts = {"path": new, "rows": len(rows), "copied": copied}
    facts |= {"bytes": tar.size, "sha256": tar.sha256}
    return pa.array(members, pa.list_(INDEX_MEMBER)), facts


def _read(tar: Any, member: Mapping[str, Any]) -> bytes:
    tar.seek(member["offset"])
    data: bytes = tar.read(member["size"])
    if len(data) != member["size"]:
        raise ValueError("it is cut short")
    return data


def _was_copied(about: bytes) -> bool:
    """Whether pack copied the packets of a sample, as its .json says; that of others does not."""
    values = json.loads(about)
    return isinstance(values, dict) and values.get("copied") is True


def _moved_rows(
    folder: Path, index: Mapping[str, Any], goes: Goes, moved: Mapping[str, _Moved]
) -> Iterator[pa.Table]:
    """The index rows as they are from now on."""
    names = pa.array(list(moved), pa.string())
    seen: Counter[str] = Counter()
    for table in index_rows(folder, index):
        here = np.asarray(pc.is_in(table["shard"], value_set=names), dtype=bool)
        if not here.any():
            yield table
            continue
        rows = table.filter(pa.array(~(here & goes(table)))).to_pylist()
        for row in rows:
            place = moved.get(row["shard"])
            if place is not None:
                row["members"] = place.members[seen[row["shard"]]].as_py()
                seen[row["shard"]] += 1
                row["shard"] = place.path
        if rows:
            yield pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _damaged(folder: Path, name: str, why: object) -> RunDirectoryError:
    return RunDirectoryError(
        f"{folder / name} is damaged ({why}); remove {folder}, which holds copies of what is "
        "purged, and pack again"
    )
