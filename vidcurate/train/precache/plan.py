"""What precache has to do: one unit of work for each tar of the parent set, and what it will weigh.

A unit is done where the derived set has its tar with the key that is wanted; the key is of all that
decides its bytes. A sample that another tar of the derived set has already, as after the parent was
packed again, is copied from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate.clip import is_url, short_hash
from vidcurate.errors import UserError
from vidcurate.models.text_encoder import text_encoder_config
from vidcurate.models.vae import vae_config
from vidcurate.shards import Captions, NativeLimit, Shapes
from vidcurate.shards.index import read_index
from vidcurate.shards.reader.arguments import check_names
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table import IndexTable, default_folder
from vidcurate.train.codes import check_model
from vidcurate.train.config import TrainConfig
from vidcurate.train.data import resize_of
from vidcurate.train.precache.derived import (
    PIXELS,
    VaePart,
    about,
    derived_folder,
    fingerprint,
    settings_of,
)
from vidcurate.train.precache.held import MARK, Held, Place
from vidcurate.train.resize import Resize

_CHUNK = 8192  # rows of an index as Python objects at a time
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_HEAD = 2048  # bytes of a sample's headers, padding and times, about
_TOKEN = 3  # bytes of a caption's token, about: of English rather 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """One tar to be.

    shard: the parent's tar. path: of the derived one, below its folder. key: of all that decides
    its bytes. rows: numbers of its samples in the parent's table. marks: of all that decides each
    sample, 32 characters (S32). kept: samples that are copied, by their place in `rows`; of a unit
    that is to be done alone.
    """

    shard: str
    bucket: str
    path: str
    key: str
    rows: npt.NDArray[np.int64]
    marks: npt.NDArray[np.bytes_]
    kept: Mapping[int, Place]

    @property
    def new(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows that are to be encoded."""
        return np.array([r for i, r in enumerate(self.rows) if i not in self.kept], np.int64)


@dataclass(frozen=True)
class Weight:
    """What is still to be written, in bytes: clips, their latents (exact), their text (about)."""

    clips: int
    latents: int
    text: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.latents + self.text <= self.free


