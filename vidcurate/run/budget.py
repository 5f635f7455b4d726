"""The budget of a run (`budget: {disk: 4TB, time: 12h}`): a run that reaches it pauses."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from vidcurate.acquire.cache import Cache
from vidcurate.acquire.fetch import cache_key
from vidcurate.errors import VidcurateError
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Budget
from vidcurate.run.tables import Run

_WALK_EVERY = 1.0  # seconds, at least
_WALK_SHARE = 20  # a walk may take one in so many seconds
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


class BudgetReachedError(VidcurateError):
    """A run has reached its budget: what it did is committed, and it pauses; exit status 3."""

    exit_status: ClassVar[int] = 3


class Meter:
    """What a command has used of its run's budget.

    The time counts from the making of the meter. The disk is the run directory, walked by
    `measure` and from then on counted by `add`, and `downloads`; both in bytes.

    Args:
        budget: of the recipe; None where nothing is bounded. out: the run directory.
    """

    def __init__(self, budget: Budget, out: Path) -> None:
        self.budget = budget
        self.out = out
        self.downloads = 0
        self._began = time.monotonic()
        self._stored = 0

    @property
    def counts_disk(self) -> bool:
        """True where the budget bounds the disk: else nothing is walked."""
        return self.budget.disk is not None

    def measure(self) -> None:
        """Walk the run directory."""
        if self.counts_disk:
            self._stored = folder_size(self.out)

    def add(self, stored: int, downloads: int = 0) -> None:
        """Count bytes that came to the run directory, and of downloads that are kept."""
        self._stored += stored
        self.downloads += downloads

    def reached(self) -> str | None:
        """What of the budget is used up, and the remedy; None while there is some left."""
        disk, seconds = self.budget.disk, self.budget.time
        used = self._stored + self.downloads
        if disk is not None and used >= disk:
            kept = f", {size(self.downloads)} of it downloads" if self.downloads else ""
            return (
                f"budget.disk ({size(disk)}) is reached: the run takes {size(used)}{kept}. Give "
                f"more, as --set budget.disk={size(2 * disk).replace(' ', '')}, or free space: "
                "acquire.keep_sources `until_packed` or `never` keeps fewer downloads"
            )
        passed = time.monotonic() - self._began
        if seconds is not None and passed >= seconds:
            return f"budget.time ({seconds:g} s) is reached; the next call has as much again"
        return None

    def check(self) -> None:
        """Pause where the budget is used up.

        Raises:
            BudgetReachedError: it is.
        """
        if (reason := self.reached()) is not None:
            raise BudgetReachedError(reason)

    def watch(self, folder: Path) -> Callable[[], None]:
        """`check` for one who writes to `folder`, below the run directory: it is walked again now
        and then, so seldom that the walks take little time."""
        self.measure()
        others = self._stored - (folder_size(folder) if self.counts_disk else 0)
        due = 0.0

        def check() -> None:
            nonlocal due
            now = time.monotonic()
            if self.counts_disk and now >= due:
                self._stored = others + folder_size(folder)
                done = time.monotonic()
                due = done + max(_WALK_EVERY, _WALK_SHARE * (done - now))
            self.check()

        return check


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a temporary file, renamed meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def kept_downloads(run: Run, cache: Path) -> int:
    """Bytes of the downloads in the cache that belong to the videos of a run."""
    total = 0
    for row in run.sql("SELECT location, source_key FROM videos").to_pylist():
        key = cache_key(VideoRow(row["location"], key=row["source_key"]))
        total += folder_size(Cache(cache).path(key, "file").parent)
    return total


def size(n_bytes: float) -> str:
    """An amount of bytes in the units of recipes: `4 TB`, `1.25 GB`."""
    power = 0
    while n_bytes >= 999.5 and power < len(_UNITS) - 1:
        n_bytes /= 1000
        power += 1
    return f"{n_bytes:.3g} {_UNITS[power]}"
