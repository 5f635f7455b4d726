"""Checking a packed selection: its index, its tars, and each sample's bytes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.acquire.archive import tar_members
from vidcurate.clip import INDEX_SCHEMA
from vidcurate.errors import AcquireError, RunDirectoryError
from vidcurate.shards.index import EMPTY_FILE, INDEX_FILE, digest_lines, read_index
from vidcurate.shards.inspection import open_rows
from vidcurate.shards.tar_samples import (
    DERIVED_SUFFIX,
    VIDEO_SUFFIXES,
    TarFault,
    split_name,
    tar_samples,
)
from vidcurate.shards.tar_stream import TarReadError, TarStream
from vidcurate.shards.writer import member_key

_BATCH = 8192
_COLUMNS = "shard, sample_id, bucket, members, sha256, audio_sha256"

Progress = Callable[[int, int], None]
"""Called with bytes that were checked, and bytes in all; from several threads."""

_Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where. shard: of a file's path, or the index's; "" for all.

    sample_id: "" where it is not of one sample. offset: bytes from the tar's start, if known.
    """

    shard: str
    sample_id: str
    offset: int | None
    reason: str


def verify(
    folder: Path,
    *,
    only: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Problem]:
    """Check a packed selection; gives each problem as it is found.

    Checked are: the index's digest, its counts, that no sample is in it twice; of each tar its
    size and sha256; that the index and the tar name the same members at the same places; and the
    sha256 of each video and sound, and of what precache made of one. Each tar is read once, several
    at a time; memory is bounded, whatever the number of samples. A selection that is packed
    meanwhile may show problems.

    Args:
        folder: with an index.json. only: check this shard alone (a path as in the index).
        workers: threads; default one a core.

    Raises:
        RunDirectoryError: there is no index.json, or it is damaged.
    """
    index = read_index(folder)
    if index is None:
        raise RunDirectoryError(f"{folder} has no {INDEX_FILE}: it is not packed to its end")
    shards = {entry["path"]: entry for entry in index["shards"]}
    broken = list(_index_files(folder, index))
    yield from broken
    if only is None:
        if not broken:
            yield from _index_rows(folder, index)
        yield from _strays(folder, index)
        yield from _files(folder, index)
    else:
        shards = {only: shards[only]}
    if broken:
        return
    count = workers or os.cpu_count() or 1
    check = _Check(folder, index, sum(entry["bytes"] for entry in shards.values()), progress)
    with ThreadPoolExecutor(count) as threads:
        running: deque[Future[list[Problem]]] = deque()
        try:
            for shard, rows in _by_shard(folder, index, only):
                entry = shards.pop(shard, None)
                if entry is None:
                    yield Problem(shard, "", None, f"{INDEX_FILE} does not list this shard")
                    continue
                running.append(threads.submit(check.shard, entry, rows))
                if len(running) > 2 * count:
                    yield from running.popleft().result()
            for entry in shards.values():  # without a row
                running.append(threads.submit(check.shard, entry, []))
            while running:
                yield from running.popleft().result()
        finally:  # Ctrl-C, or the caller has seen enough
            check.stop.set()


def verify_tar(tar: Path) -> Iterator[Problem]:
    """Check the form of a tar that has no index: there are no checksums to compare."""
    for found in tar_samples(tar):
        if isinstance(found, TarFault):
            yield Problem(tar.name, found.key or "", found.offset, found.reason)


# ---------------------------------------------------------------------- the index


def _index_files(folder: Path, index: Mapping[str, Any]) -> Iterator[Problem]:
    for name in index["index"]:
        try:
            schema = pq.read_schema(folder / name)
        except (OSError, pa.ArrowInvalid) as error:
            yield Problem(name, "", None, f"the index file cannot be read: {error}")
            continue
        if not schema.equals(INDEX_SCHEMA):
            yield Problem(name, "", None, "the index file has other columns than it should")


def _index_rows(folder: Path, index: Mapping[str, Any]) -> Iterator[Problem]:
    """What the index's rows say against index.json."""
    digest = hashlib.sha256()
    buckets: Counter[str] = Counter()
    for name in index["index"]:
        try:
            with pq.ParquetFile(folder / name) as file:
                for batch in file.iter_batches(_BATCH):
                    rows = pa.Table.from_batches([batch])
                    buckets.update(rows["bucket"].to_pylist())
                    for line in digest_lines(rows):
                        digest.update(line)
        except (OSError, pa.ArrowInvalid) as error:
            yield Problem(name, "", None, f"the index file is damaged: {error}")
            return
    if buckets.total() != index["rows"]:
        reason = f"the index has {buckets.total()} samples, {INDEX_FILE} says {index['rows']}"
        yield Problem("", "", None, reason)
    if dict(buckets) != {name: n for name, n in index["buckets"].items() if n}:
        reason = f"the index has other numbers of samples by bucket than {INDEX_FILE}"
        yield Problem("", "", None, reason)
    if digest.hexdigest() != index["digest"]:
        reason = f"the index's rows have another digest than {INDEX_FILE} says: they were changed"
        yield Problem("", "", None, reason)
    with open_rows(folder, index) as rows:
        again = rows.execute(
            "SELECT any_value(shard), sample_id, count(*) AS n FROM samples "
            "GROUP BY sample_id HAVING n > 1 ORDER BY sample_id"
        )
        while found := again.fetchmany(_BATCH):
            for shard, sample, n in found:
                yield Problem(shard, sample, None, f"the index has this sample {n} times")