class Parent:
    """A packed set as a recipe reads it; opened anew in each process.

    root: its folder. table: all of its splits, of the recipe's buckets. vae: what it is encoded by.

    Raises:
        UserError: it is remote or itself derived, has no such buckets, or lacks all captions that
            a template names. RunDirectoryError: no index.
    """

    def __init__(self, config: TrainConfig, root: str) -> None:
        if is_url(root):
            raise UserError(
                f"{root}: precache writes beside the shards, and only to local or shared file "
                "systems; copy or mount them first"
            )
        data, encode = config.data, config.encode
        self.root = os.path.abspath(os.path.expanduser(root))
        self.store = Store(self.root)
        self.table = IndexTable.open(
            self.root,
            store=self.store,
            folder=default_folder(),
            buckets=data.buckets,
            native=NativeLimit(data.native.short_side, data.native.frames),
        )
        if about(self.root) is not None:
            raise UserError(f"{root} is a precached set itself: name the shards that it is made of")
        self.vae = PIXELS
        if encode.vae is not None:
            found = vae_config(encode.vae)
            self.vae = VaePart(
                name=found.facts["name"],
                channels=found.channels,
                compression=found.compression,
                causal=found.causal,
            )
        self.resize: Resize = resize_of(data, config.model, self.vae.compression)
        self._variants = encode.variants
        self.captions: Captions | None = None
        if encode.text is not None:
            self.captions = data.rendered(drop=False)
            check_names([self.table], (), self.captions)

    @cached_property
    def index(self) -> dict[str, Any]:
        """What the parent's index.json says."""
        found = read_index(Path(self.root))
        assert found is not None, "its table was opened"
        return found

    def texts(self, row: Row) -> list[str]:
        """The captions of a sample that are encoded, as often as they are drawn; [] without."""
        if self.captions is None:
            return []
        return self.captions.variants(
            row["captions"], row["scores"], self._variants, row["sample_id"]
        )

    def encoded(self, rows: npt.NDArray[np.int64]) -> Shapes:
        """Frames and pixels of the clips that are encoded.

        Raises:
            UserError: one is smaller than a patch.
        """
        return self.resize.shapes(self.table.shapes(rows))

    def chunks(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
        """Some rows at a time: their numbers, and what the index says of them."""
        for at in range(0, len(rows), _CHUNK):
            part = rows[at : at + _CHUNK]
            yield part, self.table.samples(part)


class Plan:
    """The work on one set.

    parent: the set. folder: of the derived one. settings, fingerprint: by which. held: what is
    there. text_width: of a row of text; 0 without. units: all that are to be, in the parent's
    order. todo: those that are not there, or are to be tried again. clips: of all units.
    uncaptioned: samples that lack what the captions need. weight: of `todo`.

    Raises:
        UserError, ModelError, RunDirectoryError: as of `Parent`, `settings_of`, `check_model`.
    """

    def __init__(self, config: TrainConfig, root: str) -> None:
        self.settings = settings_of(config)
        check_model(config)
        self.fingerprint = fingerprint(self.settings)
        self.parent = Parent(config, root)
        self.folder = Path(derived_folder(root, self.fingerprint))
        self.held = Held(self.folder)
        self._config = config
        self.text_width = 0
        if config.encode.text is not None:
            self.text_width = text_encoder_config(config.encode.text).width
        self.uncaptioned = 0
        found = list(self._units())
        undone = {u.key for u in found if not self.held.is_done(u.key, len(u.rows))}
        wanted = [u.marks for u in found if u.key in undone]
        places = self.held.places(np.concatenate(wanted)) if wanted else {}
        self.units = [self._kept(u, places) if u.key in undone else u for u in found]
        self.todo = [unit for unit in self.units if unit.key in undone]
        self.clips = sum(len(unit.rows) for unit in self.units)

    def _units(self) -> Iterator[Unit]:
        """Of the whole set; of a clip its number and mark alone stay in memory."""
        by_shard: dict[str, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]]] = {}
        buckets: dict[str, str] = {}
        for numbers, rows in self.parent.chunks(np.arange(len(self.parent.table))):
            shapes = self.parent.encoded(numbers)
            marks: list[str] = []
            places: dict[str, list[int]] = {}
            for i, row in enumerate(rows):
                texts = self.parent.texts(row)
                self.uncaptioned += bool(texts) and not any(texts)
                marks.append(self._mark(row, shapes, i, texts))
                places.setdefault(row["shard"], []).append(i)
                buckets[row["shard"]] = row["bucket"]
            for shard, own in places.items():
                some = np.array([marks[i] for i in own], MARK)
                by_shard.setdefault(shard, []).append((numbers[own], some))
        for shard, parts in by_shard.items():
            numbers, own_marks = (np.concatenate(kind) for kind in zip(*parts, strict=True))
            names = [mark.decode() for mark in own_marks.tolist()]
            key = short_hash(json.dumps([shard, buckets[shard], names]))[:16]
            path = self._path(shard, buckets[shard], key, len(names))
            yield Unit(shard, buckets[shard], path, key, numbers, own_marks, {})

    def _kept(self, unit: Unit, places: Mapping[bytes, Place]) -> Unit:
        """The unit, with those of its samples that are there already."""
        marks = unit.marks.tolist()
        return replace(unit, kept={i: places[m] for i, m in enumerate(marks) if m in places})

    def _mark(self, row: Row, shapes: Shapes, i: int, texts: list[str]) -> str:
        """Of all that decides a sample's bytes."""
        size = [int(n[i]) for n in (shapes.frames, shapes.height, shapes.width)]
        names = (
            *("sample_id", "sha256", "video", "bucket", "n_frames", "preroll_frames"),
            *("frame_step", "fps_num", "fps_den", "vfr"),
        )
        own = [self.fingerprint, [row[n] for n in names], size, texts]
        return short_hash(json.dumps(own))

    def _path(self, shard: str, bucket: str, key: str, count: int) -> str:
        """Of the derived tar: another name for other bytes, as its index names the one before."""
        name = f"{bucket}/{Path(shard).stem}-{key[:8]}.tar"
        there = self.held.names(name)
        if there is None or self.held.is_done(key, count):
            return name
        return f"{bucket}/{Path(shard).stem}-{short_hash(key + there)[:8]}.tar"

    # ------------------------------------------------------------------ weight

    @cached_property
    def weight(self) -> Weight:
        """What is still to be written."""
        latents = text = clips = 0
        each = _BYTES[self._config.encode.dtype]
        for unit in self.todo:
            latents += sum(place.size for place in unit.kept.values())
            for numbers, rows in self.parent.chunks(unit.new):
                clips += len(rows)
                latents += int(self._numbers(self.parent.encoded(numbers)).sum()) * each
                latents += _HEAD * len(rows)
                if self.text_width:
                    text += sum(self._tokens(row) for row in rows) * self.text_width * each
        return Weight(clips, latents, text, _free(self.folder))

    def _numbers(self, shapes: Shapes) -> npt.NDArray[np.int64]:
        """Numbers in the latents of clips, the last frames encoded alone among them."""
        vae = self.parent.vae
        along, down, across = vae.compression
        frames = 1 + (shapes.frames.astype(np.int64) - 1) // along
        if vae.causal:
            frames += frames > 1
        area = (shapes.height // down).astype(np.int64) * (shapes.width // across)
        return frames * area * vae.channels

    def _tokens(self, row: Row) -> int:
        """About how many rows of text a sample has: of English it is rather less."""
        most = self._config.encode.max_text_tokens
        texts = dict.fromkeys(self.parent.texts(row))
        return sum(min(most, 2 + len(t.encode("utf-8", "replace")) // _TOKEN) for t in texts)


def _free(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
