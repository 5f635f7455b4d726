"""The lease of a run directory: one writer at a time; see `vidcurate.lock`."""

from __future__ import annotations

from pathlib import Path

from vidcurate.lock import Lock, is_locked
from vidcurate.run.manifest import local_directory


class Lease(Lock):
    """The right to write to a run directory, held while the `with` block runs.

    Args:
        out: the run directory; made where it is missing.

    Raises:
        RunDirectoryError: it is a URL; or (on entry) another process holds it, or the directory
            cannot be made.
    """

    def __init__(self, out: str | Path) -> None:
        super().__init__(local_directory(out))


def is_held(out: str | Path) -> bool:
    """True while a process holds the lease of this run directory; it need not exist."""
    return is_locked(local_directory(out))
