"""Precache: packed clips to latents and text rows, in a set that grows and shrinks with them.

Each tar of the parent is a unit of work that ends with a tar and a record of it under `.work`.
Then index.json, which names all of them, replaces the one before, and what it no longer names is
removed. Killed at any moment, the next call goes on from there and ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

import vidcurate
from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION, short_hash
from vidcurate.durable import TEMP
from vidcurate.errors import RunDirectoryError, StorageError, UserError
from vidcurate.report.format import size
from vidcurate.run.lease import Lease
from vidcurate.shards.index import EMPTY_FILE, about_of, read_index, write_index
from vidcurate.shards.leftovers import WORK, tidy
from vidcurate.shards.tar_samples import DERIVED_SUFFIX
from vidcurate.train.config import TrainConfig
from vidcurate.train.precache.derived import VERSION
from vidcurate.train.precache.encode import Encoder, Reader, encode_unit
from vidcurate.train.precache.held import Done, Held
from vidcurate.train.precache.plan import Plan, Row, Unit

Progress = Callable[[int, int], None]
"""Called with clips that came to an end, and clips to do."""

_PACKAGES = ("torch", "diffusers", "transformers", "av")


@dataclass(frozen=True)
class Precached:
    """What is there now. samples, bytes: of the derived set. digest: of its index; "" where it has
    none yet, or holds no sample.

    encoded, kept: samples that this call encoded, and those that were there. failures: clips that
    could not be encoded, by class of error. interrupted: it was stopped; the same call goes on.
    """

    folder: Path
    fingerprint: str
    samples: int
    bytes: int
    encoded: int
    kept: int
    failures: Mapping[str, int]
    digest: str
    interrupted: bool = False


class Hands(Protocol):
    """Who encodes: this process, or a cluster."""

    def encode(
        self, plan: Plan, units: list[Unit], stop: threading.Event, done: Callable[[int], None]
    ) -> None:
        """Encode units, until `stop` is set; `done` is told how many more clips came to an end."""
        ...


class Inline:
    """The hands of this process: one that has the models, and the reader's workers."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def encode(
        self, plan: Plan, units: list[Unit], stop: threading.Event, done: Callable[[int], None]
    ) -> None:
        """See `Hands`."""
        encoder = Encoder(self._config)
        encoder.write_empty(plan.folder)
        reader = Reader(plan.parent, self._config.data.workers)
        rows = (int(row) for unit in units for row in unit.new)
        with reader.read(rows) as clips:
            for unit in units:
                if stop.is_set():
                    return
                encode_unit(unit, plan.folder, plan.parent, encoder, clips, done)


