"""What precache has to do: one unit of work for each tar of the parent set, and what it will weigh.

A unit is done where the derived set has its tar with the key that is wanted; the key is of all that
decides its bytes. A sample that another tar of the derived set has already, as after the parent was
packed again, is copied from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate import errors
from vidcurate.clip import is_url, short_hash
from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.models.text_encoder import text_encoder_config
from vidcurate.models.vae import vae_config
from vidcurate.shards import Captions, NativeLimit, Shapes
from vidcurate.shards.index import read_index
from vidcurate.shards.leftovers import WORK
from vidcurate.shards.reader.arguments import check_names
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table import IndexTable, default_folder
from vidcurate.shards.rewrite import index_rows
from vidcurate.shards.tar_samples import DERIVED_SUFFIX
from vidcurate.train.config import TrainConfig
from vidcurate.train.data import Resize, resize_of
from vidcurate.train.precache.derived import (
    PIXELS,
    VaePart,
    about,
    derived_folder,
    fingerprint,
    settings_of,
)

_CHUNK = 8192  # rows of an index as Python objects at a time
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_HEAD = 2048  # bytes of a sample's headers, padding and times, about
_TOKEN = 3  # bytes of a caption's token, about: of English rather 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a sample lies that is there already: its tar, below the derived folder."""

    shard: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Unit:
    """One tar to be.

    shard: the parent's tar. path: of the derived one, below its folder. key: of all that decides
    its bytes. rows: numbers of its samples in the parent's table. marks: of all that decides each
    sample. kept: samples that are copied, by their place in `rows`.
    """

    shard: str
    bucket: str
    path: str
    key: str
    rows: npt.NDArray[np.int64]
    marks: tuple[str, ...]
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


class Held:
    """What the derived folder holds already, by its index and by the records of finished units."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder) or {"shards": [], "failures": [], "index": []}
        whole = {s["path"]: s for s in self.index["shards"] if self._is_whole(s)}
        self._units = {s["unit"]: s for s in whole.values() if "unit" in s}
        self._places: dict[str, Place] = {}
        self._samples: dict[str, list[list[Any]]] = {path: [] for path in whole}
        columns = ["sample_id", "fingerprint", "shard", "members", "sha256"]
        for rows in index_rows(folder, self.index, columns):
            for row in rows.to_pylist():
                (member,) = (m for m in row["members"] if m["name"] == DERIVED_SUFFIX)
                place = Place(row["shard"], member["offset"], member["size"], row["sha256"])
                if place.shard in whole:
                    self._places[row["fingerprint"]] = place
                    own = [row["sample_id"], place.offset, place.size, place.sha256]
                    self._samples[place.shard].append(own)

    def is_done(self, key: str, count: int) -> bool:
        """Whether nothing of a unit of so many samples is to be done, or tried again."""
        found = self.unit(key)
        if found is None or len(found["samples"]) + len(found["failures"]) != count:
            return False
        return all(not f["transient"] for f in found["failures"])

    def unit(self, key: str) -> dict[str, Any] | None:
        """What is known of a finished unit; None where there is none.

        path, bytes, sha256: of its tar. failures: as index.json has them. samples: id, offset, size
        and sha256 of each.
        """
        found = self._record(key)
        if found is not None:
            return found if self._is_whole(found) else None
        entry = self._units.get(key)
        if entry is None:
            return None
        own = {name: entry[name] for name in ("path", "bytes", "sha256")}
        failures = [f for f in self.index["failures"] if f["shard"] == entry["path"]]
        return {**own, "failures": failures, "samples": self._samples[entry["path"]]}

    def sample(self, mark: str) -> Place | None:
        """Where a sample lies already."""
        return self._places.get(mark)

    def names(self, path: str) -> str | None:
        """The sha256 of a tar that the index names."""
        found = [s["sha256"] for s in self.index["shards"] if s["path"] == path]
        return found[0] if found else None

    def _record(self, key: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(record_of(self.folder, key).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def _is_whole(self, shard: Mapping[str, Any]) -> bool:
        try:
            size = (self.folder / str(shard["path"])).stat().st_size
        except OSError:
            return False
        return size == int(shard["bytes"])


def record_of(folder: Path, key: str) -> Path:
    """Where the record of a finished unit is, until index.json names its tar."""
    return folder / WORK / f"{key}.json"


class Plan:
    """The work on one set.

    parent: the set. folder: of the derived one. settings, fingerprint: by which. held: what is
    there. text_width: of a row of text; 0 without. units: all that are to be, in the parent's
    order. todo: those that are not there, or are to be tried again. clips: of all units.
    uncaptioned: samples that lack what the captions need. weight: of `todo`.

    Raises:
        UserError, ModelError, RunDirectoryError: as of `Parent` and `settings_of`.
    """

    def __init__(self, config: TrainConfig, root: str) -> None:
        self.settings = settings_of(config)
        self.fingerprint = fingerprint(self.settings)
        self.parent = Parent(config, root)
        self.folder = Path(derived_folder(root, self.fingerprint))
        self.held = Held(self.folder)
        self._config = config
        self.text_width = 0
        if config.encode.text is not None:
            self.text_width = text_encoder_config(config.encode.text).width
        self.uncaptioned = 0
        self.units = list(self._units())
        self.todo = [u for u in self.units if not self.held.is_done(u.key, len(u.rows))]
        self.clips = sum(len(unit.rows) for unit in self.units)

    def _units(self) -> Iterator[Unit]:
        by_shard: dict[str, list[tuple[int, str]]] = {}
        buckets: dict[str, str] = {}
        for numbers, rows in self.parent.chunks(np.arange(len(self.parent.table))):
            shapes = self.parent.encoded(numbers)
            for i, (number, row) in enumerate(zip(numbers.tolist(), rows, strict=True)):
                texts = self.parent.texts(row)
                self.uncaptioned += bool(texts) and not any(texts)
                mark = self._mark(row, shapes, i, texts)
                by_shard.setdefault(row["shard"], []).append((number, mark))
                buckets[row["shard"]] = row["bucket"]
        for shard, found in by_shard.items():
            marks = tuple(mark for _, mark in found)
            numbers = np.array([number for number, _ in found], np.int64)
            key = short_hash(json.dumps([shard, buckets[shard], marks]))[:16]
            kept = {i: p for i, m in enumerate(marks) if (p := self.held.sample(m)) is not None}
            path = self._path(shard, buckets[shard], key, len(marks))
            yield Unit(shard, buckets[shard], path, key, numbers, marks, kept)

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


def read_kept(folder: Path, place: Place) -> bytes:
    """The bytes of a sample that is there already.

    Raises:
        RunDirectoryError: they are not those that were written.
    """
    with (folder / place.shard).open("rb") as file:
        file.seek(place.offset)
        data = file.read(place.size)
    if hashlib.sha256(data).hexdigest() != place.sha256:
        raise RunDirectoryError(
            f"{folder / place.shard} is damaged at byte {place.offset}: remove this tar and run "
            "the same command again, which encodes its clips anew"
        )
    return data


def is_transient(error: str) -> bool:
    """Whether a later try of what failed with a class of errors may succeed."""
    return bool(getattr(getattr(errors, error, None), "transient", False))
