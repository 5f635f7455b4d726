"""The index of a packed selection: one row a sample, and index.json, which commits them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, NonNegativeInt, ValidationError

import vidcurate
from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION
from vidcurate.durable import replacing
from vidcurate.errors import RunDirectoryError

INDEX_FILE = "index.json"
EMPTY_FILE = "empty.safetensors"
"""Beside index.json in a precached set that holds text: the rows of the empty prompt."""

_ROW_GROUP = 8192

# What write_index finds itself.
_COUNTED = ("schema_version", "digest", "columns", "rows", "buckets", "index", "shards")


def _below(path: str) -> str:
    """A path that stays below the folder of the index: what lies elsewhere is not its to name."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} leads out of the folder")
    return path


_Path = Annotated[str, AfterValidator(_below)]


class _Shard(BaseModel):
    path: _Path
    bucket: _Path  # a folder's name, too
    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str


class _Derived(BaseModel):
    """Of a precached set; see `vidcurate.train.precache.derived`."""

    settings: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any] | None


class _Index(BaseModel):
    """What each index.json has to hold: it may come with tars of others, so it is not trusted."""

    digest: str
    columns: str
    rows: NonNegativeInt
    buckets: dict[str, NonNegativeInt]
    index: list[_Path]
    shards: list[_Shard]
    made_by: dict[str, str]
    no_bucket: list[str] = []
    failures: list[dict[str, Any]] = []
    appends: dict[str, dict[str, Any]] = {}
    derived: _Derived | None = None


def made_by() -> dict[str, str]:
    """The versions that packed bytes depend on."""
    codecs = ".".join(str(n) for n in av.library_versions["libavcodec"])
    return {"vidcurate": vidcurate.__version__, "av": av.__version__, "libavcodec": codecs}


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index.json of a packed selection; None where it was never packed to its end.

    Raises:
        RunDirectoryError: it is damaged, names paths elsewhere, or is another tool's.
    """
    path = folder / INDEX_FILE
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is damaged ({error}); remove it and pack (or index) again"
        ) from error
    if not isinstance(found, dict) or "schema_version" not in found:
        raise RunDirectoryError(f"{path} is not of vidcurate but another tool's")
    if found["schema_version"] != INDEX_VERSION:
        raise RunDirectoryError(
            f"{path} is of another version of vidcurate; remove it and pack (or index) again"
        )
    try:
        _Index.model_validate(found, strict=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise RunDirectoryError(
            f"{path} is damaged ({where}: {wrong['msg']}); remove it and pack (or index) again"
        ) from error
    return found


def write_index(
    folder: Path,
    name: str,
    parts: Iterable[Path | pa.Table],
    shards: list[dict[str, Any]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Join the rows of all shards in `index/<name>.parquet` and commit by writing index.json.

    Row groups hold at least 8,192 rows, but for the last one: shards are smaller than is well read.

    Args:
        folder: of the selection's shards. name: of the index file, without suffix.
        parts: the index rows in order, as Parquet files or tables, one at a time.
        shards: what index.json says of each shard: path, bucket, rows, bytes, sha256.
        about: further keys of index.json; `made_by` where older bytes are kept.

    Returns:
        what index.json holds; `digest` covers sample_id, bucket, split, shard, offsets and sha256
        of all rows in order, but not captions and scores: those are in `columns`.
    """
    digest = hashlib.sha256()
    columns = 0
    waiting: list[pa.Table] = []
    relative = f"index/{name}.parquet"
    with (
        replacing(folder / relative) as temporary,
        pq.ParquetWriter(temporary, INDEX_SCHEMA, compression="zstd") as writer,
    ):
        for part in parts:
            rows = part if isinstance(part, pa.Table) else pq.read_table(part, schema=INDEX_SCHEMA)
            for line in digest_lines(rows):
                digest.update(line)
            said = rows.select(["clip_id", "captions", "scores"]).to_pylist()
            columns += int(columns_digest(said), 16)
            waiting.append(rows)
            if sum(len(rows) for rows in waiting) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        writer.write_table(pa.concat_tables([INDEX_SCHEMA.empty_table(), *waiting]))
    buckets: Counter[str] = Counter()
    for shard in shards:
        buckets[shard["bucket"]] += shard["rows"]
    index = {
        "schema_version": INDEX_VERSION,
        "made_by": made_by(),
        **about,
        "digest": digest.hexdigest(),
        "columns": f"{columns % 2**256:064x}",
        "rows": sum(buckets.values()),
        "buckets": dict(sorted(buckets.items())),
        "index": [relative],
        "shards": shards,
    }
    with replacing(folder / INDEX_FILE) as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return index


def about_of(index: Mapping[str, Any]) -> dict[str, Any]:
    """What an index.json says besides what write_index finds itself."""
    return {key: value for key, value in index.items() if key not in _COUNTED}


def totals(shards: Iterable[Mapping[str, Any]], appends: Mapping[str, Any]) -> dict[str, Any]:
    """What index.json says of packed shards together: how samples were cut, and in which appends.

    Args:
        shards: each with rows, copied (samples whose packets are the source's) and append.
        appends: by name; those that have no shard left are not in the result.
    """
    shards = list(shards)
    used = {shard["append"] for shard in shards}
    copied = sum(shard["copied"] for shard in shards)
    return {
        "copied": copied,
        "encoded": sum(shard["rows"] for shard in shards) - copied,
        "appends": {name: facts for name, facts in appends.items() if name in used},
    }


def columns_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Of the captions and scores of samples in any order: what changes without their shards."""
    total = 0
    for row in rows:
        line = [row["clip_id"], dict(row["captions"]), dict(row["scores"])]
        text = json.dumps(line, sort_keys=True)
        total += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    return f"{total % 2**256:064x}"


def with_columns(
    tables: Iterable[pa.Table], rows: Mapping[str, Mapping[str, Any]]
) -> Iterator[pa.Table]:
    """Index rows with the captions and scores of `rows`.

    Args:
        rows: clip id -> `captions` and `scores`, as mappings; of all clips in the tables.
    """
    for table in tables:
        ids = table.column("clip_id").to_pylist()
        changed = table
        for name in ("captions", "scores"):
            field = INDEX_SCHEMA.field(name)
            values = pa.array([list(rows[i][name].items()) for i in ids], field.type)
            changed = changed.set_column(INDEX_SCHEMA.get_field_index(name), field, values)
        yield changed


def digest_lines(rows: pa.Table) -> Iterator[bytes]:
    """What the digest of an index covers, a line for each of its rows."""
    names = ("sample_id", "bucket", "split", "shard", "members", "sha256")
    for row in rows.select(names).to_pylist():
        yield (json.dumps([row[n] for n in names], sort_keys=True) + "\n").encode()
