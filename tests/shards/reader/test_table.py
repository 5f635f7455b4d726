"""An index becomes local files once, and is read from them exactly, by any number of processes."""

from __future__ import annotations

import gc
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import generated_index
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION
from vidcurate.errors import RunDirectoryError, StorageError, StoreError, UserError
from vidcurate.shards.index import write_index
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table import IndexTable, NativeLimit, default_folder, video_suffix

WIDE = {"bucket": "wide", "bucket_width": 448, "bucket_height": 256, "bucket_frames": 49}
TALL = {"bucket": "tall", "bucket_width": 256, "bucket_height": 448, "bucket_frames": 17}


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row of the bucket `native`, of 90 frames of 720p at 29.97."""
    return {
        "schema_version": INDEX_VERSION,
        "sample_id": f"s{number}",
        "clip_id": f"c{number}",
        "video_id": f"v{number // 2}",
        "bucket": "native",
        "shard": f"native/{number:03d}.tar",
        "members": [
            {"name": "mp4", "offset": 512, "size": 1000 + number},
            {"name": "json", "offset": 2048, "size": 77},
        ],
        "n_frames": 90,
        "preroll_frames": 2,
        "frame_step": 1,
        "fps_num": 30000,
        "fps_den": 1001,
        "vfr": False,
        "duration_s": 3.003,
        "width": 1280,
        "height": 720,
        "has_audio": False,
        "sha256": "ab" * 32,
        "split": "train",
        "captions": [("long", f'number {number}, "quoted" \\ é\n')],
        "scores": [("motion", number / 3)],
        **changes,
    }


ROWS = [
    row(0, **WIDE),
    row(1, **TALL, split="val"),
    row(2),
    row(3, **WIDE, frame_step=2, n_frames=120, fps_num=60),
    row(4, n_frames=31, width=100, height=10, fps_num=25, fps_den=1),
    row(5, **TALL),
    row(6, **WIDE, split="val", scores=[("nan", math.nan), ("none", None), ("inf", math.inf)]),
    row(7, n_frames=1, width=2001, height=3003, fps_num=0, fps_den=1),
]


def write(folder: Path, rows: list[dict[str, Any]], parts: int = 1) -> Path:
    """A packed selection without its shards."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    size = -(-len(rows) // parts)
    pieces = [table.slice(i, size) for i in range(0, len(rows), size)]
    names = sorted({r["bucket"] for r in rows})
    counts = [sum(r["bucket"] == name for r in rows) for name in names]
    shards = [
        {"path": f"{name}/0.tar", "bucket": name, "rows": count, "bytes": 1, "sha256": ""}
        for name, count in zip(names, counts, strict=True)
    ]
    write_index(folder, "made", pieces, shards, {})
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "packed", ROWS)


@pytest.fixture
def opened(root: Path, tmp_path: Path) -> Callable[..., IndexTable]:
    """opened(split=..., buckets=..., native=..., root=...)"""

    def open_table(root: Path | str = root, **options: Any) -> IndexTable:
        return IndexTable.open(root, store=Store(root), folder=tmp_path / "cache", **options)

    return open_table


def ids(table: IndexTable) -> list[str]:
    return [r["sample_id"] for r in table.samples(np.arange(len(table)))]


# ---------------------------------------------------------------------- rows


def test_samples_are_the_index_rows_in_the_order_asked(opened, root) -> None:
    table = opened()
    found = table.samples(np.array([3, 0, 3]))
    assert [r["sample_id"] for r in found] == ["s3", "s0", "s3"]
    expected = pq.read_table(root / "index" / "made.parquet").to_pylist()[3]
    del expected["schema_version"]
    expected["captions"] = {"long": 'number 3, "quoted" \\ é\n'}
    expected["scores"] = {"motion": 1.0}
    expected["members"] = {"mp4": (512, 1003), "json": (2048, 77)}
    assert found[0] == expected | {"video": "mp4"}
    assert table.samples(np.zeros(0, np.int64)) == []


def test_scores_that_are_no_plain_number(opened) -> None:
    [sample] = opened().samples(np.array([6]))
    assert math.isnan(sample["scores"]["nan"])
    assert sample["scores"]["none"] is None
    assert sample["scores"]["inf"] == math.inf


def test_digest_and_version_are_the_indexs(root, tmp_path) -> None:
    store = Store(root)
    table = IndexTable.open(root, store=store, folder=tmp_path / "cache")
    digest = json.loads((root / "index.json").read_text())["digest"]
    assert table.digest == store.version == digest
    assert table.buckets == ("native", "tall", "wide")
    assert len(table) == 8


