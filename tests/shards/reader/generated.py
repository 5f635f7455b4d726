"""Generated tables of shapes, as an order reads them, and walks over them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from vidcurate.shards.reader.cursor import Cursor, Step
from vidcurate.shards.reader.shapes import Rows, Shapes


class GeneratedTable:
    """`count` samples of `buckets` ((frames, height, width) by name), bucket by seed."""

    def __init__(
        self, count: int, buckets: dict[str, tuple[int, int, int]], seed: int = 0, digest: str = ""
    ) -> None:
        self.names = tuple(sorted(buckets))
        self.digest = digest or f"digest-{seed}"
        self.code = np.random.default_rng(seed).integers(0, len(buckets), count).astype(np.int16)
        self.size = np.array([buckets[name] for name in self.names], np.int32)
        self.asked = 0  # rows whose shapes were read

    def __len__(self) -> int:
        return len(self.code)

    def shapes(self, rows: Rows) -> Shapes:
        self.asked += len(rows)
        frames, height, width = self.size[self.code[rows]].T
        return Shapes(frames, height, width, frames / 24, self.code[rows], self.names)


def native_sizes(count: int) -> Shapes:
    """Images, and clips of 5 to 121 frames at three resolutions and four aspects."""
    rng = np.random.default_rng(0)
    short = rng.choice([256, 480, 720], count, p=[0.5, 0.35, 0.15])
    wide = rng.choice([16 / 9, 4 / 3, 1, 9 / 16], count, p=[0.7, 0.1, 0.1, 0.1])
    width = (short * np.maximum(wide, 1)).astype(np.int32) // 16 * 16
    height = (short * np.maximum(1 / wide, 1)).astype(np.int32) // 16 * 16
    frames = np.where(rng.random(count) < 0.3, 1, rng.integers(1, 31, count) * 4 + 1)
    frames = np.where(short == 720, np.minimum(frames, 33), frames).astype(np.int32)
    return Shapes(frames, height, width, frames / 24, np.zeros(count, np.int16), ("native",))


class Sizes:
    """A table of given shapes."""

    digest = "sizes"

    def __init__(self, shapes: Shapes) -> None:
        self.all = shapes

    def __len__(self) -> int:
        return len(self.all)

    def shapes(self, rows: Any) -> Shapes:
        return self.all.take(rows)


BUCKETS = {
    "256x256x1": (1, 256, 256),
    "448x256x17": (17, 256, 448),
    "848x480x49": (49, 480, 848),
    "native": (5, 64, 80),
}


def tokens(shapes: Shapes) -> Any:
    """Tokens of a video model: 4 frames (after the first) and 16x16 pixels are one."""
    return (
        ((shapes.frames.astype(np.int64) - 1) // 4 + 1)
        * (shapes.height // 16)
        * (shapes.width // 16)
    )


def steps(cursor: Cursor, limit: int | None = None) -> Iterator[Step]:
    """The next steps; every state goes through JSON."""
    given = 0
    while (limit is None or given < limit) and (step := cursor.next_step()) is not None:
        assert step.state == json.loads(json.dumps(step.state)) == cursor.state_dict()
        given += 1
        yield step


def flat(walked: Any) -> list[tuple[int, int, tuple[int, ...]]]:
    """(source, epoch, rows) of all batches of some steps, one after the other."""
    return [
        (entry.source, entry.epoch, tuple(entry.rows.tolist()))
        for step in walked
        for entry in step.batches
        if entry is not None
    ]
