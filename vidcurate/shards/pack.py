"""Pack: the clips of a selection become tar shards with an index.

Shards are a function of the table, the recipe's pack section and the versions, but for the captions
and scores, which their .json holds as they were when they were packed: the index has them as they
are, and is written anew alone when they change. First all
clips are cut into a work folder; then their sizes are known and plan.json says which clip goes
where; then shards are written one after the other; then index.json replaces the one before and
what it no longer names is removed. Killed at any moment, the next call goes on from there and
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate import errors
from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION
from vidcurate.durable import TEMP, replacing
from vidcurate.errors import CutError, DataError, RunDirectoryError, StorageError
from vidcurate.media.convert import target_size
from vidcurate.media.cut import Cut
from vidcurate.media.encode import check_preset
from vidcurate.media.video import Box
from vidcurate.recipe.model import Limits, Pack
from vidcurate.shards.buckets import Bucket, assign, frame_step
from vidcurate.shards.cuts import ClipTask, SourceTask, cut_all, read_cut
from vidcurate.shards.index import (
    about_of,
    columns_digest,
    made_by,
    read_index,
    with_columns,
    write_index,
)
from vidcurate.shards.writer import TarWriter

_WORK = ".work-"
CLIPS_A_TASK = 16  # of one source: few enough to share a long video among the cores
_OVERHEAD = 4096  # bytes of a sample's headers, padding, .json and .txt, for planning
_PROVENANCE = (
    *("clip_id", "video_id", "source", "dataset_id", "location", "start", "end", "start_pts"),
    *("end_pts", "time_base_num", "time_base_den", "n_frames", "crop", "split"),
)
_Row = dict[str, Any]


@dataclass(frozen=True)
class PackFailure:
    """A clip that could not be cut, for the quarantine."""

    clip_id: str
    video_id: str
    error: DataError


@dataclass(frozen=True)
class PackReport:
    """What pack made. buckets: samples by bucket. no_bucket: ids of clips left out for that.

    copied, encoded: how samples were cut. digest: of the index. bytes: of all shards.
    """

    folder: Path
    samples: int
    shards: int
    bytes: int
    buckets: Mapping[str, int]
    copied: int
    encoded: int
    no_bucket: tuple[str, ...]
    failures: tuple[PackFailure, ...]
    digest: str


def pack_selection(
    clips: pa.Table,
    pack: Pack,
    folder: Path,
    *,
    workers: int,
    limits: Limits,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack clips into `folder` (OUT/shards/<selection>); call it again after a kill.

    Args:
        clips: one row a clip: the clip table's fixed columns, and
            `path`: local path of the source, or of the clip's own media where `media` is set;
            `split`: "train" or "val"; `captions`: map of name -> text; `scores`: map of name ->
            float64; and, where known, `location` of the source as people know it, `rights` (map
            of strings), `out_width` and `out_height` (what the editors resize to).
        workers: child processes that cut at a time.
        limits: bounds of each child. A clip that breaks them is a failure.
        progress: called with (clips that came to an end, clips in all) while clips are cut.

    Raises:
        UserError: the encode section asks for a preset that does not exist.
        RunDirectoryError: its index is damaged.
        StorageError: the folder cannot be written (a full disk).
    """
    if pack.encode != "copy":
        check_preset(pack.encode)
    rows = _plain(clips)
    plan = _plan_digest(rows, pack)
    try:
        done = _renewed(rows, folder, plan)
        if done is not None:
            return _report(folder, done)
        return _Packer(rows, pack, folder, plan, workers, limits, progress).run()
    except OSError as error:
        raise _unwritable(folder, error) from error


def renew_selection(clips: pa.Table, pack: Pack, folder: Path) -> PackReport | None:
    """Bring captions and scores in the index up to date, where the shards hold these clips already.

    No shard is written or read; index.json is replaced at once.

    Args:
        clips: as of `pack_selection`; `path` is not needed.

    Returns:
        None where there is something to pack.

    Raises:
        RunDirectoryError, StorageError: as `pack_selection`.
    """
    rows = _plain(clips)
    try:
        done = _renewed(rows, folder, _plan_digest(rows, pack))
    except OSError as error:
        raise _unwritable(folder, error) from error
    return None if done is None else _report(folder, done)


def _renewed(rows: list[_Row], folder: Path, plan: str) -> dict[str, Any] | None:
    done = read_index(folder)
    if done is None or done["plan"] != plan or not _is_whole(folder, done):
        return None
    left_out = {*done["no_bucket"], *(f["clip_id"] for f in done["failures"])}
    by_id = {row["clip_id"]: row for row in rows if row["clip_id"] not in left_out}
    columns = columns_digest(by_id.values())
    if done.get("columns") != columns:
        parts = (part for name in done["index"] for part in with_columns(folder / name, by_id))
        name = _index_name(plan, columns)
        done = write_index(folder, name, parts, done["shards"], about_of(done))
    tidy(folder, done)
    return done


