"""The local files that an index is read from: made of its Parquet files once, then mapped.

    meta.json   columns, buckets, splits, how many rows of each, the names that captions, scores and
                members bear, and the sizes of the other files
    plan.bin    one PLAN record a row: what orders and batches are computed from
    places.bin  one PLACE record a row: where it is in rows.bin
    rows.bin    the rows, each a JSON list of its values

A row is one small read at a known place. (Of Arrow columns that are mapped, a random row costs a
page fault for each column, and much CPU to put together.)
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.clip import INDEX_SCHEMA
from vidcurate.durable import TEMP
from vidcurate.errors import RunDirectoryError, StorageError
from vidcurate.shards.reader.store import Store

LAYOUT = 2
META, PLAN_FILE, PLACES_FILE, ROWS_FILE = "meta.json", "plan.bin", "places.bin", "rows.bin"
PLAN = np.dtype(
    [
        ("bucket", "<i2"),  # place in meta's `buckets`
        ("split", "<i2"),  # place in meta's `splits`
        ("frames", "<i4"),  # the bucket's; where native, those of the clip that are trained on
        ("height", "<i4"),  # the bucket's; where native, the clip's
        ("width", "<i4"),
        ("frame_seconds", "<f8"),  # from one trained frame to the next
        ("native", "?"),
    ],
    align=True,
)
PLACE = np.dtype([("start", "<i8"), ("size", "<i8")])
COLUMNS = tuple(name for name in INDEX_SCHEMA.names if name != "schema_version")
_NUMBERS = (
    *("n_frames", "frame_step", "fps_num", "fps_den", "width", "height"),
    *("bucket_width", "bucket_height", "bucket_frames"),
)
_BATCH = 65_536
_OLD = 3600.0  # seconds after which an unfinished folder is a killed process's
_DUCKDB: dict[str, Any] = {"memory_limit": "2GB", "threads": min(4, os.cpu_count() or 1)}
_DAMAGED = "it is damaged; run `vidcurate inspect --verify` on it, then pack or index again"


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What meta.json says; None where the folder is not there, not whole, or of another layout."""
    try:
        meta = json.loads((folder / META).read_text("utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if sizes == meta["files"] and meta["layout"] == LAYOUT else None


def build(store: Store, index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the files of an index in `folder`, which appears at once; its meta.

    Several processes may do so at the same time: the first to be ready wins.

    Raises:
        RunDirectoryError: the index is damaged. StoreError: it cannot be read.
        StorageError: the folder cannot be written.
    """
    temporary = folder.with_name(f"{TEMP}{uuid.uuid4().hex}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder.parent)
        temporary.mkdir()
        meta = _write(store, index, temporary)
        _publish(temporary, folder)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror or error}); free space, or give another "
            "index_folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read_meta(folder) or meta


def _publish(temporary: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            temporary.rename(folder)
            return
        except OSError:
            if read_meta(folder) is not None:
                return  # another process was quicker
            with contextlib.suppress(FileNotFoundError):  # damaged: out of the way, at once
                aside = folder.with_name(f"{TEMP}{uuid.uuid4().hex}")
                folder.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
    temporary.rename(folder)


def _remove_unfinished(parent: Path) -> None:
    for path in [*parent.glob(f"{TEMP}*"), *parent.glob(f"*/{TEMP}*")]:
        with contextlib.suppress(OSError):
            last = max(p.stat().st_mtime for p in (path, *path.glob("*")))
            if time.time() - last > _OLD and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif time.time() - last > _OLD:
                path.unlink()


def _write(store: Store, index: dict[str, Any], folder: Path) -> dict[str, Any]:
    files = list(_local_files(store, index["index"], folder))
    for file, name in zip(files, index["index"], strict=True):
        _check_schema(file, store.shown(name))
    buckets = sorted(index["buckets"])
    splits: list[str] = []
    counts: Counter[tuple[int, int]] = Counter()
    rows = end = 0
    with contextlib.ExitStack() as stack:
        plan_file, places_file, rows_file = (
            stack.enter_context((folder / name).open("wb"))
            for name in (PLAN_FILE, PLACES_FILE, ROWS_FILE)
        )
        for batch in _batches(files, store.root):
            plan = _plan(batch, buckets, splits, store.root)
            plan_file.write(plan.tobytes())
            end = _append(batch.column("row"), end, places_file, rows_file)
            kinds = plan["split"].astype(np.int64) * len(buckets) + plan["bucket"]
            for kind, n in enumerate(np.bincount(kinds).tolist()):
                if n:
                    counts[divmod(kind, len(buckets))] += n
            rows += len(plan)
        for written in (plan_file, places_file, rows_file):
            written.flush()
            os.fsync(written.fileno())
    names = _names(files, store.root)
    for copied in files:
        if copied.parent == folder:
            copied.unlink()
    if rows != index["rows"]:
        raise RunDirectoryError(
            f"{store.root}: index.json says {index['rows']} rows, and there are {rows}: {_DAMAGED}"
        )
    made = (PLAN_FILE, PLACES_FILE, ROWS_FILE)
    meta = {
        "layout": LAYOUT,
        "rows": rows,
        "columns": COLUMNS,
        "buckets": buckets,
        "splits": splits,
        "counts": [[*key, n] for key, n in sorted(counts.items())],
        "names": names,
        "files": {name: (folder / name).stat().st_size for name in made},
    }
    (folder / META).write_text(json.dumps(meta), "utf-8")
    return meta


def _local_files(store: Store, names: Sequence[str], folder: Path) -> Iterator[Path]:
    """The Parquet files of an index; of a remote store, copied into `folder`."""
    for number, name in enumerate(names):
        if store.is_remote:
            path = folder / f"{number}.parquet"
            store.copy(name, path)
        else:
            store.size(name)  # it is there, and below root
            path = Path(store.root) / name
        yield path


def _check_schema(file: Path, where: str) -> None:
    try:
        found = pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise RunDirectoryError(f"{where}: {error}: {_DAMAGED}") from error
    missing = [name for name in INDEX_SCHEMA.names if name not in found]
    if missing:
        raise RunDirectoryError(
            f"{where} lacks the columns {', '.join(missing)}; it is no index of this version of "
            "vidcurate: pack or index again"
        )


def _batches(files: Sequence[Path], where: str) -> Iterator[pa.RecordBatch]:
    """The rows in order: each as the text of its values, and the columns that PLAN is made of."""
    query = (
        f"SELECT CAST(json_array({', '.join(COLUMNS)}) AS VARCHAR) AS row, bucket, split, "
        + ", ".join(f"CAST({name} AS BIGINT) AS {name}" for name in _NUMBERS)
        + " FROM read_parquet($files)"
    )
    yield from _asked(query, files, where)


def _names(files: Sequence[Path], where: str) -> dict[str, list[str]]:
    """The names that captions, scores and members of any row bear, sorted."""
    found: dict[str, list[str]] = {}
    for column, name in (
        ("captions", "unnest(map_keys(captions))"),
        ("scores", "unnest(map_keys(scores))"),
        ("members", "unnest(members).name"),
    ):
        query = f"SELECT DISTINCT {name} AS name FROM read_parquet($files)"
        batches = _asked(query, files, where)
        found[column] = sorted(n for batch in batches for n in batch.column("name").to_pylist())
    return found


def _asked(query: str, files: Sequence[Path], where: str) -> Iterator[pa.RecordBatch]:
    """What a query over the files gives."""
    import duckdb

    names = [glob.escape(str(file)) for file in files]
    try:
        with duckdb.connect(config=_DUCKDB) as connection:
            connection.execute("SET enable_progress_bar = false")  # it prints to stdout
            found = connection.sql(query, params={"files": names})
            yield from found.to_arrow_reader(_BATCH)
    except (duckdb.Error, pa.ArrowException) as error:
        raise RunDirectoryError(
            f"{where}: its index cannot be read ({error}): {_DAMAGED}"
        ) from error


def _plan(
    batch: pa.RecordBatch, buckets: list[str], splits: list[str], where: str
) -> npt.NDArray[Any]:
    """The PLAN records of a batch. splits: grows by those that are new."""
    import pyarrow.compute as pc

    plan = np.zeros(len(batch), PLAN)
    new = [s for s in pc.unique(batch.column("split")).to_pylist() if s not in splits]
    splits += sorted(new)
    for name, known in (("bucket", buckets), ("split", splits)):
        codes = pc.index_in(batch.column(name), pa.array(known, pa.string()))
        plan[name] = codes.fill_null(-1).to_numpy()
    native = batch.column("bucket_frames").is_null().to_numpy(zero_copy_only=False)
    n = {name: batch.column(name).fill_null(0).to_numpy() for name in _NUMBERS}
    plan["native"] = native
    step = np.maximum(n["frame_step"], 1)
    plan["frames"] = np.where(native, -(-n["n_frames"] // step), n["bucket_frames"])
    plan["height"] = np.where(native, n["height"], n["bucket_height"])
    plan["width"] = np.where(native, n["width"], n["bucket_width"])
    rate = np.maximum(n["fps_num"], 1)
    plan["frame_seconds"] = np.where(n["fps_num"] > 0, step * n["fps_den"] / rate, 0.0)
    wrong = (plan["bucket"] < 0) | (n["n_frames"] < 1) | (n["frame_step"] < 1) | (n["fps_den"] < 1)
    for name in ("frames", "height", "width"):
        wrong |= plan[name] < 1
    if wrong.any():
        row = batch.column("row")[int(np.argmax(wrong))].as_py()
        raise RunDirectoryError(
            f"{where}: a row of its index has a bucket, size, rate or number of frames that cannot "
            f"be: {row[:400]}: {_DAMAGED}"
        )
    return plan


def _append(texts: pa.Array, end: int, places_file: IO[bytes], rows_file: IO[bytes]) -> int:
    """Write the bytes of texts, and their places; the new end."""
    _, offsets, data = texts.buffers()
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    edges = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts):
        return end
    rows_file.write(memoryview(data)[edges[0] : edges[-1]])
    places = np.zeros(len(texts), PLACE)
    places["start"] = edges[:-1].astype(np.int64) - edges[0] + end
    places["size"] = np.diff(edges)
    places_file.write(places.tobytes())
    return end + int(edges[-1] - edges[0])
