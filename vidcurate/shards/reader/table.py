"""The index of packed shards as a table that any number of processes read with flat memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vidcurate.clip import INDEX_VERSION
from vidcurate.durable import replacing
from vidcurate.errors import RunDirectoryError, ShardMissingError, UserError
from vidcurate.shards.index import INDEX_FILE
from vidcurate.shards.reader.shapes import Rows, Shapes
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table_files import (
    LAYOUT,
    PLACE,
    PLACES_FILE,
    PLAN,
    PLAN_FILE,
    ROWS_FILE,
    build,
    read_meta,
)
from vidcurate.shards.tar_samples import VIDEO_SUFFIXES

_NUMBER = np.dtype("<i8")
_STEP = 16
_CHUNK = 1_000_000


@dataclass(frozen=True)
class NativeLimit:
    """The largest shape of samples in the bucket `native`; None: their own.

    max_short_side: pixels; larger pictures are scaled down to it. max_frames: of a longer clip so
    many are taken.

    Raises:
        UserError: a limit that leaves nothing.
    """

    max_short_side: int | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if self.max_short_side is not None and self.max_short_side < _STEP:
            raise UserError(f"NativeLimit: max_short_side {self.max_short_side} is below {_STEP}")
        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(f"NativeLimit: max_frames {self.max_frames} is below 1")


def default_folder() -> Path:
    """Where indexes are kept on this machine: `vidcurate/index` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vidcurate" / "index"


def video_suffix(suffixes: Iterable[str]) -> str | None:
    """Which of a sample's members holds its video: the first of VIDEO_SUFFIXES; None: none.

    A suffix of several parts ("left.mp4") counts by its last one, after those of one part.
    """
    order = {name: place for place, name in enumerate(VIDEO_SUFFIXES)}
    last = {s: s.rpartition(".")[2].lower() for s in suffixes}
    found = [s for s, end in last.items() if end in order]
    return min(found, key=lambda s: ("." in s, order[last[s]], s), default=None)