def _index_name(plan: str, columns: str) -> str:
    # A reader that holds the index before this one still finds its file until `tidy`.
    return f"{plan[:12]}-{columns[:8]}"


def _unwritable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder} cannot be written ({error.strerror or error}); free space or mend the "
        "permissions and run again: what is cut is kept"
    )


def plan_digest(clips: pa.Table, pack: Pack) -> str:
    """The key `plan` of index.json once these clips are packed; `path` is not needed."""
    return _plan_digest(_plain(clips), pack)


def _plain(clips: pa.Table) -> list[_Row]:
    """The rows of the clip table, in the order of their ids."""
    rows: list[_Row] = clips.sort_by("clip_id").to_pylist()
    for row in rows:
        for name in ("captions", "scores", "rights"):
            row[name] = _mapping(row.get(name))
    return rows


class _Packer:
    """One call of pack_selection, from the cuts to the commit."""

    def __init__(
        self,
        rows: list[_Row],
        pack: Pack,
        folder: Path,
        plan: str,
        workers: int,
        limits: Limits,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.pack = pack
        self.folder = folder
        self.plan = plan
        self.name = plan[:12]
        self.workers = workers
        self.limits = limits
        self.progress = progress
        self.work = folder / f"{_WORK}{self.name}"
        self.rows: dict[str, _Row] = {}
        self.buckets: dict[str, Bucket] = {}
        self.no_bucket: list[str] = []
        for row in rows:
            assert pack.buckets != "auto"  # not yet chosen
            frames = -(-row["n_frames"] // _step(row, pack))
            bucket = assign(*_picture(row, pack), frames, pack.buckets, pack.fit)
            if bucket is None:
                self.no_bucket.append(row["clip_id"])
            else:
                self.rows[row["clip_id"]] = row
                self.buckets[row["clip_id"]] = bucket

    def run(self) -> PackReport:
        self.folder.mkdir(parents=True, exist_ok=True)
        tidy(self.folder, read_index(self.folder), keep=self.work)
        self.work.mkdir(exist_ok=True)
        plan = self._planned()
        shards = [self._shard(i, shard) for i, shard in enumerate(plan["shards"])]
        # A shard may be of an earlier call, before its clips had these captions.
        parts = (t for i in range(len(shards)) for t in with_columns(self._part(i), self.rows))
        index = write_index(
            self.folder,
            _index_name(self.plan, columns_digest(self.rows.values())),
            parts,
            shards,
            {
                "selection": self.folder.name,
                "plan": self.plan,
                "no_bucket": self.no_bucket,
                "failures": plan["failures"],
                "copied": plan["copied"],
                "encoded": plan["encoded"],
            },
        )
        tidy(self.folder, index)
        return _report(self.folder, index)

    # ------------------------------------------------------------------ cuts and plan

    def _planned(self) -> dict[str, Any]:
        """The shards to write; made once all clips are cut, then kept."""
        path = self.work / "plan.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return found
        failures = self._cut()
        cuts = {i: read_cut(self.work, i) for i in self.rows if i not in failures}
        shards: list[dict[str, Any]] = []
        for bucket in sorted({b.name for b in self.buckets.values()}):
            ids = [i for i in cuts if self.buckets[i].name == bucket]
            shards += self._split(bucket, sorted(ids, key=self._order), cuts)
        copied = sum(cut is not None and cut.copied for cut in cuts.values())
        plan = {
            "shards": shards,
            "failures": [self._failure(i, error) for i, error in sorted(failures.items())],
            "copied": copied,
            "encoded": len(cuts) - copied,
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plan), "utf-8")
        return plan

    def _order(self, clip_id: str) -> str:
        """A seeded place: neighbours in a shard are seldom of one video."""
        return hashlib.sha256(f"{self.pack.seed}:{clip_id}".encode()).hexdigest()

    def _split(
        self, bucket: str, ids: list[str], cuts: Mapping[str, Cut | None]
    ) -> Iterator[dict[str, Any]]:
        held: list[str] = []
        size = number = 0
        for clip_id in ids:
            cut = cuts[clip_id]
            assert cut is not None, "a clip is cut or failed"
            weight = cut.path.stat().st_size + _OVERHEAD
            if held and size + weight > self.pack.shard_size:
                yield self._named(bucket, number, held)
                held, size, number = [], 0, number + 1
            held.append(clip_id)
            size += weight
        if held:
            yield self._named(bucket, number, held)

    def _named(self, bucket: str, number: int, clips: list[str]) -> dict[str, Any]:
        return {"path": f"{bucket}/{self.name}-{number:05}.tar", "bucket": bucket, "clips": clips}

    def _cut(self) -> dict[str, DataError]:
        left = [row for i, row in self.rows.items() if read_cut(self.work, i) is None]
        by_path: dict[str, list[_Row]] = {}
        for row in left:
            by_path.setdefault(row["path"], []).append(row)
        tasks = []
        for path, rows in sorted(by_path.items()):
            rows.sort(key=lambda row: (row["start"], row["clip_id"]))
            for first in range(0, len(rows), CLIPS_A_TASK):
                chunk = rows[first : first + CLIPS_A_TASK]
                tasks.append(
                    SourceTask(
                        path=Path(path),
                        clips=tuple(self._task(row) for row in chunk),
                        folder=self.work,
                        audio=self.pack.audio,
                        encode=None if self.pack.encode == "copy" else self.pack.encode,
                        max_pixels=self.limits.max_pixels,
                        max_duration=self.limits.max_duration,
                    )
                )
        ended = len(self.rows) - len(left)
        lock = threading.Lock()

        def done(count: int) -> None:
            nonlocal ended
            with lock:
                ended += count
                if self.progress is not None:
                    self.progress(ended, len(self.rows))

        return cut_all(tasks, workers=self.workers, limits=self.limits, done=done)

    def _task(self, row: _Row) -> ClipTask:
        bucket = self.buckets[row["clip_id"]]
        size = _resized(row, self.pack)
        if self.pack.encode != "copy" and bucket.width is not None and bucket.height is not None:
            size = (bucket.width, bucket.height)
        return ClipTask(
            clip_id=row["clip_id"],
            start_pts=row["start_pts"],
            end_pts=row["end_pts"],
            duration=row["end"] - row["start"],
            n_frames=row["n_frames"],
            whole=row["media"] is not None,
            crop=Box(**row["crop"]) if row["crop"] is not None else None,
            size=size,
            frame_step=1 if self.pack.encode == "copy" else _step(row, self.pack),
        )

    def _failure(self, clip_id: str, error: DataError) -> dict[str, Any]:
        return {
            "clip_id": clip_id,
            "video_id": self.rows[clip_id]["video_id"],
            "error": type(error).__name__,
            "message": str(error),
            "transient": error.is_transient,
        }

    # ------------------------------------------------------------------ shards

    def _part(self, number: int) -> Path:
        return self.work / f"part-{number:06}.parquet"

    def _shard(self, number: int, shard: Mapping[str, Any]) -> dict[str, Any]:
        """Write one shard and its index rows, unless both are there; what index.json says of it."""
        summary = self.work / f"shard-{number:06}.json"
        if summary.exists():
            found: dict[str, Any] = json.loads(summary.read_text("utf-8"))
            return found
        rows: list[_Row] = []
        with replacing(self.folder / shard["path"]) as temporary, TarWriter(temporary) as tar:
            for clip_id in shard["clips"]:
                rows.append(self._sample(tar, clip_id, shard["path"]))
        with replacing(self._part(number)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), temporary)
        about = {
            "path": shard["path"],
            "bucket": shard["bucket"],
            "rows": len(rows),
            "bytes": tar.size,
            "sha256": tar.sha256,
        }
        with replacing(summary) as temporary:
            temporary.write_text(json.dumps(about), "utf-8")
        for clip_id in shard["clips"]:
            (self.work / f"{clip_id}.mp4").unlink()
        return about

    def _sample(self, tar: TarWriter, clip_id: str, shard: str) -> _Row:
        row, bucket = self.rows[clip_id], self.buckets[clip_id]
        cut = read_cut(self.work, clip_id)
        if cut is None:
            raise RunDirectoryError(
                f"{self.work}: the cut of clip {clip_id} is gone; remove this folder and run again"
            )
        about = {name: row.get(name) for name in _PROVENANCE} | {
            "schema_version": INDEX_VERSION,
            "sample_id": clip_id,
            "bucket": bucket.name,
            "copied": cut.copied,
            "note": cut.note,
            "captions": row["captions"],
            "scores": {k: v if _is_number(v) else None for k, v in row["scores"].items()},
            "rights": row["rights"],
        }
        text = json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)
        members = {
            suffix: tar.add(f"{clip_id}.{suffix}", content)
            for suffix, content in (
                ("mp4", cut.path),
                ("json", text.encode()),
                ("txt", (row["caption_source"] or "").encode()),
            )
        }
        return {
            "schema_version": INDEX_VERSION,
            "sample_id": clip_id,
            "clip_id": clip_id,
            "video_id": row["video_id"],
            "bucket": bucket.name,
            "shard": shard,
            "members": [
                {"name": suffix, "offset": m.offset, "size": m.size}
                for suffix, m in members.items()
            ],
            "n_frames": cut.n_frames,
            "preroll_frames": cut.preroll_frames,
            "frame_step": _step(row, self.pack) if self.pack.encode == "copy" else 1,
            "fps_num": cut.fps_num,
            "fps_den": cut.fps_den,
            "vfr": cut.vfr,
            "duration_s": cut.duration_s,
            "width": cut.width,
            "height": cut.height,
            "bucket_width": bucket.width,
            "bucket_height": bucket.height,
            "bucket_frames": bucket.frames,
            "has_audio": cut.has_audio,
            "sha256": members["mp4"].sha256,
            "split": row["split"],
            "captions": list(row["captions"].items()),
            "scores": list(row["scores"].items()),
        }


