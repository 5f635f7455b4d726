"""Removing samples from packed shards: the tars that hold them are written anew without them.

New tars get new names; then index.json, which names them, replaces the one before; then the old
tars go. Killed at any moment, index.json names whole files, and the next call ends the job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcurate.clip import short_hash
from vidcurate.shards.index import about_of, read_index, totals, write_index
from vidcurate.shards.leftovers import tidy
from vidcurate.shards.rewrite import index_rows, rewrite

BATCH = 32 * 2**30
"""Bytes of tars that are written anew between two index.json: as much disk is needed meanwhile."""


@dataclass(frozen=True)
class Gone:
    """What is to go: ids of clips, and of videos, all of whose clips go; arrays of strings."""

    clips: pa.Array
    videos: pa.Array

    def among(self, rows: pa.Table) -> np.ndarray:
        """Which rows, with columns clip_id and video_id, are to go; bool."""
        clips = pc.is_in(rows["clip_id"], value_set=self.clips)
        found = pc.or_(clips, pc.is_in(rows["video_id"], value_set=self.videos))
        return np.asarray(found, dtype=bool)


@dataclass(frozen=True)
class ShardPurge:
    """What was removed. shards: the tars that held samples, as they were named. bytes: freed."""

    samples: int
    shards: tuple[str, ...]
    bytes: int


def held(folder: Path, gone: Gone) -> dict[str, int]:
    """The shards of a packed selection that hold samples to go, with their number.

    Args:
        folder: OUT/shards/<selection>.

    Raises:
        RunDirectoryError: its index is damaged.
    """
    index = read_index(folder)
    return {} if index is None else _held(folder, index, gone)


def purge_shards(folder: Path, gone: Gone, *, batch: int = BATCH) -> ShardPurge:
    """Remove samples from the shards of a selection; call it again after a kill.

    All other members stay byte for byte equal. A shard or bucket that is left empty goes, and so
    does what an unfinished pack has left behind.

    Args:
        folder: OUT/shards/<selection>. gone: what is to go.
        batch: bytes of tars to write anew before index.json is replaced.

    Raises:
        RunDirectoryError: its index or one of its tars is damaged.
        StorageError: the folder cannot be written (a full disk).
    """
    samples = freed = 0
    shards: list[str] = []
    index = read_index(folder)
    while index is not None:
        counts = _held(folder, index, gone)
        chosen = _first(index, counts, batch)
        about = _without(index, gone)
        if not chosen and about == {key: index[key] for key in about}:
            break
        before = sum(s["bytes"] for s in index["shards"])
        done = rewrite(folder, index, gone.among, chosen)
        if "appends" in index:  # `vidcurate index` knows of none
            about |= totals(done.shards, index["appends"])
        name = short_hash(f"purge:{index['digest']}")[:12]
        index = write_index(folder, name, done.rows(), done.shards, about)
        tidy(folder, index)
        freed += before - sum(s["bytes"] for s in index["shards"])
        samples += sum(counts[path] for path in chosen)
        shards += chosen
    tidy(folder, index)
    return ShardPurge(samples, tuple(shards), freed)


def _held(folder: Path, index: Mapping[str, Any], gone: Gone) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for rows in index_rows(folder, index, ["clip_id", "video_id", "shard"]):
        counts.update(rows["shard"].filter(pa.array(gone.among(rows))).to_pylist())
    return dict(counts)


def _first(index: Mapping[str, Any], counts: Mapping[str, int], batch: int) -> list[str]:
    """Shards to write anew at a time: as many as stay below `batch` bytes, at least one."""
    chosen: list[str] = []
    size = 0
    for shard in index["shards"]:
        if shard["path"] in counts:
            size += shard["bytes"]
            if chosen and size > batch:
                break
            chosen.append(shard["path"])
    return chosen


def _without(index: Mapping[str, Any], gone: Gone) -> dict[str, Any]:
    """What index.json says of the selection, without the clips that have no sample and go."""
    clips, videos = set(gone.clips.to_pylist()), set(gone.videos.to_pylist())
    about = about_of(index)
    about["no_bucket"] = [i for i in index["no_bucket"] if i not in clips]
    about["failures"] = [
        f for f in index["failures"] if f["clip_id"] not in clips and f["video_id"] not in videos
    ]
    return about
