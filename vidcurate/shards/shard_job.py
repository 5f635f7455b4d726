"""One shard of an append: the tar with its clips' samples, and their index rows."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION
from vidcurate.durable import replacing
from vidcurate.errors import RunDirectoryError
from vidcurate.media.cut import Cut
from vidcurate.recipe.model import Pack
from vidcurate.shards.cuts import read_cut
from vidcurate.shards.wanted import PROVENANCE, Row, Wanted
from vidcurate.shards.writer import TarWriter


@dataclass(frozen=True)
class ShardJob:
    """One shard to write.

    folder: of the selection's shards. part: where its index rows go; beside it lies the record that
    it is done. cuts: the folder of the cuts. path: of the shard, relative to `folder`.
    """

    folder: Path
    part: Path
    cuts: Path
    path: str
    clips: tuple[Wanted, ...]
    pack: Pack


def write_shard(job: ShardJob) -> dict[str, Any]:
    """Write one shard and its index rows, unless both are there; gives facts of the shard.

    Raises:
        StorageError: the folder cannot be written. RunDirectoryError: a cut is gone.
    """
    summary = job.part.with_suffix(".json")
    if summary.exists():
        found: dict[str, Any] = json.loads(summary.read_text("utf-8"))
        return found
    rows: list[Row] = []
    copied = 0
    media: list[Path] = []
    with replacing(job.folder / job.path) as temporary, TarWriter(temporary) as tar:
        for clip in job.clips:
            cut = read_clip(job.cuts, clip)
            rows.append(_sample(tar, clip, cut, job))
            copied += cut.copied
            media += media_of(cut).values()
    with replacing(job.part) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), temporary)
    facts = {
        "path": job.path,
        "bucket": job.clips[0].bucket.name,
        "rows": len(rows),
        "copied": copied,
        "bytes": tar.size,
        "sha256": tar.sha256,
    }
    with replacing(summary) as temporary:
        temporary.write_text(json.dumps(facts), "utf-8")
    for path in media:
        path.unlink()
    return facts


def read_clip(cuts: Path, clip: Wanted) -> Cut:
    """A clip's cut in the work folder.

    Raises:
        RunDirectoryError: it was removed by someone else.
    """
    cut = read_cut(cuts, clip.fingerprint)
    if cut is None:
        raise RunDirectoryError(
            f"{cuts}: the cut of clip {clip.clip_id} is gone; remove {cuts.parent} and run again"
        )
    return cut


def media_of(cut: Cut) -> dict[str, Path]:
    """The media members of a sample: suffix -> file."""
    sound = cut.path.with_suffix(".m4a")
    return {"mp4": cut.path} | ({"m4a": sound} if sound.exists() else {})


def _sample(tar: TarWriter, clip: Wanted, cut: Cut, job: ShardJob) -> Row:
    """Add a sample to a tar; gives its index row."""
    row, bucket = clip.row, clip.bucket
    about = {name: row.get(name) for name in PROVENANCE} | {
        "schema_version": INDEX_VERSION,
        "sample_id": clip.clip_id,
        "bucket": bucket.name,
        "copied": cut.copied,
        "note": cut.note,
        "captions": row["captions"],
        "scores": {k: v if _is_number(v) else None for k, v in row["scores"].items()},
        "rights": row["rights"],
    }
    text = json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)
    contents = {
        **media_of(cut),
        "json": text.encode(),
        "txt": (row["caption_source"] or "").encode(),
    }
    members = {s: tar.add(f"{clip.clip_id}.{s}", content) for s, content in contents.items()}
    return {
        "schema_version": INDEX_VERSION,
        "sample_id": clip.clip_id,
        "clip_id": clip.clip_id,
        "video_id": row["video_id"],
        "bucket": bucket.name,
        "shard": job.path,
        "members": [
            {"name": suffix, "offset": m.offset, "size": m.size} for suffix, m in members.items()
        ],
        "n_frames": cut.n_frames,
        "preroll_frames": cut.preroll_frames,
        "frame_step": clip.step if job.pack.encode == "copy" else 1,
        "fps_num": cut.fps_num,
        "fps_den": cut.fps_den,
        "vfr": cut.vfr,
        "duration_s": cut.duration_s,
        "width": cut.width,
        "height": cut.height,
        **{f"bucket_{k}": v for k, v in asdict(bucket).items() if k != "name"},
        "has_audio": cut.has_audio,
        "sha256": members["mp4"].sha256,
        "audio_sha256": members["m4a"].sha256 if "m4a" in members else None,
        "fingerprint": clip.fingerprint,
        "split": row["split"],
        "captions": list(row["captions"].items()),
        "scores": list(row["scores"].items()),
    }


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
