"""An index for tars that others made: webdataset, video2dataset, or pack, its index lost.

Each tar is read once, by a child process of its own: headers first, then all bytes. A crash inside
FFmpeg costs the sample that it came with.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.child import Child
from vidcurate.clip import INDEX_SCHEMA, short_hash
from vidcurate.errors import (
    DataError,
    StorageError,
    UserError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from vidcurate.recipe.model import Limits
from vidcurate.shards.buckets import NATIVE
from vidcurate.shards.foreign_rows import TarEnd, TarTask
from vidcurate.shards.foreign_tars import (
    INDEXED,
    PACKED,
    find_tars,
    link_tars,
    old_index,
    refuse_packed,
)
from vidcurate.shards.index import write_index
from vidcurate.shards.inspection import local
from vidcurate.shards.tar_samples import TarFault, TarSample, tar_samples
from vidcurate.shards.tar_stream import TarReadError

_TARGET = "vidcurate.shards.foreign_rows:rows_job"
_SPAWNED = (WorkerCrashError, WorkerMemoryError, WorkerTimeoutError)
_LIMITS = Limits(time=30 * 24 * 3600.0)  # of a whole tar; a single sample has `stall`
_BATCH = 4096  # rows of a tar that are held

Progress = Callable[[int, int, int], None]
"""Called with bytes that were read, bytes in all, samples."""


@dataclass(frozen=True)
class IndexReport:
    """What `index_tars` made. bytes: of all tars. digest: of the index.

    failures: what is not in the index: key or shard, reason; as in index.json.
    renamed: samples whose key others have, too.
    """

    folder: Path
    samples: int
    shards: int
    bytes: int
    failures: tuple[Mapping[str, Any], ...]
    renamed: int
    digest: str


@dataclass
class _Shard:
    """What became of one tar. rows: of its part; keys: a hash of each of its keys."""

    path: str
    part: Path
    rows: int = 0
    end: TarEnd | None = None
    buckets: set[str] = field(default_factory=set)
    keys: array[int] = field(default_factory=lambda: array("Q"))
    failures: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, key: str | None, error: str, message: str, *, transient: bool = False) -> None:
        name = self.path if key is None else f"{self.path}#{key}"
        about = {"clip_id": name, "video_id": "", "shard": self.path}
        self.failures.append(about | {"error": error, "message": message, "transient": transient})


def index_tars(
    folder: Path | str,
    *,
    to: Path | str | None = None,
    val: float = 0.0,
    force: bool = False,
    workers: int | None = None,
    limits: Limits = _LIMITS,
    progress: Progress | None = None,
) -> IndexReport:
    """Index the tars below a folder: write index.json and index/*.parquet there.

    Samples are grouped as webdataset groups members (see `tar_samples`). sample_id and clip_id are
    the key, or `<shard>#<key>` for each sample whose key another tar has, too; video_id is of the
    .json's url, else of its videoid, else the sample's own. Captions: the .txt is "source", and so
    is the .json's `caption` without one; its other strings named caption* stand under their names
    without `caption_`. Scores: its numbers. Frames are counted (`media.whole_file`); the bucket is
    `native`. Of tars that pack made, ids, bucket, captions, scores and split are those of the
    .json; `frame_step` is in none, and is 1.

    What cannot be indexed is in the index's `failures`; a sample with a broken .json is left out,
    too. The same tars give the same index.

    Args:
        folder: of tars, at any depth; hidden ones are passed over.
        to: where to write the index, with links to the tars; default the folder itself.
        val: share of videos in split "val", chosen by video_id as `select` chooses.
        force: replace an index that pack made.
        workers: child processes; default one a core.

    Raises:
        UserError: no folder, no tars, no sample with a video, the folder holds packed
            selections, or, without `force`, an index.json of pack, of another tool, or damaged.
        StorageError: the index cannot be written.
    """
    folder = local(folder)
    root = folder if to is None else local(to)
    is_elsewhere = root.resolve() != folder.resolve()
    tars = find_tars(folder, root if is_elsewhere else None)
    refuse_packed(folder, root, tars)
    old = old_index(root, force)
    if is_elsewhere:
        link_tars(folder, root, tars)
    names = {name for name in tars if not name.lower().endswith(PACKED)}
    with tempfile.TemporaryDirectory(prefix="vidcurate-index-") as work:
        shards = [_Shard(name, Path(work, f"{i}.parquet")) for i, name in enumerate(sorted(names))]
        _read_all(shards, folder, val, workers or os.cpu_count() or 1, limits, progress)
        failures = [
            {"clip_id": name, "video_id": "", "shard": name, "error": "UserError"}
            | {"message": "it is compressed: unpack it to a plain .tar", "transient": False}
            for name in sorted(set(tars) - names)
        ]
        failures += [failure for shard in shards for failure in shard.failures]
        whole = [shard for shard in shards if shard.rows and shard.end is not None]
        if not whole:
            why = "; ".join(f"{f['clip_id']}: {f['message']}" for f in failures[:3])
            raise UserError(f"{folder}: no sample of its tars can be indexed ({why})")
        repeated = _repeated(whole)
        try:
            index = _write(root, whole, repeated, failures)
        except OSError as error:
            raise StorageError(f"{root} cannot be written ({error.strerror or error})") from error
        for name in old.get("index", ()):
            if name not in index["index"]:
                (root / name).unlink(missing_ok=True)
    keys = np.concatenate([np.array(shard.keys, np.uint64) for shard in whole])
    return IndexReport(
        folder=root,
        samples=index["rows"],
        shards=len(whole),
        bytes=sum(shard["bytes"] for shard in index["shards"]),
        failures=tuple(failures),
        renamed=int(np.isin(keys, repeated).sum()),
        digest=index["digest"],
    )


# ---------------------------------------------------------------------- reading


def _read_all(
    shards: list[_Shard],
    folder: Path,
    val: float,
    workers: int,
    limits: Limits,
    progress: Progress | None,
) -> None:
    """Read all tars, so many at a time; each leaves its rows in its part."""
    waiting: SimpleQueue[_Shard | None] = SimpleQueue()
    sizes = {shard.path: (folder / shard.path).stat().st_size for shard in shards}
    for shard in sorted(shards, key=lambda s: -sizes[s.path]):  # the longest first
        waiting.put(shard)
    count = max(1, min(workers, len(shards)))
    children = [Child(limits, what="the process that reads a tar") for _ in range(count)]
    for _ in children:
        waiting.put(None)
    stop = threading.Event()
    lock = threading.Lock()
    total = sum(sizes.values())
    seen = samples = 0

    def told(size: int, more: int) -> None:
        nonlocal seen, samples
        with lock:
            seen += size
            samples += more
            if progress is not None:
                progress(seen, total, samples)

    def work(child: Child, place: int) -> None:
        while (shard := waiting.get()) is not None and not stop.is_set():
            video = shard.part.parent / f"video-{place}"
            _Reader(child, shard, folder / shard.path, video, limits, val, told, stop).run()

    with ThreadPoolExecutor(count) as threads:
        running: list[Future[None]] = []
        try:
            running += [threads.submit(work, child, i) for i, child in enumerate(children)]
            ended, _ = wait(running, return_when=FIRST_EXCEPTION)
            errors = [error for future in ended if (error := future.exception()) is not None]
        finally:  # an error in one, or Ctrl-C: the others end where they are
            stop.set()
            for child in children:
                child.close()
    if errors:
        raise errors[0]


class _Reader:
    """One tar, read by a child that may crash."""

    def __init__(
        self,
        child: Child,
        shard: _Shard,
        tar: Path,
        video: Path,
        limits: Limits,
        val: float,
        told: Callable[[int, int], None],
        stop: threading.Event,
    ) -> None:
        self.child, self.shard, self.tar = child, shard, tar
        self.limits, self.told, self.stop = limits, told, stop
        self.place = 0  # bytes that were told of
        samples = tuple(self._samples())
        if not samples and not shard.failures:
            shard.fail(None, "RowError", "it holds no samples")
        self.task = TarTask(tar, shard.path, samples, video, limits, val)

    def run(self) -> None:
        """Write the rows of the tar to its part."""
        with pq.ParquetWriter(self.shard.part, INDEX_SCHEMA) as writer:
            rows: list[dict[str, Any]] = []
            for row in self._rows():
                rows.append(row)
                self.shard.rows += 1
                self.shard.buckets.add(row["bucket"])
                self.shard.keys.append(_key_hash(row["sample_id"]))
                if len(rows) == _BATCH:
                    writer.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
                    rows.clear()
            writer.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))

    def _samples(self) -> Iterator[TarSample]:
        for found in tar_samples(self.tar):
            if isinstance(found, TarFault):
                self.shard.fail(found.key, "RowError", found.reason)
            else:
                yield found

    def _rows(self) -> Iterator[dict[str, Any]]:
        """The row of each sample that has one, whatever happens to the child."""
        samples = self.task.samples
        done = attempts = 0
        while self.shard.end is None and not self.stop.is_set():
            try:
                task = dataclasses.replace(self.task, done=done)
                for found in self.child.run(_TARGET, task):
                    if isinstance(found, TarEnd):
                        self.shard.end = found
                        self._tell(found.bytes, 0)
                        continue
                    sample = samples[done]
                    done, attempts = done + 1, 0
                    last = sample.members[-1]
                    self._tell(last.offset + last.size, 1)
                    if isinstance(found, DataError):
                        self._fail(sample, found)
                    else:
                        yield found
            except DataError as error:
                attempts += 1
                if isinstance(error, TarReadError) or done == len(samples):
                    self.shard.fail(None, type(error).__name__, str(error), transient=True)
                    return
                # Samples are read in order: the first without an answer did it.
                if not isinstance(error, _SPAWNED) or attempts >= self.limits.attempts:
                    self._fail(samples[done], error)
                    done, attempts = done + 1, 0

    def _fail(self, sample: TarSample, error: DataError) -> None:
        name, text = type(error).__name__, str(error)
        self.shard.fail(sample.key, name, text, transient=error.is_transient)

    def _tell(self, place: int, samples: int) -> None:
        self.told(place - self.place, samples)
        self.place = place


# ---------------------------------------------------------------------- writing


def _key_hash(key: str) -> int:
    return int(short_hash(key)[:16], 16)


def _repeated(shards: list[_Shard]) -> np.ndarray:
    """Hashes of keys that more than one tar has, sorted; 8 bytes a sample is what it takes."""
    keys = np.concatenate([np.array(shard.keys, np.uint64) for shard in shards])
    keys.sort()
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def _write(
    root: Path, shards: list[_Shard], repeated: np.ndarray, failures: list[dict[str, Any]]
) -> dict[str, Any]:
    listed = []
    for shard in shards:
        assert shard.end is not None
        bucket = next(iter(shard.buckets)) if len(shard.buckets) == 1 else NATIVE.name
        listed.append(
            {
                "path": shard.path,
                "bucket": bucket,
                "rows": shard.rows,
                "bytes": shard.end.bytes,
                "sha256": shard.end.sha256,
            }
        )
    name = short_hash("".join(f"{s['path']}:{s['sha256']}\n" for s in listed))[:12]
    parts = (part for shard in shards for part in _final(shard, repeated))
    about = {
        INDEXED: True,
        "selection": root.resolve().name,
        "plan": "",  # of no pack
        "no_bucket": [],
        "failures": failures,
        "copied": 0,
        "encoded": 0,
    }
    return write_index(root, name, parts, listed, about)


def _final(shard: _Shard, repeated: np.ndarray) -> Iterator[pa.Table]:
    """A tar's rows with ids that no other has, all of one bucket."""
    with pq.ParquetFile(shard.part) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            rows = table.to_pylist()
            keys = np.array([_key_hash(row["sample_id"]) for row in rows], np.uint64)
            renamed = np.isin(keys, repeated)
            if len(shard.buckets) == 1 and not renamed.any():
                yield table
                continue
            for row, is_repeated in zip(rows, renamed, strict=True):
                if is_repeated:
                    row["sample_id"] = row["clip_id"] = f"{shard.path}#{row['sample_id']}"
                if len(shard.buckets) > 1:
                    row["bucket"] = NATIVE.name
                    row.update(bucket_width=None, bucket_height=None, bucket_frames=None)
            yield pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
