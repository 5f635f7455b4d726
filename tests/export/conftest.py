"""Small finished runs, made once a session, and the way back from an export."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

import vidcurate
from vidcurate.operator import registry
from vidcurate.recipe.load import parse
from vidcurate.run import passes
from vidcurate.run.score import score

NTSC = Fraction(30000, 1001)

TUBE = '''
"""Local files under YouTube's keys: what a mirror gives."""
import json
import pyarrow as pa
from dataclasses import replace
from vidcurate import ClipRow, Source, VideoRow
from vidcurate.operator.registry import get

COLUMNS = {"matching_score": pa.float64(), "desirable_filtering": pa.string(),
           "UMT_Score": pa.float64()}


class Tube(Source):
    """rows: JSON of {id, file, clips}."""

    name = "tube"
    rows: str

    def dataset_schema(self):
        return pa.schema(list(COLUMNS.items()))

    def videos(self):
        for row in json.loads(self.rows):
            clips = [ClipRow(c["start"], c["end"], c.get("caption"), {n: c.get(n) for n in COLUMNS})
                     for c in row["clips"]]
            yield VideoRow(row["file"], key="youtube:" + row["id"], clips=tuple(clips),
                           dataset_id=row.get("dataset_id"))


class Mirrored(Source):
    """What another source names, its YouTube videos in local files. files: JSON of key -> file."""

    name = "mirrored"
    source: str
    metadata: str
    files: str

    def _inner(self):
        return get(self.source)(metadata=self.metadata)

    def dataset_schema(self):
        return self._inner().dataset_schema()

    def videos(self):
        files, found = json.loads(self.files), {}
        for row in self._inner().videos():
            first = found.setdefault(row.key, replace(row, location=files[row.key], clips=()))
            found[row.key] = replace(first, clips=(*first.clips, *row.clips))
        yield from found.values()
'''


def film(path: Path, rate: Fraction, frames: int = 48, seed: int = 0) -> Path:
    """A moving picture of 64x48 at this rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64 + frames, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(frames):
            picture = np.ascontiguousarray(noise[:, n : n + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


@dataclass
class Exported:
    """A finished run with its selections made."""

    out: Path
    folder: Path
    sections: dict[str, Any]

    def rows(self, query: str) -> list[dict[str, Any]]:
        with vidcurate.open(self.out) as run:
            return run.sql(query).to_pylist()

    def ids(self, where: str = "true") -> set[str]:
        return {r["clip_id"] for r in self.rows(f"SELECT clip_id FROM clips WHERE {where}")}


def finished(folder: Path, out: str, source: dict[str, Any], **sections: Any) -> Exported:
    """Score and select; by default at the dataset's own times, with one cheap score."""
    data = {
        "name": "tiny",
        "source": source,
        "split": [{"timestamps": {}}],
        "score": ["brightness"],
        "output": str(folder / out),
    }
    recipe = parse(yaml.safe_dump(data | sections, sort_keys=False))
    with passes.session(recipe, recipe.output) as work:
        result = score(work.lease, recipe, workers=1)
        assert result.stats.failed == 0
        passes.run_select(work)
    run = Exported(folder / out, folder, sections)
    assert run.rows("SELECT * FROM quarantine") == []
    return run


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})


@pytest.fixture(scope="session")
def again() -> Callable[..., Exported]:
    """again(run, source) scores that source at the dataset's times, beside the run."""

    def run(of: Exported, source: dict[str, Any]) -> Exported:
        name = f"again-{len(list(of.folder.glob('again-*')))}"
        kept = {k: v for k, v in of.sections.items() if k in ("acquire", "operators")}
        return finished(of.folder, name, source, **kept)

    return run


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Two local files, one in a folder below, in pieces of half a second; dark ones are dropped."""
    folder = tmp_path_factory.mktemp("local")
    film(folder / "videos" / "c d" / "e.mp4", NTSC, 60)
    film(folder / "videos" / "deep er" / "b,ö.mkv", Fraction(24), 48, seed=1)
    return finished(
        folder,
        "out",
        {"folder": {"path": str(folder / "videos")}},
        split=[{"fixed": {"length": "0.5s"}}],
        score=["technical", {"brightness": {"mean": {"max": 200}}}],
        select={
            "base": {"val": 0.5},
            "none": {"where": "false"},
            "two": {"limit": 2},
            "above": {"where": "technical_fps > percentile(technical_fps, 10)"},
        },
    )


CAPTIONS = ['It\'s a "test"\\n', "我们\r走\n吧, `ok`", None, "=SUM(A1)|<b>x</b>"]


@pytest.fixture(scope="session")
def tube(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Two videos under YouTube's keys, of 29.97 and 60 fps, with dataset columns and rights."""
    folder = tmp_path_factory.mktemp("tube")
    (folder / "tube.py").write_text(TUBE)
    rows = []
    for number, (name, rate) in enumerate(
        {"-2yHu5qgTzM": NTSC, "k_ZXmr8pmrs": Fraction(60)}.items()
    ):
        file = film(folder / "videos" / f"{number}.mp4", rate, 90, seed=number)
        clips = [
            # From one frame to the next, where rounding to milliseconds goes both ways.
            {"start": float(n / rate), "end": float((n + 11) / rate), "caption": CAPTIONS[n % 4],
             "matching_score": 0.1 + n, "desirable_filtering": "desirable", "UMT_Score": n / 7}
            for n in range(0, 79, 3)
        ]  # fmt: skip
        rows.append({"id": name, "file": str(file), "clips": clips, "dataset_id": f"video{number}"})
    with pytest.MonkeyPatch.context() as patch:  # its operators are for this run only
        patch.setattr(registry, "_user", {})
        patch.setattr(registry, "_texts", {})
        return finished(
            folder,
            "out",
            {"tube": {"rows": json.dumps(rows)}},
            operators=[str(folder / "tube.py")],
        )


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Three videos of a server on this machine: two whole, one in two parts; with rights."""
    folder = tmp_path_factory.mktemp("web")
    for n, rate in enumerate((NTSC, Fraction(60), Fraction(25))):
        film(folder / "site" / f"{n}.mp4", rate, 40, seed=n)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    handler = partial(Quiet, directory=folder / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        with (folder / "list.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["url", "start", "end", "caption", "id", "license", "page_dir", "score"])
            license = "CC-BY 4.0 | *free*"
            table.writerow([f"http://{host}/0.mp4", "", "", "zero", "100", license, "0_9", 0.1])
            table.writerow([f"http://{host}/1.mp4?a=b", "", "", "", "101", "", "0_9", 1e-7])
            table.writerow([f"http://{host}/2.mp4", 0.2, 0.6, "part", "102", "", "", 12345.678])
            table.writerow([f"http://{host}/2.mp4", 0.6, 1.2, "other", "102", "", "", 0.3])
        source = {"table": {"path": str(folder / "list.csv")}}
        yield finished(
            folder, "out", source, acquire={"allow_hosts": [host]}, select={"default": {"val": 0}}
        )
        server.shutdown()