def test_split_and_buckets_choose_rows_in_order(opened) -> None:
    assert ids(opened(split="train")) == ["s0", "s2", "s3", "s4", "s5", "s7"]
    assert ids(opened(split="val")) == ["s1", "s6"]
    assert ids(opened(buckets=["wide", "tall"])) == ["s0", "s1", "s3", "s5", "s6"]
    both = opened(split="train", buckets={"tall"})
    assert ids(both) == ["s5"]
    assert both.shapes(np.array([0])).frames.tolist() == [17]
    assert ids(opened(split="train")) == ["s0", "s2", "s3", "s4", "s5", "s7"], "from its file now"


def test_several_index_files_are_one_table(root, opened, tmp_path) -> None:
    """As after an append by tools that write a file for each."""
    several = tmp_path / "several"
    shutil.copytree(root, several)
    table = pq.read_table(several / "index" / "made.parquet")
    for name, piece in (("z", table.slice(0, 5)), ("a [1]'*", table.slice(5))):
        pq.write_table(piece, several / "index" / f"{name}.parquet")
    index = json.loads((several / "index.json").read_text())
    index["index"] = ["index/z.parquet", "index/a [1]'*.parquet"]
    (several / "index.json").write_text(json.dumps(index))
    assert ids(opened(several)) == [f"s{i}" for i in range(8)]


# ---------------------------------------------------------------------- shapes


def test_shapes_are_the_buckets_and_native_ones_their_own(opened) -> None:
    shapes = opened().shapes(np.arange(8))
    assert [shapes.buckets[b] for b in shapes.bucket] == [r["bucket"] for r in ROWS]
    # 90 -> 89, 31 -> 29, 1; 720 stays, 100 -> 96, 10 -> 16 at least, 2001 -> 2000, 3003 -> 2992.
    assert shapes.frames.tolist() == [49, 17, 89, 49, 29, 17, 49, 1]
    assert shapes.height.tolist() == [256, 448, 720, 256, 16, 448, 256, 2992]
    assert shapes.width.tolist() == [448, 256, 1280, 448, 96, 256, 448, 2000]
    ntsc = 1001 / 30000
    # Row 3: 49 frames, every second of 60/1.001 fps. Row 7: a still.
    expected = [
        49 * ntsc,
        17 * ntsc,
        89 * ntsc,
        49 * 2 * 1001 / 60,
        29 / 25,
        17 * ntsc,
        49 * ntsc,
        0,
    ]
    assert shapes.seconds.tolist() == pytest.approx(expected)
    kinds = [a.dtype for a in (shapes.frames, shapes.height, shapes.width, shapes.seconds)]
    assert kinds == [np.int32, np.int32, np.int32, np.float64]


def test_native_limits_keep_the_aspect_and_touch_no_bucket(opened) -> None:
    table = opened(native=NativeLimit(max_short_side=360, max_frames=64))
    shapes = table.shapes(np.array([2, 4, 7, 0]))
    # 1280x720 -> 640x360 -> 640x352; 100x10 stays small; 2001x3003 -> 360x540 -> 352x528.
    assert shapes.width.tolist() == [640, 96, 352, 448]
    assert shapes.height.tolist() == [352, 16, 528, 256]
    assert shapes.frames.tolist() == [61, 29, 1, 49]
    assert shapes.seconds[0] == pytest.approx(61 * 1001 / 30000)


def test_native_rows_are_counted_after_their_frame_step(tmp_path, opened) -> None:
    root = write(tmp_path / "steps", [row(0, frame_step=2), row(1, frame_step=4, n_frames=5)])
    # Of 90 frames every second: 45. Of 5 every fourth: 2, of which 1 is 4k+1.
    assert opened(root).shapes(np.array([0, 1])).frames.tolist() == [45, 1]


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="max_short_side 15"):
        NativeLimit(max_short_side=15)
    with pytest.raises(UserError, match="max_frames 0"):
        NativeLimit(max_frames=0)


def test_which_member_holds_the_video() -> None:
    assert video_suffix(["json", "mkv", "webm"]) == "webm"
    assert video_suffix(["a.MP4", "mov"]) == "mov"
    assert video_suffix(["txt", "left.MP4"]) == "left.MP4"
    assert video_suffix(["json", "txt"]) is None


# ---------------------------------------------------------------------- the local files


def test_the_files_are_made_once(opened, root, monkeypatch) -> None:
    folder = opened().folder
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    (root / "index" / "made.parquet").touch()
    assert opened().folder == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_other_captions_are_another_folder(root, opened) -> None:
    first = opened()
    table = pq.read_table(root / "index" / "made.parquet")
    old = json.loads((root / "index.json").read_text())
    changed = [{**r, "captions": [("long", "new")]} for r in table.to_pylist()]
    write_index(root, "other", [pa.Table.from_pylist(changed, INDEX_SCHEMA)], old["shards"], {})
    second = opened()
    assert second.digest == first.digest, "captions are no part of it"
    assert second.samples(np.array([0]))[0]["captions"] == {"long": "new"}
    assert first.samples(np.array([0]))[0]["captions"] != {"long": "new"}