def _mapping(value: Any) -> dict[str, Any]:
    """An Arrow map, which Python sees as pairs, in a fixed order."""
    return dict(sorted(dict(value or {}).items()))


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _step(row: _Row, pack: Pack) -> int:
    return frame_step(row["n_frames"] / (row["end"] - row["start"]), pack.fit)


def _resized(row: _Row, pack: Pack) -> tuple[int, int] | None:
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


def _picture(row: _Row, pack: Pack) -> tuple[int, int]:
    """Width and height of the clip's picture after crop and resize."""
    return _resized(row, pack) or (row["width"], row["height"])


def _plan_digest(rows: list[_Row], pack: Pack) -> str:
    """Of all that decides what the shards hold.

    Paths are left out: a moved source stays itself. So are captions and scores: only the index
    follows them.
    """
    digest = hashlib.sha256()
    head = {"schema": INDEX_VERSION, "pack": pack.model_dump(mode="json"), "by": made_by()}
    digest.update(json.dumps(head, sort_keys=True).encode())
    names = (
        *_PROVENANCE,
        *("width", "height", "out_width", "out_height"),
        *("caption_source", "rights"),
    )
    for row in rows:
        line = {name: row.get(name) for name in names} | {"cut": row["media"] is not None}
        digest.update(json.dumps(line, sort_keys=True).encode())
    return digest.hexdigest()


