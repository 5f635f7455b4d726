"""Shards of moving shapes, made as tars and indexed; see `shapes`."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vidcurate.media.frame_files import save_frames
from vidcurate.shards.foreign import index_tars

sys.path.insert(0, str(Path(__file__).parent))  # of two_ranks

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "white": (240,) * 3}


def moving(number: int, frames: int, height: int, width: int) -> tuple[np.ndarray, str]:
    """uint8 (frames, height, width, 3) of a square that moves, and what is to be seen."""
    name = list(COLORS)[number % 4]
    across = number // 4 % 2 == 0
    side = 6
    video = np.full((frames, height, width, 3), 30, np.uint8)
    for i in range(frames):
        along = (2 * i + 3 * (number // 8)) % (min(height, width) - side)
        y, x = (5, along) if across else (along, 5)
        video[i, y : y + side, x : x + side] = COLORS[name]
    return video, f"a {name} square moves {'right' if across else 'down'}"


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """shapes(8) is a folder of so many indexed clips; never write to it.

    sizes: (frames, height, width) in turn. val: share of the split val. broken: of the clip at this
    place the bytes are damaged after it was indexed.
    """

    @cache
    def make(
        count: int,
        sizes: Sequence[tuple[int, int, int]] = ((5, 16, 16),),
        val: float = 0.0,
        broken: int | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("shapes")
        places = []
        with tarfile.open(folder / "0.tar", "w") as tar:
            for i in range(count):
                video, caption = moving(i, *sizes[i % len(sizes)])
                save_frames(folder / ".clip.mp4", video, 8.0)
                for suffix, data in (
                    ("mp4", (folder / ".clip.mp4").read_bytes()),
                    ("txt", caption.encode()),
                ):
                    member = tarfile.TarInfo(f"clip{i:03d}.{suffix}")
                    member.size = len(data)
                    places.append((member.name, tar.offset + 512, len(data)))
                    tar.addfile(member, io.BytesIO(data))
        report = index_tars(folder, val=val, workers=1)
        assert report.samples == count, report.failures
        if broken is not None:
            name = f"clip{broken:03d}.mp4"
            ((_, at, size),) = (p for p in places if p[0] == name)
            with (folder / "0.tar").open("r+b") as file:
                file.seek(at + size // 2)
                file.write(b"\0" * 64)
        return folder

    return make
