"""The contact sheet shows the frames that are trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate.clip import INDEX_SCHEMA
from vidcurate.errors import UserError
from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.contact_sheet import _chosen, _wrapped, _write, contact_sheet
from vidcurate.shards.foreign import index_tars
from vidcurate.shards.index import read_index
from vidcurate.shards.pack import pack_selection

from .conftest import as_table
from .test_tar_samples import write


def test_samples_of_each_bucket(rows, tmp_path: Path) -> None:
    buckets = Buckets(short_side=(64,), aspect=("3:2", "1:1"), frames=(1, 25))
    folder = tmp_path / "base"
    pack_selection(as_table(rows), Pack(buckets=buckets), folder, workers=1, limits=Limits())
    report = contact_sheet(folder, tmp_path / "sheet.png", samples=3)
    assert (report.buckets, report.samples, report.missing) == (2, 6, {})
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 1640
    (shard,) = [p.relative_to(folder).as_posix() for p in folder.glob("*_1f/*.tar")]
    (drawn,) = _chosen(folder, read_index(folder), 9, 0, shard).values()
    assert {row["shard"] for row in drawn} == {shard}
    assert len(drawn) == 4


def test_samples_are_drawn_by_the_seed(tmp_path: Path) -> None:
    index = {"index": ["index.parquet"]}
    rows = [dict.fromkeys(INDEX_SCHEMA.names) for _ in range(100)]
    for i, row in enumerate(rows):
        row |= {"sample_id": f"{i:02}", "bucket": "ab"[i % 2]}
    schema = pa.schema([field.with_nullable(True) for field in INDEX_SCHEMA])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "index.parquet")

    def drawn(seed: int) -> dict[str, list[str]]:
        found = _chosen(tmp_path, index, 3, seed, None)
        return {bucket: [row["sample_id"] for row in rows] for bucket, rows in found.items()}

    def place(sample: str) -> str:
        return hashlib.md5(f"7:{sample}".encode()).hexdigest()

    odd = sorted((f"{i:02}" for i in range(1, 100, 2)), key=place)[:3]
    assert drawn(7)["b"] == drawn(7)["b"] == odd
    assert drawn(7)["a"] != drawn(8)["a"]


def test_frames_are_spread_over_the_clip(footage, tmp_path: Path) -> None:
    """Four scenes of other colours: frames at 1/8, 3/8, 5/8 and 7/8 of the time show them all."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "a.tar", [("a.mp4", footage("cuts").read_bytes()), ("b.mp4", b"")])
    index_tars(folder, workers=1)
    report = contact_sheet(folder, tmp_path / "sheet.png")
    assert report.samples == 1
    sheet = cv2.imread(str(tmp_path / "sheet.png")).astype(int)
    with_picture = np.abs(sheet - sheet[0, 0]).sum(2) > 40
    (tall,) = np.nonzero(with_picture[:, 36:800].all(1) | (with_picture[:, 36:800].mean(1) > 0.97))
    assert 100 < len(tall) < 115  # 192 x 108 a frame
    colours = [sheet[tall[0] : tall[-1], 36 + i * 194 + 8 : 36 + i * 194 + 180] for i in range(4)]
    means = [colour.mean((0, 1)) for colour in colours]
    gaps = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[i + 1 :]]
    assert min(gaps) > 10


def test_a_sample_that_cannot_be_shown_says_why(rows, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    pack_selection(as_table(rows[:2]), Pack(), folder, workers=1, limits=Limits())
    (tar,) = folder.glob("*/*.tar")
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 2])
    report = contact_sheet(folder, tmp_path / "sheet.jpg")
    assert report.samples == 2
    assert list(report.missing.values()) == ["the tar is cut short before it"]


def test_refusals(rows, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a contact sheet is a \.jpg, \.png or \.webp"):
        contact_sheet(tmp_path, tmp_path / "sheet.pdf")
    with pytest.raises(UserError, match=r"has no index\.json"):
        contact_sheet(tmp_path, tmp_path / "sheet.jpg")


@pytest.mark.parametrize(
    "text", ["some words that are too long for a line " * 3, "只有一只狗" * 20]
)
def test_text_is_wrapped_and_cut(text: str) -> None:
    lines = _wrapped(text, 300, 14, 2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    band = np.zeros((40, 400, 3), np.uint8)
    for line in lines:
        assert 200 < _write(band, line, (0, 20), 14, (255, 255, 255)) <= 315
    assert text.startswith(lines[0])
    assert _wrapped("short", 300, 14, 2) == ["short"]