class IndexTable:
    """Rows of an index, those of one split and some buckets, in the index's order.

    Files are read a record at a time, and what is kept of them is the system's: memory of the
    process does not grow with the rows. A pickle holds the path of the files only; another
    process of this machine opens it in a millisecond.

    Attributes:
        digest: of the index (index.json), whatever rows of it are read.
        buckets: names of all buckets of the index, sorted.
        captions, scores, members: names that any row of the index has, sorted.
        folder: of the files.
    """

    digest: str
    buckets: tuple[str, ...]
    captions: tuple[str, ...]
    scores: tuple[str, ...]
    members: tuple[str, ...]
    folder: Path

    def __init__(
        self,
        folder: Path,
        digest: str,
        split: str | None,
        buckets: tuple[str, ...] | None,
        native: NativeLimit,
    ) -> None:
        meta = read_meta(folder)
        if meta is None:
            raise RunDirectoryError(
                f"the files of the index in {folder} were removed or damaged; start again, which "
                "makes them anew (other machines need an index_folder that they share)"
            )
        self._arguments = (folder, digest, split, buckets, native)
        self.folder = folder
        self.digest = digest
        self.buckets = tuple(meta["buckets"])
        self.captions, self.scores, self.members = (
            tuple(meta["names"][kind]) for kind in ("captions", "scores", "members")
        )
        self._native = native
        self._columns: list[str] = meta["columns"]
        self._plan = _Records(folder / PLAN_FILE, PLAN)
        self._places = _Records(folder / PLACES_FILE, PLACE)
        self._rows = _Records(folder / ROWS_FILE, np.dtype(np.uint8))
        self._chosen: _Records | None = None
        self._length: int = meta["rows"]
        if split is not None or buckets is not None:
            self._length = _count(meta, split, buckets)
            path = _chosen_rows(folder, meta, split, buckets, self._length)
            self._chosen = _Records(path, _NUMBER)

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        store: Store,
        folder: Path,
        split: str | None = None,
        buckets: Collection[str] | None = None,
        native: NativeLimit | None = None,
    ) -> Self:
        """Open the index of packed shards; the first time on this machine it is made ready.

        Sets `store.version`, so that the store's cache tells this index from others.

        Args:
            root: the folder of index.json, as people know it. store: reads below it.
            folder: where the files of all indexes are kept; any number of processes may share it.
            split, buckets: rows that are read; None: all.
            native: of samples in the bucket `native`.

        Raises:
            RunDirectoryError: there is no index, or it is damaged or of another version.
            UserError: the index has no such split or bucket, or no rows of both.
            StoreError: the store cannot be read. StorageError: `folder` cannot be written.
        """
        data = _index_bytes(store)
        index = _parsed(data, store.shown(INDEX_FILE))
        key = hashlib.sha256(data)
        key.update(repr([LAYOUT, [store.size(name) for name in index["index"]]]).encode())
        # The digest is of samples and bytes; the key of all else that index.json says.
        place = Path(folder) / f"{index['digest'][:16]}-{key.hexdigest()[:16]}"
        place = place.expanduser().absolute()
        meta = read_meta(place) or build(store, index, place)
        _check_choice(meta, split, buckets, str(root))
        store.version = index["digest"]
        names = None if buckets is None else tuple(sorted(set(buckets)))
        return cls(place, index["digest"], split, names, native or NativeLimit())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def __len__(self) -> int:
        return self._length

    def shapes(self, rows: Rows) -> Shapes:
        """What is trained on of some rows: their bucket's frames and size.

        Of native rows their own: frames within the limit, rounded down to 4k+1; a picture within
        the limit, both sides rounded down to multiples of 16. A side below 16 pixels is 16, the
        only case in which a picture is scaled up.
        """
        plan = self._plan.take(self._real(rows))
        frames, height, width = plan["frames"], plan["height"], plan["width"]
        native = plan["native"]
        if native.any():
            limit = self._native
            own = frames if limit.max_frames is None else np.minimum(frames, limit.max_frames)
            frames = np.where(native, (own - 1) // 4 * 4 + 1, frames)
            tall, wide = height.astype(np.int64), width.astype(np.int64)
            if limit.max_short_side is not None:
                short = np.minimum(tall, wide)
                top = np.minimum(short, limit.max_short_side)
                tall, wide = tall * top // short, wide * top // short
            height = np.where(native, np.maximum(tall // _STEP, 1) * _STEP, height)
            width = np.where(native, np.maximum(wide // _STEP, 1) * _STEP, width)
        return Shapes(
            frames=frames.astype(np.int32),
            height=height.astype(np.int32),
            width=width.astype(np.int32),
            seconds=frames * plan["frame_seconds"],
            bucket=plan["bucket"].astype(np.int16),
            buckets=self.buckets,
        )

    def samples(self, rows: Rows) -> list[dict[str, Any]]:
        """The index rows at some places, in their order.

        Returns:
            dicts with the columns of the index but schema_version; `members` is
            suffix -> (offset, size), `captions` and `scores` are dicts, and `video` is the suffix
            of the member that holds the video ("" where none does).

        Raises:
            RunDirectoryError: the local files are damaged.
        """
        places = self._places.take(self._real(rows)).tolist()
        texts = self._rows.read(places)
        try:
            found = json.loads(f"[{b','.join(texts).decode()}]")  # cheaper than one a row
            return [self._sample(values) for values in found]
        except ValueError as error:
            raise RunDirectoryError(
                f"{self.folder / ROWS_FILE} is damaged at or after byte {places[0][0]} ({error}); "
                "remove its folder and start again, which makes it anew"
            ) from error

    def _sample(self, values: list[Any]) -> dict[str, Any]:
        row = dict(zip(self._columns, values, strict=True))
        members = {m["name"]: (m["offset"], m["size"]) for m in row["members"]}
        row["members"] = members
        row["video"] = "mp4" if "mp4" in members else video_suffix(members) or ""
        return row

    def _real(self, rows: Rows) -> npt.NDArray[np.int64]:
        assert not len(rows) or 0 <= rows.min() <= rows.max() < self._length
        return rows if self._chosen is None else self._chosen.take(rows)


class _Records:
    """An open file of records of one type; forked processes share it without harm.

    It is read, not mapped: pages that stay mapped count as memory of the process, and to map it
    for one call costs as much as the reads.
    """

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._path = path
        self._kind = kind

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The records at some places, in their order."""
        size = self._kind.itemsize
        handle, pread = self._handle, os.pread
        if _follow(places):
            data = pread(handle, size * len(places), int(places[0]) * size)
        else:
            data = b"".join([pread(handle, size, start) for start in (places * size).tolist()])
        if len(data) != len(places) * size:
            raise RunDirectoryError(
                f"{self._path} became shorter while it was read; start again, which makes it anew"
            )
        return np.frombuffer(data, self._kind)

    def read(self, places: list[tuple[int, int]]) -> list[bytes]:
        """Some ranges of bytes, each (start, size)."""
        handle, pread = self._handle, os.pread
        return [pread(handle, size, start) for start, size in places]

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` is kept: at the end of the program this module may be taken down before.
        handle = self.__dict__.pop("_handle", None)
        if handle is not None:
            close(handle)


def _follow(places: npt.NDArray[np.int64]) -> bool:
    """Whether places are one after the other, so that one read serves all of them."""
    return (
        len(places) > 1
        and places[-1] - places[0] == len(places) - 1
        and bool((np.diff(places) == 1).all())
    )


def _index_bytes(store: Store) -> bytes:
    where = store.shown("").rstrip("/")
    try:
        return store.read_all(INDEX_FILE)
    except ShardMissingError as error:
        remedy = (
            "pack a run's selection with `vidcurate pack OUT` and give OUT/shards/<selection>; of "
            "tars that others made, `vidcurate index DIR` makes an index"
        )
        if not store.is_remote:
            folder = Path(store.root)
            packed = sorted(p.parent.name for p in folder.glob(f"shards/*/{INDEX_FILE}"))
            if not folder.is_dir():
                remedy = "there is no such folder"
            elif packed:
                remedy = f"it is a run's folder: give {where}/shards/{packed[0]}"
                remedy += f" (or one of {', '.join(packed[1:])})" if packed[1:] else ""
            elif any(folder.glob("*.tar")) or any(folder.glob("*/*.tar")):
                remedy = f"its tars have no index: `vidcurate index {where}` makes one"
            elif (folder / "run.json").exists():
                remedy = f"nothing of this run is packed: `vidcurate pack {where}`"
        raise RunDirectoryError(f"no {INDEX_FILE} in {where}: {remedy}") from error


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        index = json.loads(data)
    except ValueError as error:
        raise RunDirectoryError(f"{where} is damaged ({error}); pack or index again") from error
    if not isinstance(index, dict) or index.get("schema_version") != INDEX_VERSION:
        found = index.get("schema_version") if isinstance(index, dict) else None
        raise RunDirectoryError(
            f"{where} is of another version of vidcurate ({found}, this one reads "
            f"{INDEX_VERSION}); pack or index again with this one"
        )
    wanted = {"digest": str, "rows": int, "index": list, "buckets": dict}
    for name, kind in wanted.items():
        if not isinstance(index.get(name), kind):
            raise RunDirectoryError(f"{where} is damaged (no {name}); pack or index again")
    if not index["digest"].isalnum():
        raise RunDirectoryError(f"{where} is damaged (its digest is none); pack or index again")
    if not index["rows"]:
        raise RunDirectoryError(f"{where} holds no samples; nothing was packed or indexed there")
    return index


def _check_choice(
    meta: dict[str, Any], split: str | None, buckets: Collection[str] | None, root: str
) -> None:
    known = ", ".join(meta["buckets"])
    for name in buckets or ():
        if name not in meta["buckets"]:
            raise UserError(f"{root} has no bucket {name!r}; it has {known}")
    if split is not None and split not in meta["splits"]:
        there = ", ".join(f"{s} ({_count(meta, s, None)})" for s in meta["splits"])
        raise UserError(f"{root} has no samples of the split {split!r}; it has {there}")
    if not _count(meta, split, buckets):
        there = ", ".join(
            f"{meta['buckets'][b]} {meta['splits'][s]} ({n})" for s, b, n in meta["counts"]
        )
        raise UserError(
            f"{root} has no samples of buckets {', '.join(sorted(buckets or ())) or 'none'} in the "
            f"split {split or 'any'}; it has {there}"
        )


def _count(meta: dict[str, Any], split: str | None, buckets: Collection[str] | None) -> int:
    return sum(
        n
        for s, b, n in meta["counts"]
        if (split is None or meta["splits"][s] == split)
        and (buckets is None or meta["buckets"][b] in buckets)
    )


def _chosen_rows(
    folder: Path,
    meta: dict[str, Any],
    split: str | None,
    buckets: tuple[str, ...] | None,
    count: int,
) -> Path:
    """The file of the numbers of the rows of a split and of buckets; made the first time."""
    name = hashlib.sha256(repr((split, buckets)).encode()).hexdigest()[:16]
    path = folder / f"rows-{name}.bin"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == count * _NUMBER.itemsize:
            return path
    codes = [b for b, n in enumerate(meta["buckets"]) if buckets is None or n in buckets]
    plan = np.memmap(folder / PLAN_FILE, PLAN, "r")
    with replacing(path) as temporary, temporary.open("wb") as file:
        for start in range(0, len(plan), _CHUNK):
            part = plan[start : start + _CHUNK]
            is_chosen = np.isin(part["bucket"], codes)
            if split is not None:
                is_chosen &= part["split"] == meta["splits"].index(split)
            file.write((np.flatnonzero(is_chosen) + start).astype(_NUMBER).tobytes())
    return path