def _strays(folder: Path, index: Mapping[str, Any]) -> Iterator[Problem]:
    """Tars beside the shards that readers of *.tar would take for shards."""
    named = {entry["path"] for entry in index["shards"]}
    named |= {failure.get("shard") for failure in index["failures"]}
    how = "precache" if "derived" in index else "index" if "indexed" in index else "pack"
    for path in sorted(folder.rglob("*.tar")):
        shard = path.relative_to(folder).as_posix()
        if shard not in named and not any(part[0] == "." for part in Path(shard).parts):
            reason = f"the index does not name this tar: {how} again, or remove it"
            yield Problem(shard, "", None, reason)


def _files(folder: Path, index: Mapping[str, Any]) -> Iterator[Problem]:
    """What a precached set has beside its tars: the rows of the empty prompt."""
    text = (index.get("derived") or {}).get("text")
    if text is None:
        return
    path = folder / EMPTY_FILE
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == text.get("empty")
    except OSError as error:
        yield Problem(EMPTY_FILE, "", None, f"it cannot be read: {error.strerror or error}")
        return
    if not same:
        reason = f"it has another sha256 than {INDEX_FILE} says: remove it and precache again"
        yield Problem(EMPTY_FILE, "", None, reason)


def _by_shard(
    folder: Path, index: Mapping[str, Any], only: str | None
) -> Iterator[tuple[str, list[_Row]]]:
    """The index's rows, a shard at a time, each with its rows in the tar's order."""
    where, values = ("", []) if only is None else (" WHERE shard = ?", [only])
    with open_rows(folder, index) as connection:
        found = connection.execute(
            f'SELECT {_COLUMNS} FROM samples{where} ORDER BY shard, members[1]."offset"', values
        )
        names = _COLUMNS.split(", ")
        rows: list[_Row] = []
        while batch := found.fetchmany(_BATCH):
            for line in batch:
                row = dict(zip(names, line, strict=True))
                if rows and rows[0]["shard"] != row["shard"]:
                    yield rows[0]["shard"], rows
                    rows = []
                rows.append(row)
        if rows:
            yield rows[0]["shard"], rows


# ---------------------------------------------------------------------- a shard


@dataclass(frozen=True)
class _Sum:
    """A member whose sha256 is known."""

    offset: int
    size: int
    name: str
    sha256: str
    sample_id: str


