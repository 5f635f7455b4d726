"""A packed selection of many small clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.pack import pack_selection

from ..conftest import as_table, clip_row, film

SPANS = tuple((a, a + n) for n in (6, 9, 14) for a in range(0, 45, 6))
WIDE = (96, 64)
TALL = (48, 80)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 clips of a wide and a tall film in four buckets, several shards; never write to it."""
    base = tmp_path_factory.mktemp("packed")
    rows: list[dict[str, Any]] = []
    for seed, size in enumerate((WIDE, TALL)):
        path = film(base / f"film{seed}.mp4", seed, size)
        rows += [
            clip_row(
                path,
                *span,
                width=size[0],
                height=size[1],
                split="val" if span == SPANS[-1] else "train",
                captions=[("long", f"film {seed}, frames {span[0]} to {span[1]}")],
                scores=[("motion", float(span[0]))],
            )
            for span in SPANS
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
