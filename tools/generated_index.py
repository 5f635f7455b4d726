"""Write an index of any number of rows, for tests and measurements of the reader.

    python tools/generated_index.py FOLDER [--rows 10000000]

The rows are those of a small index over and over (`like`, as of shards that were really packed;
else made ones, of shards that are not there), each with ids of its own. Streaming: memory does not
grow with the number of rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION

ROWS = 100_000  # at a time, and of a row group
# name, width, height, frames
BUCKETS = (
    ("256p_16x9_49f", 448, 256, 49),
    ("256p_9x16_49f", 256, 448, 49),
    ("480p_16x9_97f", 848, 480, 97),
    ("720p_16x9_121f", 1280, 720, 121),
    ("native", None, None, None),
)


def write(
    folder: Path, rows: int, *, like: pa.Table | None = None, seed: int = 0, parts: int = 1
) -> dict[str, object]:
    """Write index.json and index/*.parquet of `rows` rows; what index.json holds.

    Args:
        like: rows of INDEX_SCHEMA that are repeated in order; default: `made_rows()`.
        parts: files of the index.
    """
    like = made_rows() if like is None else like.cast(INDEX_SCHEMA)
    rng = np.random.default_rng(seed)
    (folder / "index").mkdir(parents=True, exist_ok=True)
    names = [f"index/generated-{part:02d}.parquet" for part in range(parts)]
    edges = [rows * part // parts for part in range(parts + 1)]
    for name, first, last in zip(names, edges[:-1], edges[1:], strict=True):
        with pq.ParquetWriter(folder / name, INDEX_SCHEMA, compression="zstd") as writer:
            for start in range(first, last, ROWS):
                places = np.arange(start, min(last, start + ROWS)) % len(like)
                writer.write_table(_with_ids(like.take(pa.array(places)), rng))
    whole, rest = divmod(rows, len(like))
    buckets: Counter[str] = Counter()
    for row, bucket in enumerate(like.column("bucket").to_pylist()):
        buckets[bucket] += whole + (row < rest)
    digest = hashlib.sha256(f"{rows} {seed} {parts}".encode())
    digest.update(str(like.to_pylist()[:100]).encode())
    index: dict[str, object] = {
        "schema_version": INDEX_VERSION,
        "made_by": {"vidcurate": "generated"},
        "digest": digest.hexdigest(),
        "columns": f"{seed:064x}",
        "rows": rows,
        "buckets": {name: count for name, count in sorted(buckets.items()) if count},
        "index": names,
        "shards": [
            {"path": path, "bucket": path.partition("/")[0]}
            for path in sorted(set(like.column("shard").to_pylist()))
        ],
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return index


def made_rows(count: int = 20_000, seed: int = 0) -> pa.Table:
    """Rows as of a packed set: five buckets, two hundred samples a shard, 1 % val, captions."""
    rng = np.random.default_rng(seed)
    made = []
    offset = 0
    for i in range(count):
        bucket, width, height, frames = BUCKETS[i * len(BUCKETS) // count]
        offset = 512 if i % 200 == 0 else offset
        sizes = {"mp4": int(rng.integers(200_000, 3_000_000)), "json": 900, "txt": 120}
        members = []
        for name, size in sizes.items():
            members.append({"name": name, "offset": offset, "size": size})
            offset += -(-size // 512) * 512 + 512
        n_frames = int(rng.integers(frames or 20, 300))
        made.append(
            {
                "schema_version": INDEX_VERSION,
                "sample_id": "",
                "clip_id": "",
                "video_id": "",
                "bucket": bucket,
                "shard": f"{bucket}/{seed:012x}-{i // 200:05d}.tar",
                "members": members,
                "n_frames": n_frames,
                "preroll_frames": int(rng.integers(0, 12)),
                "frame_step": 1,
                "fps_num": 30000,
                "fps_den": 1001,
                "vfr": False,
                "duration_s": n_frames * 1001 / 30000,
                "width": 1280,
                "height": 720,
                "bucket_width": width,
                "bucket_height": height,
                "bucket_frames": frames,
                "has_audio": True,
                "sha256": "",
                "audio_sha256": None,
                "fingerprint": "",
                "split": "val" if rng.random() < 0.01 else "train",
                "captions": [
                    ("source", f"a film of thing number {i}"),
                    ("long", f"A slow pan over thing number {i}, " + "with light and shade " * 8),
                ],
                "scores": [("motion_p95", float(rng.random())), ("aesthetic", float(rng.random()))],
            }
        )
    return pa.Table.from_pylist(made, schema=INDEX_SCHEMA)


def _with_ids(rows: pa.Table, rng: np.random.Generator) -> pa.Table:
    own = _hex(len(rows), 16, rng)
    new = {
        "sample_id": own,
        "clip_id": own,
        "video_id": _hex(len(rows), 16, rng),
        "fingerprint": _hex(len(rows), 16, rng),
    }
    if rows.column("sha256")[0].as_py() == "":
        new["sha256"] = _hex(len(rows), 32, rng)
    for name, values in new.items():
        place = INDEX_SCHEMA.get_field_index(name)
        rows = rows.set_column(place, INDEX_SCHEMA.field(name), values)
    return rows


def _hex(count: int, size: int, rng: np.random.Generator) -> pa.Array:
    """Random texts of 2 * size hexadecimal digits."""
    text = rng.bytes(count * size).hex().encode()
    offsets = np.arange(count + 1, dtype=np.int32) * 2 * size
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    began = time.perf_counter()
    write(arguments.folder, arguments.rows)
    size = sum(f.stat().st_size for f in arguments.folder.rglob("*") if f.is_file())
    seconds = time.perf_counter() - began
    print(f"{arguments.rows:,} rows, {size / 1e9:.2f} GB, {seconds:.1f} s: {arguments.folder}")


if __name__ == "__main__":
    main()