class _Check:
    """Checks shards, in several threads at a time."""

    def __init__(
        self, folder: Path, index: Mapping[str, Any], total: int, progress: Progress | None
    ) -> None:
        self.stop = threading.Event()
        self._folder = folder
        self._total, self._done = total, 0
        self._progress = progress
        self._lock = threading.Lock()
        # Of a foreign index: what is in the tars, and said not to be in it.
        self._foreign = "indexed" in index
        self._left_out = {failure["clip_id"] for failure in index["failures"]}

    def shard(self, entry: Mapping[str, Any], rows: list[_Row]) -> list[Problem]:
        """What is wrong with one shard; `rows` are the index's, in the tar's order."""
        tar = self._folder / entry["path"]
        found = list(_counts(entry, rows))
        try:
            size = tar.stat().st_size
            sums = self._members(tar, size, entry, rows, found)
            total = self._read(tar, sums, entry, found)
        except (OSError, TarReadError) as error:
            why = (isinstance(error, OSError) and error.strerror) or error
            reason = f"the tar cannot be read, and with it {len(rows)} samples: {why}"
            return [*found, Problem(entry["path"], "", None, reason)]
        if total != entry["sha256"] and not found:
            reason = (
                f"the tar has another sha256 than {INDEX_FILE} says: its headers or texts changed"
            )
            found.append(Problem(entry["path"], "", None, reason))
        return found

    def _members(
        self,
        tar: Path,
        size: int,
        entry: Mapping[str, Any],
        rows: list[_Row],
        found: list[Problem],
    ) -> list[_Sum]:
        """Compare the names and places of members; gives those whose bytes are to be checked."""
        shard = entry["path"]
        if size != entry["bytes"]:
            reason = f"the tar has {size} bytes, {INDEX_FILE} says {entry['bytes']}"
            found.append(Problem(shard, "", None, reason))
        there, broken = _headers(tar)
        if broken:
            found.append(Problem(shard, "", None, broken))
        sums: list[_Sum] = []
        for row in rows:
            known = {_main_suffix(row): row["sha256"], "m4a": row["audio_sha256"]}
            for member in row["members"]:
                name, offset = member["name"], member["offset"]
                if reason := _misplaced(there.pop(offset, None), shard, row, member, size):
                    found.append(Problem(shard, row["sample_id"], offset, reason))
                elif known.get(name):
                    sums.append(_Sum(offset, member["size"], name, known[name], row["sample_id"]))
        for offset, (name, _) in there.items():
            if not self._may_be_extra(shard, name):
                reason = f"the tar holds {name!r}, which the index does not name"
                found.append(Problem(shard, "", offset, reason))
        return sorted(sums, key=lambda member: member.offset)

    def _may_be_extra(self, shard: str, name: str) -> bool:
        parts = split_name(name)
        return self._foreign and (parts is None or f"{shard}#{parts[0]}" in self._left_out)

    def _read(
        self, tar: Path, sums: list[_Sum], entry: Mapping[str, Any], found: list[Problem]
    ) -> str:
        """Read a tar once and compare the sums of its members; gives that of the whole."""
        with tar.open("rb") as file:
            stream = TarStream(file)
            for member in sums:
                self._skip(stream, member.offset)
                digest = hashlib.sha256()
                for chunk in stream.read(member.size):
                    digest.update(chunk)
                    self._told(len(chunk))
                if digest.hexdigest() != member.sha256:
                    reason = (
                        f"its .{member.name} has another sha256 than the index says: its bytes "
                        "have changed"
                    )
                    found.append(Problem(entry["path"], member.sample_id, member.offset, reason))
            self._skip(stream, None)
            return stream.digest.hexdigest()

    def _skip(self, stream: TarStream, offset: int | None) -> None:
        for chunk in stream.read(None if offset is None else offset - stream.place):
            self._told(len(chunk))

    def _told(self, size: int) -> None:
        if self.stop.is_set():
            raise TarReadError("the check was stopped")
        with self._lock:
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)


def _counts(entry: Mapping[str, Any], rows: list[_Row]) -> Iterator[Problem]:
    shard, bucket = entry["path"], entry["bucket"]
    if len(rows) != entry["rows"]:
        reason = f"the index has {len(rows)} samples of it, {INDEX_FILE} says {entry['rows']}"
        yield Problem(shard, "", None, reason)
    for row in rows:
        if row["bucket"] != bucket:
            reason = f"it is of bucket {row['bucket']!r}, its shard of {bucket!r}"
            yield Problem(shard, row["sample_id"], None, reason)


def _headers(tar: Path) -> tuple[dict[int, tuple[str, int]], str]:
    """Offset -> name and size of a tar's files, and what is wrong with it, "" if nothing is."""
    found = {}
    try:
        for info in tar_members(tar):
            if info.isreg():
                found[info.offset_data] = (info.name, info.size)
    except AcquireError as error:
        return found, str(error).removeprefix(f"{tar}: ")
    return found, ""


def _main_suffix(row: _Row) -> str:
    """The member that the row's sha256 is of: its video, or what was derived from it."""
    suffixes = {member["name"] for member in row["members"]}
    return next((s for s in (*VIDEO_SUFFIXES, DERIVED_SUFFIX) if s in suffixes), "mp4")


def _misplaced(
    there: tuple[str, int] | None, shard: str, row: _Row, member: Mapping[str, Any], size: int
) -> str:
    """Why the tar does not hold a member as the index says; "" where it does."""
    suffix, length = member["name"], member["size"]
    end = member["offset"] + length
    if end > size:
        return f"its .{suffix} ends at byte {end}, the tar at {size}: cut short"
    if there is None:
        return f"the tar has no file where the index has its .{suffix}"
    name, found = there
    parts = split_name(name)
    if parts is None or parts[1] != suffix or not _is_key(parts[0], row["sample_id"], shard):
        return f"the tar has {name!r} where the index has its .{suffix}"
    return "" if found == length else f"its .{suffix} has {found} bytes, the index says {length}"


def _is_key(key: str, sample: str, shard: str) -> bool:
    """Whether a name in a tar is a sample's, as others or as we write it."""
    return sample in (key, f"{shard}#{key}") or key == member_key(sample)