@pytest.mark.parametrize("name", ["plan.bin", "places.bin", "rows.bin", "meta.json", "rows-"])
@pytest.mark.parametrize("damage", ["short", "gone"])
def test_damaged_files_are_made_anew(opened, name: str, damage: str) -> None:
    folder = opened(split="train").folder
    [file] = folder.glob(f"{name}*") if name == "rows-" else [folder / name]
    if damage == "gone":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 3)
    assert ids(opened(split="train")) == ["s0", "s2", "s3", "s4", "s5", "s7"]


def test_bytes_that_changed_are_told(opened) -> None:
    table = opened()
    file = table.folder / "rows.bin"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(
        RunDirectoryError, match=r"is damaged at or after byte 0.*remove its folder"
    ):
        table.samples(np.array([0]))


def test_a_file_that_became_shorter_is_told(opened) -> None:
    table = opened()
    os.truncate(table.folder / "plan.bin", 100)
    with pytest.raises(RunDirectoryError, match=r"plan\.bin became shorter"):
        table.shapes(np.array([7]))


def test_a_pickle_is_small_and_opens_quickly_elsewhere(opened) -> None:
    table = opened(split="val", native=NativeLimit(max_frames=5))
    data = pickle.dumps(table)
    assert len(data) < 500
    again = pickle.loads(data)  # noqa: S301 (our own)
    assert ids(again) == ["s1", "s6"]
    assert again.digest == table.digest
    shutil.rmtree(table.folder)
    assert ids(again) == ["s1", "s6"], "what is open stays"
    with pytest.raises(RunDirectoryError, match="removed or damaged; start again"):
        pickle.loads(data)  # noqa: S301 (our own)


def test_a_forked_process_reads_on(opened) -> None:
    table = opened()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if ids(table) == [f"s{i}" for i in range(8)] else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


OPEN = """
import sys, numpy as np
from pathlib import Path
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table import IndexTable
print("ready", flush=True)
sys.stdin.readline()
root, folder = sys.argv[1], Path(sys.argv[2])
table = IndexTable.open(root, store=Store(root), folder=folder, split="val")
print(len(table), table.samples(np.array([0]))[0]["captions"]["source"])
"""


def test_files_close_when_the_program_has_taken_its_modules_down(opened, monkeypatch) -> None:
    table = opened(split="val")
    folder = str(table.folder)

    def handles() -> int:
        links = list(Path("/proc/self/fd").iterdir())
        return sum(os.path.realpath(link).startswith(folder) for link in links)

    assert handles() == 4
    for module in ("table", "store"):
        monkeypatch.setattr(f"vidcurate.shards.reader.{module}.os", None)
    del table  # what __del__ raises is a warning, and so an error
    gc.collect()
    assert handles() == 0


def test_processes_build_at_the_same_time_and_kills_leave_nothing(tmp_path: Path) -> None:
    root, cache = tmp_path / "large", tmp_path / "cache"
    like = generated_index.made_rows(500)
    generated_index.write(root, 10_000, like=like)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(root), str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    while not cache.exists() or not any(cache.iterdir()):
        time.sleep(0.001)
    processes[0].send_signal(signal.SIGKILL)
    said = [process.communicate(timeout=120) for process in processes]
    splits = like.column("split").to_pylist()
    first = like.column("captions")[splits.index("val")].as_py()[0][1]
    expected = f"{splits.count('val') * 20} {first}\n"
    assert said[1:] == [(expected, "")] * 2
    left = [p for p in cache.iterdir() if p.name.startswith(".tmp-")]
    assert len([p for p in cache.iterdir() if p not in left]) == 1
    for path in left:  # of the killed one, an hour later
        for file in (*path.iterdir(), path):
            os.utime(file, (1, 1))
    other = write(tmp_path / "packed", ROWS)
    IndexTable.open(other, store=Store(other), folder=cache)
    assert not [p for p in cache.iterdir() if p.name.startswith(".tmp-")]


