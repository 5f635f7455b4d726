"""A cache on the local disk of the ranges that were read from remote stores.

Any number of processes share a folder, without locks. A file is written under a temporary name and
renamed, so what has its name is whole; an order of events in which two processes get into each
other's way costs a second download, never a wrong byte. What the cache holds together is the
length of one file, to which each process appends for what it puts in; a process that finds it
over the limit counts anew and removes what was not read for longest.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
import uuid
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

_UNIT = 4096  # bytes that one byte of the ledger stands for
_LEDGER = "used"
_UNFINISHED = "tmp"
_OLD = 3600.0  # seconds after which an unfinished file is a killed process's
_KEEP = 0.9  # of the limit is left when room is made
_CHECK = 4  # bytes of the checksum behind the data


class Cache:
    """What was read from remote stores, in a local folder.

    Args:
        folder: made on first use; on one disk, which all who share the cache can reach.
        max_bytes: of all files in it. For a moment there may be more by what the processes that
            share it write at that moment.

    Attributes:
        hits, misses: of `get` in this process.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._is_off = False
        self._is_tidy = False

    def get(self, key: tuple[object, ...], size: int) -> bytes | None:
        """What was put under a key; None where it is not there, or not whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            self.misses += 1
            return None
        content, check = data[:-_CHECK], data[-_CHECK:]
        if len(content) != size or zlib.crc32(content).to_bytes(_CHECK, "big") != check:
            # A disk that lost power: the name can outlive the content.
            with contextlib.suppress(OSError):
                path.unlink()
            self.misses += 1
            return None
        with contextlib.suppress(OSError):  # removed, or a folder that is only read
            os.utime(path)  # access times of the system are often off
        self.hits += 1
        return content

    def put(self, key: tuple[object, ...], data: bytes) -> None:
        """Keep bytes under a key; of a disk that is full or cannot be written, warns once."""
        if self._is_off or len(data) + _CHECK > self.max_bytes:
            return
        temporary = self.folder / _UNFINISHED / uuid.uuid4().hex
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            if not self._is_tidy:
                self._remove_unfinished()
                self._is_tidy = True
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.write(zlib.crc32(data).to_bytes(_CHECK, "big"))
                path = self._path(key)
                path.parent.mkdir(exist_ok=True)
                temporary.rename(path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            if self._count(len(data) + _CHECK) > self.max_bytes:
                self._make_room()
        except OSError as error:
            self._is_off = True
            warnings.warn(
                f"{self.folder} cannot be written ({error.strerror or error}); reading goes on "
                "without this cache: free space, or give it another folder",
                RuntimeWarning,
                stacklevel=2,
            )

    def _path(self, key: tuple[object, ...]) -> Path:
        name = hashlib.sha256(repr(key).encode()).hexdigest()
        return self.folder / name[:2] / name[2:]

    # ------------------------------------------------------------------ room

    def _count(self, size: int) -> int:
        """Add to what the cache holds; all of it, about. Without a ledger, more than the limit."""
        ledger = self.folder / _LEDGER
        try:
            handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return self.max_bytes + 1
        try:
            # Appending is atomic: no process's share is lost.
            os.write(handle, bytes(_units(size)))
            return os.fstat(handle).st_size * _UNIT
        finally:
            os.close(handle)

    def _make_room(self) -> None:
        """Count what there is; over the limit, remove what was not read for longest."""
        self._remove_unfinished()
        files = sorted(self._files())
        used = sum(_units(size) for _, size, _ in files) * _UNIT
        if used > self.max_bytes:
            for _, size, path in files:
                if used <= self.max_bytes * _KEEP:
                    break
                with contextlib.suppress(FileNotFoundError):  # another process was quicker
                    os.unlink(path)
                used -= _units(size) * _UNIT
        ledger = self.folder / _LEDGER
        with ledger.open("ab") as file:
            file.truncate(used // _UNIT)  # longer than it was: a hole, which takes no room

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Last use, size and path of each file."""
        with os.scandir(self.folder) as folders:
            names = [entry.path for entry in folders if len(entry.name) == 2]
        for name in names:
            with os.scandir(name) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat()
                        yield found.st_mtime, found.st_size, entry.path

    def _remove_unfinished(self) -> None:
        with os.scandir(self.folder / _UNFINISHED) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > _OLD:
                        os.unlink(entry.path)


def _units(size: int) -> int:
    return math.ceil(size / _UNIT)
