"""Files that are there as a whole or not at all, and that survive a power cut."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from vidcurate.errors import StorageError

TEMP = ".tmp-"
"""How names of unfinished files begin."""


def sync_directory(folder: Path) -> None:
    """Make new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` at once when the block ends well.

    Raises:
        StorageError: the file cannot be written (a full disk, no permission).
    """
    temporary = path.with_name(f"{TEMP}{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}); free space or mend the "
            "permissions and run again: all that is committed is kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