def test_a_remote_index_is_fetched_whole(root, tmp_path) -> None:
    system = fsspec.filesystem("memory")
    url = f"memory://tables-{os.getpid()}/packed"
    system.put(str(root), url, recursive=True)
    try:
        table = IndexTable.open(url, store=Store(url), folder=tmp_path / "cache", split="val")
        with pytest.raises(RunDirectoryError, match=r"vidcurate pack OUT.*vidcurate index DIR"):
            IndexTable.open(f"{url}x", store=Store(f"{url}x"), folder=tmp_path / "cache")
    finally:
        system.rm(f"memory://tables-{os.getpid()}", recursive=True)
    assert ids(table) == ["s1", "s6"]
    assert not list(table.folder.glob("*.parquet"))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Reading a sixth of an index of 44 MB, all over it, takes little memory of the process."""
    generated_index.write(tmp_path / "large", 60_000, like=generated_index.made_rows(500))
    root = tmp_path / "large"
    table = IndexTable.open(root, store=Store(root), folder=tmp_path / "cache", split="train")
    table = pickle.loads(pickle.dumps(table))  # noqa: S301 (our own)
    rng = np.random.default_rng(0)
    table.samples(rng.integers(0, len(table), 100))
    before = psutil.Process().memory_full_info().uss
    for _ in range(40):
        table.samples(rng.integers(0, len(table), 256))
    grown = psutil.Process().memory_full_info().uss - before
    assert (table.folder / "rows.bin").stat().st_size > 40e6
    assert grown < 6e6, "plan.bin and places.bin, 2.4 MB, are mapped"


def test_the_folder_is_the_users_cache(monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/mine")
    assert default_folder() == Path("/tmp/mine/vidcurate/index")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache/vidcurate/index"


# ---------------------------------------------------------------------- what is refused


def test_folders_without_an_index_say_what_to_do(tmp_path: Path, opened) -> None:
    with pytest.raises(RunDirectoryError, match="there is no such folder"):
        opened(tmp_path / "gone")
    folder = tmp_path / "some"
    folder.mkdir()
    with pytest.raises(RunDirectoryError, match=r"vidcurate pack OUT.*vidcurate index DIR"):
        opened(folder)
    (folder / "run.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match=f"nothing .* packed: `vidcurate pack {folder}`"):
        opened(folder)
    (folder / "00000.tar").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match=f"`vidcurate index {folder}` makes one"):
        opened(folder)
    write(folder / "shards" / "base", ROWS)
    with pytest.raises(RunDirectoryError, match=f"a run's folder: give {folder}/shards/base$"):
        opened(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, r"another version of vidcurate \(1, this one reads 2\)"),
        ({"digest": None}, "no digest"),
        ({"digest": "../../x"}, "its digest is none"),
        ({"rows": 9}, "says 9 rows, and there are 8"),
        ({"rows": 0}, "holds no samples"),
        ({"buckets": {"wide": 8}}, "a bucket, size, rate or number of frames"),
        ({"index": ["index/gone.parquet"]}, "gone.parquet is not there"),
        ({"index": ["../index/made.parquet"]}, "no path below its folder"),
    ],
)
def test_a_damaged_index_json_is_refused(root, opened, change, message: str) -> None:
    index = json.loads((root / "index.json").read_text())
    (root / "index.json").write_text(json.dumps(index | change))
    with pytest.raises((RunDirectoryError, StoreError), match=message):
        opened()
    assert not list((root.parent / "cache").glob(".tmp-*"))


def test_text_that_is_no_index_json_is_refused(root, opened) -> None:
    for text in ('{"schema', "[]"):
        (root / "index.json").write_text(text)
        with pytest.raises(RunDirectoryError, match="pack or index again"):
            opened()


@pytest.mark.parametrize(
    "change",
    [{"n_frames": 0}, {"frame_step": 0}, {"fps_den": 0}, {"width": 0}, {"bucket_frames": -1}],
)
def test_rows_that_cannot_be_are_refused(tmp_path, opened, change) -> None:
    root = write(tmp_path / "odd", [row(0), row(1) | change])
    with pytest.raises(RunDirectoryError, match=r'cannot be: \["s1"'):
        opened(root)


@pytest.mark.parametrize("damage", ["cut", "foreign", "columns"])
def test_a_damaged_parquet_file_is_refused(root, opened, damage: str) -> None:
    path = root / "index" / "made.parquet"
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 100)
    elif damage == "foreign":
        path.write_bytes(b"no parquet at all")
    else:
        pq.write_table(pq.read_table(path).drop_columns(["frame_step", "fingerprint"]), path)
    match = "lacks the columns frame_step, fingerprint" if damage == "columns" else "damaged"
    with pytest.raises(RunDirectoryError, match=match):
        opened()


def test_choices_that_are_not_there_list_what_is(opened) -> None:
    with pytest.raises(UserError, match=r"no bucket 'huge'; it has native, tall, wide"):
        opened(buckets=["wide", "huge"])
    with pytest.raises(UserError, match=r"split 'test'; it has train \(6\), val \(2\)"):
        opened(split="test")
    with pytest.raises(UserError, match=r"buckets native in the split val; it has native train"):
        opened(split="val", buckets=["native"])
    with pytest.raises(UserError, match="no samples of buckets none"):
        opened(buckets=[])


def test_a_folder_that_cannot_be_written_is_told(root) -> None:
    with pytest.raises(StorageError, match="another index_folder"):
        IndexTable.open(root, store=Store(root), folder=Path("/dev/full/cache"))
