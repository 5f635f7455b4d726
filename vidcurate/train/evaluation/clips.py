"""The clips that are compared: real ones of the split val, and a folder of generated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from vidcurate.errors import DataError, RunDirectoryError, UserError
from vidcurate.media.frame_files import load_frames
from vidcurate.shards import BucketBatches, NativeLimit, ShardDataset
from vidcurate.train.config import Data
from vidcurate.train.data import rate_of
from vidcurate.train.evaluation.features import Frames
from vidcurate.train.precache.derived import about
from vidcurate.train.resize import Resize

SUFFIXES = (".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi")
_FILE = ("file_name", "file", "video", "path")
_TEXT = ("caption", "text", "prompt")


@dataclass(frozen=True)
class Video:
    """One clip in memory.

    name: sample id, or file name. frames: uint8 (T, H, W, 3). fps: 1 of a picture. caption: "" of
    one that has none.
    """

    name: str
    frames: Frames
    fps: float
    caption: str


class RealClips:
    """Clips of the split val as the trained model would see them, in a random order of `seed`.

    Args:
        data: what was trained on: captions, sizes, buckets. resize: to the model's sizes; None
            leaves each clip at its bucket's. shards: in place of `data.shards`.
        samples: so many at most.

    Attributes:
        shards: where they are. count: of clips that there will be, but for damaged ones. skipped:
            of these, so far.

    Raises:
        UserError: an empty split, shards that hold no pixels, several sets, captions that no
            sample has.
        RunDirectoryError: there is no index.
    """

    def __init__(
        self,
        data: Data,
        resize: Resize | None,
        *,
        shards: str | None = None,
        samples: int,
        seed: int,
        workers: int,
    ) -> None:
        chosen = shards or data.shards
        if isinstance(chosen, dict):
            raise UserError(
                f"the model was trained on a mix ({', '.join(chosen)}), and clips of one set are "
                "compared: name it by --shards"
            )
        if about(chosen) is not None:
            raise UserError(
                f"{chosen} holds what clips were encoded to, and pixels are compared: name the set "
                "that it was made of by --shards"
            )
        self.shards = str(chosen)
        self._data = ShardDataset(
            self.shards,
            batch=BucketBatches(1, neighbours=1),  # else the first ones would be alike in size
            split="val",
            buckets=data.buckets,
            captions=data.rendered(drop=False) if data.captions is not None else None,
            fit=resize,
            native=NativeLimit(data.native.short_side, data.native.frames),
            seed=seed,
            rank=0,
            world_size=1,
            workers=workers,
        )
        self._samples = samples
        self.count = min(samples, self._data.samples)
        self.skipped = 0

    def __iter__(self) -> Iterator[Video]:
        taken = 0
        with closing(cast(Any, iter(self._data))) as batches:
            for batch in batches:
                if not batch.weight[0]:
                    self.skipped += 1
                    continue
                times = torch.from_numpy(batch.times[0])
                frames = batch.video[0].permute(0, 2, 3, 1).contiguous().numpy()
                yield Video(batch.sample_ids[0], frames, rate_of(times), batch.captions[0])
                taken += 1
                if taken == self._samples:
                    return


class VideoFolder:
    """Videos of any model, in the order of their names.

    Captions, where something asks for them, are in `name.txt` beside `name.mp4`, or in the folder's
    only .jsonl: a line has `file_name` (or file, video, path) and `caption` (or text, prompt).

    Attributes:
        count: of videos. captioned: of those that have a caption. broken: what could not be
        decoded so far, and why.

    Raises:
        UserError: no videos, or a .jsonl that cannot be used.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        if not folder.is_dir():
            raise RunDirectoryError(f"there is no folder {folder} of generated videos")
        found = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"{folder} holds no videos ({', '.join(SUFFIXES)})")
        self._files = found[:samples]
        self.count = len(self._files)
        self.broken: list[str] = []
        told = _told(folder)
        self._captions = {f: _beside(f) or told.get(f.name, "") for f in self._files}
        self.captioned = sum(map(bool, self._captions.values()))

    def __iter__(self) -> Iterator[Video]:
        for file in self._files:
            try:
                frames, fps = load_frames(file)
            except DataError as error:
                self.broken.append(f"{file.name}: {error}")
                continue
            yield Video(file.name, frames, fps or 1.0, self._captions[file])


def _beside(file: Path) -> str:
    try:
        return file.with_suffix(".txt").read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except ValueError as error:
        raise UserError(f"{file.with_suffix('.txt')} is no text in UTF-8") from error


def _told(folder: Path) -> dict[str, str]:
    tables = sorted(folder.glob("*.jsonl"))
    if not tables:
        return {}
    if len(tables) > 1:
        names = ", ".join(t.name for t in tables)
        raise UserError(f"{folder} has several tables of captions ({names}): leave one there")
    captions: dict[str, str] = {}
    for number, line in enumerate(tables[0].read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            file = next(row[key] for key in _FILE if key in row)
            text = next(row[key] for key in _TEXT if key in row)
        except (ValueError, TypeError, StopIteration) as error:
            raise UserError(
                f"{tables[0]}:{number}: no JSON object with the keys file_name and caption"
            ) from error
        captions[Path(str(file)).name] = str(text or "").strip()
    return captions
