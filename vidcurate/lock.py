"""One writer at a time in a folder.

A file lock (flock) on FOLDER/.lock, which the kernel frees when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from vidcurate.errors import RunDirectoryError

LOCK = ".lock"
"""The file; it stays, as unlinking it would let two later writers lock two different files."""


class Lock:
    """The right to write to a folder, held while the `with` block runs.

    Args:
        out: the folder; made where it is missing.

    Raises:
        RunDirectoryError: (on entry) another process holds it, or the folder cannot be made.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """True inside the `with` block."""
        return self._handle is not None

    def __enter__(self) -> Self:
        assert not self.held
        if self.out.exists() and not self.out.is_dir():
            raise RunDirectoryError(f"{self.out} is a file; choose another output")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            # Python opens files close-on-exec: decode children never inherit the lock.
            handle = os.open(self.out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.out} cannot be written to ({error.strerror}); choose another output"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(handle)
            os.close(handle)
            raise RunDirectoryError(
                f"{self.out} is in use by another run ({holder}); "
                "wait for it to end, stop it, or choose another output"
            ) from error
        name = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, name.encode(), 0)
        self._handle = handle
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


def is_locked(folder: Path) -> bool:
    """True while a process holds the lock of this folder; it need not exist."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _holder(handle: int) -> str:
    try:
        data = json.loads(os.pread(handle, 4096, 0))
        return f"process {data['pid']} on {data['host']}"
    except (ValueError, KeyError, TypeError):
        return "it has not written its name yet"
