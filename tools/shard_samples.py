"""Samples for the benchmark of shards: the same ones as plain files and as packed shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import fetch_footage
import numpy as np
import pyarrow as pa
from encode_footage import Encoding, encode
from mosaic_peer import SHARD

from vidcurate.clip import CLIP_FIELDS, INDEX_SCHEMA, INDEX_VERSION, clip_id, short_hash, video_id
from vidcurate.recipe.model import Buckets, Fit, Limits, Pack
from vidcurate.shards.buckets import Bucket
from vidcurate.shards.index import write_index
from vidcurate.shards.pack import pack_selection
from vidcurate.shards.writer import TarWriter

BUCKETS = (
    Bucket("272p_16x9_49f", 480, 272, 49),
    Bucket("272p_16x9_97f", 480, 272, 97),
    Bucket("480p_16x9_49f", 848, 480, 49),
    Bucket("272p_9x16_49f", 272, 480, 49),
)
_SHARES = (0.5, 0.25, 0.125, 0.125)
_RATE = 25
_GOP = 50  # frames: web video has a key frame every 2 s or so


@dataclass(frozen=True)
class Made:
    """One sample: the bytes of each member, by suffix."""

    sample_id: str
    bucket: Bucket
    members: dict[str, bytes]


def made(count: int, size: int) -> Iterator[Made]:
    """Samples of random bytes, half to one and a half times `size`; text as pack writes it."""
    rng = np.random.default_rng(5)
    kinds = rng.choice(len(BUCKETS), count, p=_SHARES)
    for number, kind in enumerate(kinds):
        name = short_hash(f"sample {number}")
        about = {"clip_id": name, "captions": {"long": "a dog runs over a field " * 12}}
        yield Made(
            name,
            BUCKETS[int(kind)],
            {
                "mp4": rng.bytes(int(rng.integers(size // 2, size * 3 // 2))),
                "json": json.dumps(about | {"scores": {"motion": 0.5}}).encode(),
                "txt": b"a dog runs over a field",
            },
        )


def write_plain(samples: Iterable[Made], folder: Path) -> None:
    """A file for each member."""
    folder.mkdir(parents=True)
    for sample in samples:
        for suffix, data in sample.members.items():
            (folder / f"{sample.sample_id}.{suffix}").write_bytes(data)


def write_tars(samples: Iterable[Made], folder: Path) -> Iterator[dict[str, Any]]:
    """Write samples as tars below `folder`, of one bucket each, and give their index rows."""
    tars: dict[str, TarWriter] = {}
    numbers = dict.fromkeys((b.name for b in BUCKETS), -1)
    try:
        for sample in samples:
            bucket = sample.bucket
            tar = tars.get(bucket.name)
            if tar is None or tar.size > SHARD:
                if tar is not None:
                    tar.__exit__(None, None, None)
                numbers[bucket.name] += 1
                path = folder / _shard(bucket, numbers[bucket.name])
                path.parent.mkdir(parents=True, exist_ok=True)
                tars[bucket.name] = tar = TarWriter(path).__enter__()
            members = {
                suffix: tar.add(f"{sample.sample_id}.{suffix}", data)
                for suffix, data in sample.members.items()
            }
            places = [{"name": s, "offset": m.offset, "size": m.size} for s, m in members.items()]
            yield _row(sample, _shard(bucket, numbers[bucket.name]), places, members["mp4"].sha256)
    finally:
        for tar in tars.values():
            tar.__exit__(None, None, None)


def write_shards(samples: Iterable[Made], folder: Path) -> None:
    """Write samples as a packed selection: tars of one bucket each, and the index."""
    rows = sorted(write_tars(samples, folder), key=lambda row: row["shard"])
    shards: dict[str, dict[str, Any]] = {}
    for row in rows:
        path = row["shard"]
        size = (folder / path).stat().st_size
        shard = shards.setdefault(
            path, {"path": path, "bucket": row["bucket"], "rows": 0, "bytes": size, "sha256": ""}
        )
        shard["rows"] += 1
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    write_index(folder, "made", [table], list(shards.values()), {"selection": folder.name})


def _shard(bucket: Bucket, number: int) -> str:
    return f"{bucket.name}/made-{number:05}.tar"


def _row(sample: Made, shard: str, members: list[dict[str, Any]], sha256: str) -> dict[str, Any]:
    bucket = sample.bucket
    assert bucket.frames is not None
    return {
        "schema_version": INDEX_VERSION,
        "sample_id": sample.sample_id,
        "clip_id": sample.sample_id,
        "video_id": sample.sample_id,
        "bucket": bucket.name,
        "shard": shard,
        "members": members,
        "n_frames": bucket.frames,
        "preroll_frames": 0,
        "frame_step": 1,
        "fps_num": _RATE,
        "fps_den": 1,
        "vfr": False,
        "duration_s": bucket.frames / _RATE,
        "width": bucket.width,
        "height": bucket.height,
        "bucket_width": bucket.width,
        "bucket_height": bucket.height,
        "bucket_frames": bucket.frames,
        "has_audio": False,
        "sha256": sha256,
        "split": "train",
        "captions": [("long", "a dog runs over a field")],
        "scores": [("motion", 0.5)],
    }


# --------------------------------------------------------------------------- packed clips


def packed_clips(
    count: int, size: tuple[int, int], frames: int, shards: Path, footage: Path
) -> Path:
    """Clips of real footage, packed by copying their packets into `shards`, which it returns.

    Each has exactly the frames of its bucket, which is 480x272 for 16:9, and starts anywhere: so
    up to 49 frames before it must be decoded, too, as with clips of web video. The video that
    they are cut from is encoded once and kept in `footage`.
    """
    source, *_ = fetch_footage.fetch()
    video = footage / f"web_{size[0]}x{size[1]}.mp4"
    clips = pa.Table.from_pylist(
        [_clip_row(video, n * 61 % 200, frames, n, size) for n in range(count)], schema=_CLIPS
    )
    if not video.exists():
        footage.mkdir(parents=True, exist_ok=True)
        options = {"crf": "23", "g": str(_GOP), "sc_threshold": "0"}
        draft = video.with_name(f".{os.getpid()}.{video.name}")
        encode(draft, _pictures(source, size), size, Encoding(fps=_RATE, options=options))
        draft.replace(video)
    report = pack_selection(
        clips,
        Pack(
            buckets=Buckets(short_side=(272,), aspect=("16:9",), frames=(frames,)),
            fit=Fit(no_bucket="report"),
        ),
        shards,
        workers=2,
        limits=Limits(),
    )
    assert (report.samples, report.copied) == (count, count), report
    return shards


_CLIPS = pa.schema(
    [
        *CLIP_FIELDS,
        pa.field("path", pa.string()),
        pa.field("location", pa.string()),
        pa.field("split", pa.string()),
        pa.field("captions", pa.map_(pa.string(), pa.string())),
        pa.field("scores", pa.map_(pa.string(), pa.float64())),
    ]
)


def _pictures(source: Path, size: tuple[int, int]) -> Iterator[np.ndarray[Any, Any]]:
    """250 frames of the source, forward and back."""
    with av.open(str(source)) as container:
        shown = [
            frame.reformat(*size, format="rgb24", interpolation="BICUBIC")
            for frame, _ in zip(container.decode(video=0), range(125), strict=False)
        ]
    for frame in (*shown, *reversed(shown)):
        yield frame.to_ndarray()


def _clip_row(
    path: Path, first: int, frames: int, number: int, size: tuple[int, int]
) -> dict[str, Any]:
    base = Fraction(1, 12800)  # of MP4s at 25 frames a second
    start, end = first / _RATE, (first + frames) / _RATE
    # The same frames may come twice: then as clips of other videos.
    video = video_id(f"file:{number}")
    return {
        "clip_id": clip_id(video, start, end),
        "video_id": video,
        "source": "folder",
        "audit": False,
        "start": start,
        "end": end,
        "start_pts": int(start / base),
        "end_pts": int(end / base),
        "time_base_num": base.numerator,
        "time_base_den": base.denominator,
        "n_frames": frames,
        "width": size[0],
        "height": size[1],
        "score_status": "scored",
        "fingerprints": [],
        "scored_from": "source",
        "path": str(path),
        "location": path.name,
        "split": "train",
        "captions": [("long", "an animal walks")],
        "scores": [("motion", 0.5)],
    }