def _is_whole(folder: Path, index: Mapping[str, Any]) -> bool:
    """Whether all files that an index names are there, each of its size."""
    tars = ((folder / s["path"], s["bytes"]) for s in index["shards"])
    return all((folder / name).exists() for name in index["index"]) and all(
        path.exists() and path.stat().st_size == size for path, size in tars
    )


def tidy(folder: Path, index: Mapping[str, Any] | None, keep: Path | None = None) -> None:
    """Remove what no index names: shards of an older plan, unfinished files, work folders.

    keep: a work folder to go on with; nothing of its plan is removed.
    """
    named = {s["path"] for s in index["shards"]} | set(index["index"]) if index else set()
    current = keep.name.removeprefix(_WORK) if keep is not None else None
    for path in folder.glob(f"{_WORK}*"):
        if path != keep:
            shutil.rmtree(path)
    ours = [*folder.glob("*/*.tar"), *folder.glob("index/*.parquet")]
    for path in ours:
        stem = path.name.partition(".")[0].partition("-")[0]
        if path.relative_to(folder).as_posix() not in named and stem != current:
            path.unlink()
    for path in [*folder.glob(f"{TEMP}*"), *folder.glob(f"*/{TEMP}*")]:
        path.unlink()
    for path in folder.iterdir():
        if path.is_dir() and path != keep and not any(path.iterdir()):
            path.rmdir()


def _report(folder: Path, index: Mapping[str, Any]) -> PackReport:
    return PackReport(
        folder=folder,
        samples=index["rows"],
        shards=len(index["shards"]),
        bytes=sum(s["bytes"] for s in index["shards"]),
        buckets=Counter(index["buckets"]),
        copied=index["copied"],
        encoded=index["encoded"],
        no_bucket=tuple(index["no_bucket"]),
        failures=tuple(
            PackFailure(
                clip_id=f["clip_id"],
                video_id=f["video_id"],
                error=getattr(errors, f["error"], CutError)(f["message"], transient=f["transient"]),
            )
            for f in index["failures"]
        ),
        digest=index["digest"],
    )
