"""A finished run as the passes leave it: real tables, a selection, shards' index, real videos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import RowFault, Source, VideoRow, column, scorer
from vidcurate.clip import (
    CLIP_FIELDS,
    INDEX_SCHEMA,
    QUARANTINE_SCHEMA,
    SELECTION_SCHEMA,
    VIDEO_SCHEMA,
    short_hash,
)
from vidcurate.operator.columns import Threshold
from vidcurate.recipe.model import Buckets, Pack, Recipe, Selection, Step
from vidcurate.report.build import build_report
from vidcurate.run.commit import Committer
from vidcurate.run.lease import Lease
from vidcurate.run.manifest import write_part
from vidcurate.run.record import RunRecord
from vidcurate.run.tables import Run
from vidcurate.run.tables import open as open_run


class Files(Source):
    """Files of a folder."""

    name = "files"

    def videos(self) -> Iterator[VideoRow | RowFault]:
        return iter(())


@scorer(
    "motion",
    columns={
        "mean": column("float32", unit="% of the diagonal / s", description="Mean shift."),
        "p95": column("float32", unit="% of the diagonal / s", description="Fast parts."),
    },
)
def motion(clip):
    """Movement."""


@scorer("sharpness", columns=column("float32", description="Variance of the Laplacian."))
def sharpness(clip):
    """Sharpness."""


@scorer("unsafe", columns=column("float32", description="Share of unsafe frames."))
def unsafe(clip):
    """Safety."""


@scorer(
    "technical",
    columns={
        "codec": column("string"),
        "bit_depth": column("int32", unit="bits"),
        "vfr": column("bool"),
        "hash": column("string"),
    },
)
def technical(clip):
    """Facts."""


FINGERPRINTS = {"motion": "m1", "sharpness": "s1", "unsafe": "u1", "technical": "t1"}


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        name="trial <b>&amp; run",
        sources=(Step("files", Files()),),
        output="out",
        score=(
            Step("technical", technical()),
            Step("motion", motion(), {"p95": Threshold(min=0.5)}, gate=True),
            Step("unsafe", unsafe(), {"": Threshold(max=0.5)}, safety=True),
            Step("sharpness", sharpness(), {"": Threshold(min=40)}, report_only=True),
        ),
        select={
            "base": Selection(where="motion_mean >= percentile(motion_mean, 20)", per_video=6),
            "fine": Selection(limit=10),
        },
        pack=Pack(buckets=Buckets(short_side=(80,), frames=(1,))),
        raw={"name": "trial <b>&amp; run", "output": "${OUT}"},
    )


def write_video(path: Path, shade: int, *, seconds: int = 2, size: tuple[int, int] = (160, 90)):
    """Gray of one shade in the first half, 60 brighter in the second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"qp": "4", "preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(seconds * 10):
            level = shade + 60 * (i >= seconds * 5)
            picture = np.full((size[1], size[0]), level, np.uint8)
            chroma = np.full((size[1] // 2, size[0]), 128, np.uint8)
            frame = av.VideoFrame.from_ndarray(np.vstack([picture, chroma]), "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def clip_row(video: str, number: int, **scores: Any) -> dict[str, Any]:
    return {
        "clip_id": short_hash(f"{video}:{number}"),
        "video_id": video,
        "source": "files",
        "audit": False,
        "start": number * 0.1,
        "end": number * 0.1 + 0.5,
        "start_pts": number,
        "end_pts": number + 5,
        "time_base_num": 1,
        "time_base_den": 10,
        "n_frames": 5,
        "score_status": "scored",
        "fingerprints": list(FINGERPRINTS.items()),
        "scored_from": "source",
    } | scores


def video_row(location: str, **known: Any) -> dict[str, Any]:
    row = {field.name: None for field in VIDEO_SCHEMA}
    row |= {
        "video_id": short_hash(location),
        "source_key": f"file:{location}",
        "source": "files",
        "location": location,
        "state": "done",
        "split_fingerprint": "x",
        "duration": 2.0,
        "size_bytes": 1000,
    }
    return row | dict.fromkeys(("license", "terms", "channel", "retrieved_at", "sha256"), "unknown") | known  # fmt: skip  # noqa: E501


def commit(out: Path, recipe: Recipe, tables: dict[str, list[dict[str, Any]]]) -> None:
    scores = [
        spec.field(name)
        for step in recipe.score
        for name, spec in zip(step.columns, step.operator.columns.values(), strict=True)
    ]
    schemas = {
        "clips": pa.schema([*CLIP_FIELDS, *scores]),
        "videos": VIDEO_SCHEMA,
        "quarantine": QUARANTINE_SCHEMA,
    }
    with Lease(out) as lease:
        parts = {
            table: [write_part(out, table, pa.Table.from_pylist(rows, schemas[table]))]
            for table, rows in tables.items()
        }
        Committer(lease).commit("score", parts)


def select(out: Path, name: str, rows: list[dict[str, Any]], text: str) -> None:
    folder = out / "selections" / name
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SELECTION_SCHEMA), folder / "clips.parquet")
    (folder / "selection.yaml").write_text(text)


def fate(clip: dict[str, Any], fate: str, by: str = "", reason: str = "", split: str = ""):
    return {
        "clip_id": clip["clip_id"],
        "fate": fate,
        "by": by or None,
        "reason": reason or None,
        "split": split or None,
    }


def pack(out: Path, name: str, clips: list[dict[str, Any]]) -> None:
    folder = out / "shards" / name
    (folder / "index").mkdir(parents=True)
    rows = [
        {
            "schema_version": 1,
            "sample_id": clip["clip_id"],
            "clip_id": clip["clip_id"],
            "video_id": clip["video_id"],
            "bucket": "80p_16x9_1f",
            "shard": "80p_16x9_1f/000000.tar",
            "members": [
                {"name": "mp4", "offset": 0, "size": 1000},
                {"name": "json", "offset": 0, "size": 24},
            ],
            "n_frames": 5,
            "preroll_frames": 0,
            "frame_step": 1,
            "fps_num": 10,
            "fps_den": 1,
            "vfr": False,
            "duration_s": 0.5,
            "width": 160,
            "height": 90,
            "bucket_width": 144,
            "bucket_height": 80,
            "bucket_frames": 1,
            "has_audio": False,
            "sha256": "0",
            "split": "train",
            "captions": [],
            "scores": [],
        }
        for clip in clips
    ]
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index" / "0.parquet")
    (folder / "index.json").write_text(
        json.dumps({"no_bucket": ["a", "b"], "failures": [], "index": ["index/0.parquet"]})
    )


SELECTED = """
where: motion_mean >= percentile(motion_mean, 20)
per_video: 6
limit: null
percentiles: {"percentile(motion_mean, 20) <u>": 10.5}
counts: {kept: 17, failed: 1, unjudged: 1, hours: 0.0025, train: 16, val: 1}
"""
HOSTILE = "<img src=x onerror=alert(1)>\"'&.mp4"


def make_run(tmp_path: Path, recipe: Recipe) -> Run:
    """40 clips: 14 too still, 4 unsafe, 3 by the query, 1 failed, 1 unjudged, 17 kept."""
    out = tmp_path / "out"
    out.mkdir()
    places = [tmp_path / "a.mp4", tmp_path / HOSTILE.replace("/", ""), tmp_path / "gone.mp4"]
    for place, shade in zip(places[:2], (40, 150), strict=True):
        write_video(place, shade)
    videos = [video_row(str(place), clips=n) for place, n in zip(places, (20, 12, 8), strict=True)]
    videos.append(
        video_row("https://example.org/x.mp4?<s>", state="failed", reason="404 <script>")
        | {"duration": None, "size_bytes": None}
    )
    clips, fates = [], []
    owners = [videos[0]] * 20 + [videos[1]] * 12 + [videos[2]] * 8
    for i, owner in enumerate(owners):
        number = i if i < 15 else i % 12  # every clip lies inside its 2 s
        clip = clip_row(
            owner["video_id"],
            number,
            motion_mean=i / 2,
            motion_p95=0.25 if i < 14 else float(i),
            unsafe=0.9 if 14 <= i < 18 else 0.1,
            sharpness=float(i * 4),
            technical_codec="h264" if i % 4 else "vp9",
            technical_bit_depth=10 if i % 2 else 8,
            technical_vfr=i % 8 == 0,
            technical_hash=f"{i:032x}",
        )
        clip["clip_id"] = short_hash(f"clip {i}")
        if i < 14:  # the gate spared them the later steps
            clip |= {"unsafe": None, "sharpness": None, "score_status": "gated", "score_by": "motion"}  # fmt: skip  # noqa: E501
            clip["fingerprints"] = [("motion", "m1"), ("technical", "t1")]
            fates.append(fate(clip, "dropped", "motion", "p95 < 0.5"))
        elif i < 18:
            fates.append(fate(clip, "dropped", "unsafe", "unsafe > 0.5"))
        elif i < 21:
            fates.append(fate(clip, "dropped", "where", "motion_mean >= 10.5"))
        elif i == 21:
            clip |= {"score_status": "failed", "score_by": "sharpness", "sharpness": None}
            clip["fingerprints"] = [(k, v) for k, v in FINGERPRINTS.items() if k != "sharpness"]
            fates.append(fate(clip, "failed", "sharpness"))
        elif i == 22:
            clip["fingerprints"] = [*[(k, v) for k, v in FINGERPRINTS.items() if k != "motion"], ("motion", "m0")]  # fmt: skip  # noqa: E501
            fates.append(fate(clip, "unjudged", "motion"))
        else:
            fates.append(fate(clip, "kept", split="val" if i == 39 else "train"))
        if i == 30:
            clip["sharpness"] = None
        clips.append(clip)
    faults = [
        {
            "id": short_hash(f"fault {i}"),
            "stage": "decode" if i < 5 else "acquire",
            "operator": None,
            "video_id": None,
            "clip_id": None,
            "location": f"bad{i}<i>.mp4",
            "error": "DecodeError" if i < 5 else "AcquireError",
            "message": "no frame <script>alert(1)</script>",
            "attempts": 2,
            "transient": i >= 5,
            "payload": "{}",
        }
        for i in range(6)
    ]
    commit(out, recipe, {"clips": clips, "videos": videos, "quarantine": faults})
    select(out, "base", fates, SELECTED)
    pack(out, "base", clips[23:38])
    RunRecord(
        name=recipe.name,
        state="done",
        recipe=recipe.raw,
        versions={"vidcurate": "0.1.0", "av": "18.1"},
        fingerprints=FINGERPRINTS,
        passes={
            "score": {
                "wall_s": 5.0,
                "cpu_s": 8.0,
                "video_s": 40.0,
                "decode_s": 4.0,
                "steps": {"motion": {"seconds": 2.0, "calls": 40, "errors": 0, "nulls": 0}},
            },
            "group": {"wall_s": 0.5},
            "annotate": {
                "wall_s": 30.0,
                "cpu_s": 1.0,
                "video_s": 10.0,
                "decode_s": 1.0,
                "steps": {
                    "caption": {"seconds": 0.0, "model_seconds": 19.0, "loading": 4.0, "calls": 17}
                },
            },
        },
    ).write(out)
    return open_run(out)


@pytest.fixture
def own(tmp_path: Path, recipe: Recipe) -> Run:
    """A finished run to break; its videos lie in tmp_path."""
    return make_run(tmp_path, recipe)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Run:
    """A finished run to read only."""
    return make_run(tmp_path_factory.mktemp("finished"), recipe)


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "style":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def having(self, attribute: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if attribute in attrs]


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


@pytest.fixture(scope="session")
def page(finished: Run, recipe: Recipe) -> Page:
    """The report of the finished run."""
    return read(build_report(finished, recipe))
