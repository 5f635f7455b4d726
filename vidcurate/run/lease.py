"""The lease of a run directory: one writer at a time.

A file lock (flock) on OUT/.lock, which the kernel frees when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from vidcurate.errors import RunDirectoryError
from vidcurate.run.manifest import local_directory


class Lease:
    """The right to write to a run directory, held while the `with` block runs.

    Args:
        out: the run directory; made where it is missing.

    Raises:
        RunDirectoryError: (on entry) another process holds it, or the directory cannot be made.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = local_directory(out)
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """True inside the `with` block."""
        return self._handle is not None

    def __enter__(self) -> Lease:
        assert not self.held
        lock = self.out / ".lock"
        if self.out.exists() and not self.out.is_dir():
            raise RunDirectoryError(f"{self.out} is a file; choose another output")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            # Python opens files close-on-exec: decode children never inherit the lock.
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
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
        os.ftruncate(handle, 0)
        os.pwrite(
            handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0
        )
        self._handle = handle
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._handle is not None
        # The file stays: unlinking it would let two later writers lock two different files.
        os.close(self._handle)
        self._handle = None


def is_held(out: str | Path) -> bool:
    """True while a process holds the lease of this run directory; it need not exist."""
    try:
        handle = os.open(local_directory(out) / ".lock", os.O_RDONLY)
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