def precache(
    plan: Plan,
    hands: Hands,
    *,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> Precached:
    """Bring a derived set to hold what its parent holds.

    Call it again after a kill. Nothing is encoded where all is there; then at most the index is
    written anew, with other captions, scores and splits.

    Args:
        plan: of the recipe and the set. hands: who encodes.
        stop: once it is set, the tar at work is finished and the call returns.

    Raises:
        UserError: what is still to be written is more than the disk holds.
        RunDirectoryError: another process writes there, or what is there is damaged.
        StorageError: the folder cannot be written. ModelError: the models cannot be loaded, or the
            memory of their device runs out.
    """
    stop = stop or threading.Event()
    if not plan.weight.fits:
        raise UserError(refusal(plan))
    try:
        with Lease(plan.folder):
            if (read_index(plan.folder) or {}).get("digest") != plan.held.index.get("digest"):
                raise RunDirectoryError(
                    f"{plan.folder} was written by another process meanwhile: run again"
                )
            return _Job(plan, hands, stop, progress).run()
    except OSError as error:
        raise StorageError(
            f"{plan.folder} cannot be written ({error.strerror or error}); free space or mend the "
            "permissions and run again: finished tars are kept"
        ) from error


def refusal(plan: Plan) -> str:
    """Why a set that is too large for its disk is not begun, with the remedy."""
    weight = plan.weight
    return (
        f"{plan.folder} needs about {size(weight.latents + weight.text)} (latents "
        f"{size(weight.latents)}, text {size(weight.text)}), and its disk has {size(weight.free)} "
        "free: free some, take fewer clips (data.buckets), smaller ones (data.resize), fewer "
        "captions (encode.variants, encode.max_text_tokens), or train without: what is not "
        "precached is encoded while training"
    )


class _Job:
    def __init__(
        self, plan: Plan, hands: Hands, stop: threading.Event, progress: Progress | None
    ) -> None:
        self.plan = plan
        self.hands = hands
        self.stop = stop
        self.progress = progress
        self.done = 0

    def run(self) -> Precached:
        plan = self.plan
        (plan.folder / WORK).mkdir(exist_ok=True)
        self._clear()
        has_text = self.plan.settings["text"] is not None
        if plan.todo or (has_text and not (plan.folder / EMPTY_FILE).exists()):
            self.hands.encode(plan, plan.todo, self.stop, self._told)
        held = Held(plan.folder)
        records = {unit.key: held.unit(unit.key) for unit in plan.units}
        found = {key: record for key, record in records.items() if record is not None}
        if len(found) < len(records):
            assert self.stop.is_set()
            return self._report(found, {}, interrupted=True)
        index: Mapping[str, Any] = {}
        if any(record.rows for record in found.values()):
            index = self._committed(found, held)
            tidy(plan.folder, index)
        return self._report(found, index)

    def _told(self, clips: int) -> None:
        self.done += clips
        if self.progress is not None:
            self.progress(self.done, sum(len(unit.rows) for unit in self.plan.todo))

    def _clear(self) -> None:
        """Remove what another state of the parent has left unfinished."""
        keys = {unit.key for unit in self.plan.units}
        named = {shard["path"] for shard in self.plan.held.index["shards"]}
        for record in (self.plan.folder / WORK).glob("*.json"):
            if record.stem not in keys:
                record.unlink()
        for unit in self.plan.units:
            found = self.plan.held.unit(unit.key)
            if found is not None:
                named.add(found.path)
        for tar in self.plan.folder.glob("*/*.tar"):
            if tar.relative_to(self.plan.folder).as_posix() not in named:
                tar.unlink()
        for path in [*self.plan.folder.glob(f"{TEMP}*"), *self.plan.folder.glob(f"*/{TEMP}*")]:
            path.unlink()

    # ------------------------------------------------------------------ index.json

    def _committed(self, found: Mapping[str, Done], held: Held) -> Mapping[str, Any]:
        """Write the index of all that is there, unless that is what there was."""
        before = held.index
        units = self.plan.units
        shards = [
            {
                "path": found[unit.key].path,
                "bucket": unit.bucket,
                "rows": found[unit.key].rows,
                "bytes": found[unit.key].bytes,
                "sha256": found[unit.key].sha256,
                "unit": unit.key,
                "parent": unit.shard,
            }
            for unit in units
        ]
        about = {
            "selection": self.plan.folder.name,
            "made_by": made_by() if self.plan.todo or not before["index"] else before["made_by"],
            "no_bucket": self.plan.parent.index["no_bucket"],
            "failures": [f for unit in units for f in found[unit.key].failures],
            "derived": self._derived(),
        }
        if before["index"] and (about, shards) == (about_of(before), before["shards"]):
            return before
        name = short_hash(json.dumps([about, shards]))[:12]
        return write_index(self.plan.folder, name, self._tables(found, held), shards, about)

    def _derived(self) -> dict[str, Any]:
        """What index.json says of how the set was made; see `derived.Derived`."""
        settings, parent = self.plan.settings, self.plan.parent
        text = None
        if settings["text"] is not None:
            empty = (self.plan.folder / EMPTY_FILE).read_bytes()
            text = {
                "name": settings["text"]["name"],
                "width": self.plan.text_width,
                "empty": hashlib.sha256(empty).hexdigest(),
            }
        return {
            "version": VERSION,
            "fingerprint": self.plan.fingerprint,
            "settings": settings,
            "parent": {name: parent.index[name] for name in ("digest", "columns")},
            "vae": parent.vae.model_dump(mode="json"),
            "text": text,
        }

    def _tables(self, found: Mapping[str, Done], held: Held) -> Iterator[pa.Table]:
        """The index rows: the parent's, with what was encoded in place of the video."""
        for unit in self.plan.units:
            places = {sample[0]: sample[1:] for sample in held.samples(unit.key)}
            mark = dict(zip(unit.rows.tolist(), unit.marks.tolist(), strict=True))
            for numbers, rows in self.plan.parent.chunks(unit.rows):
                read, made = (
                    self.plan.parent.table.shapes(numbers),
                    self.plan.parent.encoded(numbers),
                )
                made_rows = []
                for i, row in enumerate(rows):
                    if (place := places.get(row["sample_id"])) is None:
                        continue
                    step = self.plan.parent.resize.step(int(read.frames[i]))
                    size = (int(n[i]) for n in (made.frames, made.height, made.width))
                    own = _row(row, place, step * row["frame_step"], *size)
                    own |= {
                        "shard": found[unit.key].path,
                        "fingerprint": mark[int(numbers[i])].decode(),
                    }
                    made_rows.append(own)
                yield pa.Table.from_pylist(made_rows, schema=INDEX_SCHEMA)

    # ------------------------------------------------------------------ report

    def _report(
        self,
        found: Mapping[str, Done],
        index: Mapping[str, Any],
        *,
        interrupted: bool = False,
    ) -> Precached:
        plan = self.plan
        failures = [f for record in found.values() for f in record.failures]
        samples = sum(record.rows for record in found.values())
        tried = [unit for unit in plan.todo if unit.key in found]
        failed = sum(len(found[unit.key].failures) for unit in tried)
        encoded = sum(len(unit.new) for unit in tried) - failed
        return Precached(
            folder=plan.folder,
            fingerprint=plan.fingerprint,
            samples=samples,
            bytes=sum(shard["bytes"] for shard in index.get("shards", ())),
            encoded=encoded,
            kept=samples - encoded,
            failures=Counter(f["error"] for f in failures),
            digest=index.get("digest", ""),
            interrupted=interrupted,
        )


def _row(
    row: Row, place: list[Any], step: int, frames: int, height: int, width: int
) -> dict[str, Any]:
    """A sample's index row: the parent's, of what was encoded. step: frames of the file to one."""
    offset, size, sha256 = place
    rate = row["fps_num"]
    own = {name: value for name, value in row.items() if name != "video"}
    return own | {
        "schema_version": INDEX_VERSION,
        "members": [{"name": DERIVED_SUFFIX, "offset": offset, "size": size}],
        "n_frames": frames,
        "preroll_frames": 0,
        "frame_step": 1,
        "fps_den": row["fps_den"] * step,
        "duration_s": frames * step * row["fps_den"] / rate if rate > 0 else row["duration_s"],
        **{"width": width, "height": height},
        **{"bucket_width": width, "bucket_height": height, "bucket_frames": frames},
        **{"has_audio": False, "audio_sha256": None, "sha256": sha256},
        "captions": list(row["captions"].items()),
        "scores": list(row["scores"].items()),
    }


def made_by() -> dict[str, str]:
    """The versions that latents and text rows depend on."""
    found = {"vidcurate": vidcurate.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
