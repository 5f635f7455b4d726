"""Small made videos and the clip table that pack takes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from subprocess import PIPE
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from vidcurate.clip import CLIP_FIELDS, clip_id, video_id
from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.pack import pack_selection

TABLE = pa.schema(
    [
        *CLIP_FIELDS,
        pa.field("path", pa.string()),
        pa.field("location", pa.string()),
        pa.field("split", pa.string()),
        pa.field("captions", pa.map_(pa.string(), pa.string())),
        pa.field("scores", pa.map_(pa.string(), pa.float64())),
        pa.field("out_width", pa.int32()),
        pa.field("out_height", pa.int32()),
    ]
)
SIZE = (96, 64)
SPANS = ((0, 12), (5, 31), (20, 28), (31, 60))
MANY = tuple((a, a + n) for n in (6, 9, 14) for a in range(0, 45, 6))


def film(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    """60 frames of a panning texture at 30 fps with a key frame at every 24th, and sound."""
    rng = np.random.default_rng(seed)
    width, height = size
    texture = cv2.resize(rng.integers(0, 255, (20, 40, 3), np.uint8), (width * 2, height * 2))
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=30, options={"g": "24", "preset": "veryfast", "threads": "1"}
        )
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for i in range(60):
            view = texture[i % height : i % height + height, i : i + width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(view), "rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = np.sin(np.arange(96000, dtype=np.float32) / 20)[None] * 0.3
        heard = av.AudioFrame.from_ndarray(tone, "flt", "mono")
        heard.sample_rate, heard.pts, heard.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(sound.encode(heard))
        container.mux(sound.encode())
    return path


def clip_row(path: Path, start: int, end: int, **changes: Any) -> dict[str, Any]:
    """The row of frames start..end of a film."""
    video = video_id(f"file:{path.name}")
    return {
        "clip_id": clip_id(video, start / 30, end / 30),
        "video_id": video,
        "source": "folder",
        "audit": False,
        "start": start / 30,
        "end": end / 30,
        "start_pts": start * 512,
        "end_pts": end * 512,
        "time_base_num": 1,
        "time_base_den": 15360,
        "n_frames": end - start,
        "width": SIZE[0],
        "height": SIZE[1],
        "score_status": "scored",
        "fingerprints": [],
        "scored_from": "source",
        "caption_source": f"frames {start} to {end}",
        "path": str(path),
        "location": f"films/{path.name}",
        "split": "train",
        "captions": [("long", "a texture"), ("b", "c")],
        "scores": [("motion", 0.5), ("broken", float("nan"))],
        **changes,
    }


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLE)


@pytest.fixture(scope="session")
def made_films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two films; never write to them."""
    folder = tmp_path_factory.mktemp("films")
    return [film(folder / f"film{i}.mp4", i) for i in range(2)]


@pytest.fixture
def films(made_films: list[Path], tmp_path: Path) -> list[Path]:
    """Two films of the test's own."""
    return [Path(shutil.copy(path, tmp_path)) for path in made_films]


@pytest.fixture
def rows(films: list[Path]) -> list[dict[str, Any]]:
    """Four clips of each of the two films."""
    return [clip_row(path, *span) for path in films for span in SPANS]


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder."""
    return lambda folder: {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 clips of a wide and a tall film in four buckets, several shards; never write to it."""
    base = tmp_path_factory.mktemp("packed")
    rows: list[dict[str, Any]] = []
    for seed, size in enumerate((SIZE, (48, 80))):
        path = film(base / f"film{seed}.mp4", seed, size)
        rows += [
            clip_row(
                path,
                *span,
                width=size[0],
                height=size[1],
                split="val" if span == MANY[-1] else "train",
                captions=[("long", f"film {seed}, frames {span[0]} to {span[1]}")],
                scores=[("motion", float(span[0]))],
            )
            for span in MANY
        ]
    pack = Pack(
        buckets=Buckets(short_side=(32,), aspect=("3:2", "3:5"), frames=(1, 5, 9)),
        shard_size=120_000,
    )
    folder = base / "shards"
    report = pack_selection(as_table(rows), pack, folder, workers=2, limits=Limits(attempts=1))
    assert report.samples == len(rows)
    assert report.shards > 4
    return folder


# Runs the code of each line of stdin in a process of its own, which ends for good where a function
# is called for the n-th time. It forks: importing all of it takes longer than packing.
_KILLED = """
import importlib, json, os, signal, sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from vidcurate.recipe.model import Limits, Pack
from vidcurate.shards.pack import pack_selection
from vidcurate.shards.purge import Gone, purge_shards

def run(function, calls, code):
    module, _, name = function.rpartition(".")
    place = importlib.import_module(f"vidcurate.shards.{module}") if module else None
    real = getattr(place, name, None)

    def dies(*arguments, **options):
        nonlocal calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real and real(*arguments, **options)

    if place is not None:
        setattr(place, name, dies)
    exec(code, {**globals(), "dies": dies})

for line in sys.stdin:
    if not (child := os.fork()):
        run(*json.loads(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def killed() -> Iterator[Callable[[str, int, str], None]]:
    """killed("append.spread", 1, code) runs code until that call of the function, and kills it.

    Without a module the code itself calls `dies`.
    """
    command = [sys.executable, "-c", _KILLED]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:

        def kill(function: str, calls: int, code: str) -> None:
            print(json.dumps([function, calls, code]), file=process.stdin, flush=True)
            assert int(process.stdout.readline()) == -signal.SIGKILL, function

        yield kill
        process.stdin.close()
