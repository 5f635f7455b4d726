"""What the shards of a selection are to hold: each clip with its bucket and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa

from vidcurate.clip import INDEX_VERSION
from vidcurate.media.convert import target_size
from vidcurate.media.video import Box
from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.buckets import Bucket, assign, frame_step
from vidcurate.shards.cuts import ClipTask, SourceTask

_UNUSED = ("fingerprints", "also")
_BATCH = 8192  # rows whose maps are pairs of their own
_KINDS = 65_536  # sizes and lengths whose bucket is kept: most clips share theirs with others

Row = dict[str, Any]
"""A row of the clip table as `pack_selection` takes it, its maps as dicts."""

PROVENANCE = (
    *("clip_id", "video_id", "source", "dataset_id", "location", "start", "end", "start_pts"),
    *("end_pts", "time_base_num", "time_base_den", "n_frames", "crop", "split"),
)
"""What a sample's .json says of where its clip comes from."""


@dataclass(frozen=True)
class Wanted:
    """A clip that the shards are to hold.

    step: every such frame of it is trained on. fingerprint: of all that decides its members' bytes
    but the versions of the libraries; captions and scores are not among that, as the index alone
    follows them. It names the clip's cut in the work folder.
    """

    row: Row
    bucket: Bucket
    step: int
    fingerprint: str

    @property
    def clip_id(self) -> str:
        """The clip's id."""
        return str(self.row["clip_id"])


def plain(clips: pa.Table) -> list[Row]:
    """The rows of the clip table, in the order of their ids."""
    rows: list[Row] = []
    clips = clips.select([name for name in clips.column_names if name not in _UNUSED])
    for batch in clips.sort_by("clip_id").to_batches(_BATCH):
        rows += _plain(batch)
    return rows


def _plain(batch: pa.RecordBatch) -> list[Row]:
    rows: list[Row] = batch.to_pylist()
    for row in rows:
        for name in ("captions", "scores", "rights"):
            # An Arrow map, which Python sees as pairs, in a fixed order; each name is kept once.
            row[name] = {intern(k): v for k, v in sorted(dict(row.get(name) or ()).items())}
    return rows


def wanted(
    rows: Iterable[Row], pack: Pack, buckets: Buckets | None
) -> tuple[dict[str, Wanted], list[str]]:
    """The clips that are to be packed, by id, and the ids of those that have no bucket.

    Args:
        rows: of `plain`. buckets: those of `pack`, or what was chosen for "auto".
    """
    found: dict[str, Wanted] = {}
    no_bucket: list[str] = []
    place = lru_cache(_KINDS)(partial(assign, buckets=buckets, fit=pack.fit))
    for row in rows:
        step = _step(row, pack)
        bucket = place(*_picture(row, pack), -(-row["n_frames"] // step))
        if bucket is None:
            no_bucket.append(row["clip_id"])
        else:
            mark = _fingerprint(row, bucket, step, pack)
            found[row["clip_id"]] = Wanted(row, bucket, step, mark)
    return found, no_bucket


def measures(
    rows: Sequence[Row], pack: Pack
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What buckets are chosen from: widths, heights, frames trained on, seconds; one a clip."""
    sizes = np.array([_picture(row, pack) for row in rows], np.int64).reshape(-1, 2)
    frames = np.array([-(-row["n_frames"] // _step(row, pack)) for row in rows], np.int64)
    seconds = np.array([row["end"] - row["start"] for row in rows], np.float64)
    return sizes[:, 0], sizes[:, 1], frames, seconds


def source_tasks(
    clips: Iterable[Wanted],
    paths: Mapping[str, Path],
    folder: Path,
    pack: Pack,
    limits: Limits,
    at_most: int,
) -> list[SourceTask]:
    """The cuts to make: clips of one file together, in order of time, `at_most` to a task.

    Args:
        paths: where the clips' pictures are, by clip id. folder: where their cuts go.
    """
    by_path: dict[Path, list[Wanted]] = {}
    for clip in clips:
        by_path.setdefault(paths[clip.clip_id], []).append(clip)
    tasks = []
    for path, mine in sorted(by_path.items()):
        mine.sort(key=lambda clip: (clip.row["start"], clip.clip_id))
        tasks += [
            SourceTask(
                path=path,
                clips=tuple(_task(clip, pack) for clip in mine[first : first + at_most]),
                folder=folder,
                audio=pack.audio,
                encode=None if pack.encode == "copy" else pack.encode,
                max_pixels=limits.max_pixels,
                max_duration=limits.max_duration,
            )
            for first in range(0, len(mine), at_most)
        ]
    return tasks


def by_clip(clips: Iterable[Wanted]) -> Callable[[str], str]:
    """Gives the id of the clip whose cut has a name."""
    ids = {clip.fingerprint: clip.clip_id for clip in clips}
    return lambda name: ids[name]


def _task(clip: Wanted, pack: Pack) -> ClipTask:
    row, bucket = clip.row, clip.bucket
    size = _resized(row, pack)
    if pack.encode != "copy" and bucket.width is not None and bucket.height is not None:
        size = (bucket.width, bucket.height)
    return ClipTask(
        clip_id=clip.fingerprint,
        start_pts=row["start_pts"],
        end_pts=row["end_pts"],
        duration=row["end"] - row["start"],
        n_frames=row["n_frames"],
        whole=row["media"] is not None,
        crop=Box(**row["crop"]) if row["crop"] is not None else None,
        size=size,
        frame_step=1 if pack.encode == "copy" else clip.step,
    )


def _fingerprint(row: Row, bucket: Bucket, step: int, pack: Pack) -> str:
    # Paths are left out: a moved source stays itself.
    names = (*PROVENANCE, "content_id", "caption_source", "rights")
    decides = {name: row.get(name) for name in names} | {
        "schema": INDEX_VERSION,
        "own_media": row["media"] is not None,
        "bucket": [bucket.name, bucket.width, bucket.height, bucket.frames],
        "size": _resized(row, pack),
        "step": step,
        "audio": pack.audio,
        "encode": pack.encode if pack.encode == "copy" else pack.encode.model_dump(mode="json"),
    }
    text = json.dumps(decides, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _step(row: Row, pack: Pack) -> int:
    return frame_step(row["n_frames"] / (row["end"] - row["start"]), pack.fit)


def _resized(row: Row, pack: Pack) -> tuple[int, int] | None:
    """What the clip's picture is scaled to, by the editors or by `fit.max_short_side`."""
    width, height = row.get("out_width"), row.get("out_height")
    edited = (width, height) if width and height else None
    width, height = edited or (row["width"], row["height"])
    most = pack.fit.max_short_side
    if most is None or min(width, height) <= most:
        return edited
    # Even, as 4:2:0 wants it.
    smaller = target_size(width, height, most)
    return smaller[0] // 2 * 2, smaller[1] // 2 * 2


def _picture(row: Row, pack: Pack) -> tuple[int, int]:
    """Width and height of the clip's picture after crop and resize."""
    return _resized(row, pack) or (row["width"], row["height"])
