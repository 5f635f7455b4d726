"""Where the pack pass takes pictures from: a clip's own media, else its source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcurate.acquire.fetch import Fetcher
from vidcurate.acquire.limits import HostLimits
from vidcurate.clip import content_edges, short_hash
from vidcurate.errors import AcquireError
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire


@dataclass(frozen=True)
class Sources:
    """How to come by the sources of a run; plain values that pickle.

    out: the run directory. cache: where downloads are kept. own: names of the datasets' own
    columns, which mirrors may name.
    """

    out: Path
    acquire: Acquire
    cache: Path
    own: frozenset[str]

    def locator(self, limits: HostLimits) -> Callable[[Mapping[str, Any]], Path | AcquireError]:
        """Gives the local file of a clip's row, or why it cannot be had; for one thread.

        A video is fetched once.
        """
        fetcher = Fetcher(self.acquire, self.cache, limits, threading.Event())
        known: dict[str, Path | AcquireError] = {}

        def locate(row: Mapping[str, Any]) -> Path | AcquireError:
            if row["media"] is not None:
                return self.out / str(row["media"])
            video = str(row["video_id"])
            if video not in known:
                try:
                    known[video] = _scored(fetcher.fetch(self._video(row)).path, row)
                except AcquireError as error:
                    known[video] = error
            return known[video]

        return locate

    def _video(self, row: Mapping[str, Any]) -> VideoRow:
        return VideoRow(
            location=row["location"],
            key=row["source_key"],
            dataset_id=row["video_own_id"],
            fields={name: row[name] for name in self.own if name in row},
        )


def _scored(path: Path, row: Mapping[str, Any]) -> Path:
    """The path, if it holds what was scored: cuts count in that file's own time base.

    Raises:
        AcquireError: it does not, or cannot be read.
    """
    try:
        size, digest = content_edges(path)
    except OSError as error:
        raise AcquireError(f"{path}: cannot be read: {error.strerror}") from error
    if short_hash(f"{size}:{digest}") != row["content_id"]:
        raise AcquireError(
            f"{path}: is not the file that was scored (a mirror or a download that came later, or "
            "it was changed); put that one back, or score anew with --fresh"
        )
    return path
