"""What a derived folder holds already: finished tars, and the samples in them.

An index may name ten million samples, so their rows are read where they are needed, never kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate import errors
from vidcurate.errors import RunDirectoryError
from vidcurate.shards.index import read_index
from vidcurate.shards.leftovers import WORK
from vidcurate.shards.rewrite import index_rows
from vidcurate.shards.tar_samples import DERIVED_SUFFIX

MARK = np.dtype("S32")
"""Of what decides a sample's bytes; `fingerprint` in the index of a derived set."""

_COLUMNS = ["sample_id", "fingerprint", "shard", "members", "sha256"]


@dataclass(frozen=True)
class Place:
    """Where a sample lies that is there already: its tar, below the derived folder."""

    shard: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Done:
    """A finished unit. path, bytes, sha256, rows: of its tar. failures: as index.json has them."""

    path: str
    bytes: int
    sha256: str
    rows: int
    failures: list[dict[str, Any]]


class Held:
    """What the derived folder holds already, by its index and by the records of finished units.

    index: what index.json says.

    Raises:
        RunDirectoryError: the index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder) or {"shards": [], "failures": [], "index": []}
        self._shards: dict[str, Mapping[str, Any]] = {}
        self._units: dict[str, Mapping[str, Any]] = {}
        self._first: dict[str, int] = {}  # row of the index
        self._failures: dict[str, list[dict[str, Any]]] = {}
        count = 0
        for shard in self.index["shards"]:
            self._shards[shard["path"]] = shard
            self._first[shard["path"]] = count
            count += shard["rows"]
            if "unit" in shard and self._is_whole(shard):
                self._units[shard["unit"]] = shard
        for failure in self.index["failures"]:
            self._failures.setdefault(failure["shard"], []).append(failure)
        self._group: tuple[int, pa.Table] | None = None  # first row, rows: those read last

    def is_done(self, key: str, count: int) -> bool:
        """Whether nothing of a unit of so many samples is to be done, or tried again."""
        found = self.unit(key)
        if found is None or found.rows + len(found.failures) != count:
            return False
        return all(not f["transient"] for f in found.failures)

    def unit(self, key: str) -> Done | None:
        """What is known of a finished unit; None where there is none."""
        record = self._record(key)
        if record is not None:
            if not self._is_whole(record):
                return None
            rows, failures = len(record["samples"]), record["failures"]
            return Done(record["path"], record["bytes"], record["sha256"], rows, failures)
        shard = self._units.get(key)
        if shard is None:
            return None
        path = shard["path"]
        failures = self._failures.get(path, [])
        return Done(path, shard["bytes"], shard["sha256"], shard["rows"], failures)

    def samples(self, key: str) -> list[list[Any]]:
        """The id, offset, size and sha256 of each sample of a finished unit."""
        record = self._record(key)
        if record is not None:
            return list(record["samples"])
        shard = self._units[key]
        rows = self._rows(self._first[shard["path"]], shard["rows"])
        return [[row["sample_id"], *_member(row), row["sha256"]] for row in rows]

    def places(self, marks: npt.NDArray[np.bytes_]) -> dict[bytes, Place]:
        """Where samples lie already, of some marks (at least one)."""
        found: dict[bytes, Place] = {}
        wanted = np.unique(marks)
        for table in index_rows(self.folder, self.index, _COLUMNS):
            own = np.array(table["fingerprint"].to_pylist(), MARK)
            at = np.minimum(np.searchsorted(wanted, own), len(wanted) - 1)
            for row in table.filter(pa.array(wanted[at] == own)).to_pylist():
                if self._is_whole(self._shards[row["shard"]]):
                    place = Place(row["shard"], *_member(row), row["sha256"])
                    found[row["fingerprint"].encode()] = place
        return found

    def names(self, path: str) -> str | None:
        """The sha256 of a tar that the index names."""
        shard = self._shards.get(path)
        return None if shard is None else str(shard["sha256"])

    def _rows(self, first: int, count: int) -> list[dict[str, Any]]:
        """Rows of the index; those that follow are had with few reads."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            at = first + len(found)
            start, table = self._group_of(at)
            found += table.slice(at - start, count - len(found)).to_pylist()
        return found

    def _group_of(self, row: int) -> tuple[int, pa.Table]:
        """The row group that holds a row, and the number of its first one."""
        if self._group is None or not 0 <= row - self._group[0] < len(self._group[1]):
            self._group = self._read_group(row)
        return self._group

    def _read_group(self, row: int) -> tuple[int, pa.Table]:
        start = 0
        for name in self.index["index"]:
            try:
                with pq.ParquetFile(self.folder / name) as file:
                    for group in range(file.num_row_groups):
                        count = file.metadata.row_group(group).num_rows
                        if row < start + count:
                            return start, file.read_row_group(group, _COLUMNS)
                        start += count
            except (OSError, pa.ArrowInvalid) as error:
                raise RunDirectoryError(
                    f"{self.folder / name} is damaged ({error}): remove {self.folder} and run "
                    "`vidcurate precache` again"
                ) from error
        raise RunDirectoryError(
            f"the index of {self.folder} has fewer rows than its index.json says: remove the "
            "folder and run `vidcurate precache` again"
        )

    def _record(self, key: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(record_of(self.folder, key).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def _is_whole(self, shard: Mapping[str, Any]) -> bool:
        try:
            size = (self.folder / str(shard["path"])).stat().st_size
        except OSError:
            return False
        return size == int(shard["bytes"])


def record_of(folder: Path, key: str) -> Path:
    """Where the record of a finished unit is, until index.json names its tar."""
    return folder / WORK / f"{key}.json"


def _member(row: Mapping[str, Any]) -> tuple[int, int]:
    """Offset and size of a sample's tensors in its tar."""
    (member,) = (m for m in row["members"] if m["name"] == DERIVED_SUFFIX)
    return member["offset"], member["size"]


def read_kept(folder: Path, place: Place) -> bytes:
    """The bytes of a sample that is there already.

    Raises:
        RunDirectoryError: they are not those that were written.
    """
    with (folder / place.shard).open("rb") as file:
        file.seek(place.offset)
        data = file.read(place.size)
    if hashlib.sha256(data).hexdigest() != place.sha256:
        raise RunDirectoryError(
            f"{folder / place.shard} is damaged at byte {place.offset}: remove this tar and run "
            "the same command again, which encodes its clips anew"
        )
    return data


def is_transient(error: str) -> bool:
    """Whether a later try of what failed with a class of errors may succeed."""
    return bool(getattr(getattr(errors, error, None), "transient", False))
