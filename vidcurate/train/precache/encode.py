"""Encoding clips: the frozen models, the reader that feeds them, and one tar at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidcurate.durable import replacing
from vidcurate.errors import DataError
from vidcurate.models.text_encoder import load_text_encoder
from vidcurate.models.vae import latent_times, load_vae
from vidcurate.shards import Batch, Decode
from vidcurate.shards.index import EMPTY_FILE
from vidcurate.shards.reader.reading import ReadSpec, ReadTask, Source, read_batch
from vidcurate.shards.reader.workers import Workers
from vidcurate.shards.tar_samples import DERIVED_SUFFIX
from vidcurate.shards.writer import TarWriter, member_key
from vidcurate.train.config import TrainConfig
from vidcurate.train.precache.derived import (
    Encoded,
    write_empty,
    write_sample,
)
from vidcurate.train.precache.held import is_transient, read_kept, record_of
from vidcurate.train.precache.plan import Parent, Row, Unit

_AHEAD = 4  # clips that each worker may be ahead by
_STALL = 300.0
_MEMORY = 8 * 1024**3

Failure = dict[str, Any]


class Encoder:
    """The frozen models of a recipe, on the device of this process (`vidcurate.models`).

    Raises:
        ModelError: they cannot be loaded. MissingExtraError: a package is not installed.
    """

    def __init__(self, config: TrainConfig) -> None:
        encode = config.encode
        self.dtype: str = encode.dtype
        self._vae = load_vae(encode.vae) if encode.vae is not None else None
        self._text = None
        if encode.text is not None:
            self._text = load_text_encoder(encode.text, max_tokens=encode.max_text_tokens)

    @property
    def shortened(self) -> int:
        """Captions so far that were longer than `max_text_tokens`."""
        return 0 if self._text is None else self._text.shortened

    def clip(self, video: Tensor, times: Tensor, captions: list[str]) -> Encoded:
        """One clip.

        video: uint8 (T, 3, H, W). times: float64 (T,), seconds. captions: as often as drawn.

        Raises:
            ModelError: the device's memory does not hold it.
        """
        pixels = video.float() / 127.5 - 1
        made = Encoded(pixels, times, texts=self._rows(captions))
        if self._vae is None:
            return made
        config = self._vae.config
        made.latent = self._vae.encode(pixels)
        made.times = latent_times(times, config)
        if config.causal and len(made.latent) > 1:
            made.last, made.last_time = self._vae.encode(pixels[-1:]), times[-1:]
        return made

    def write_empty(self, folder: Path) -> str | None:
        """Write the rows of the empty prompt, unless they are there; their file's sha256."""
        if self._text is None:
            return None
        path = folder / EMPTY_FILE
        data = write_empty(self._text.encode([""])[0], self.dtype)
        if not path.exists() or path.read_bytes() != data:
            with replacing(path) as temporary:
                temporary.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def _rows(self, captions: list[str]) -> list[Tensor]:
        if self._text is None:
            return []
        distinct = list(dict.fromkeys(captions))
        rows, offsets = self._text.encode(distinct)
        parts = dict(zip(distinct, rows.split(offsets.diff().tolist()), strict=True))
        return [parts[caption] for caption in captions]


@dataclass(frozen=True)
class Clip:
    """A clip that was read. video: uint8 (T, 3, H, W). times: float64 (T,), from its first frame.

    failure: why there is none, as a class of errors and a message.
    """

    video: Tensor | None
    times: Tensor | None
    failure: tuple[str, str] | None = None


class Reader:
    """Reads clips as the trainer does, with the window in the middle.

    workers: processes that decode ahead; 0 decodes in this one.
    """

    def __init__(self, parent: Parent, workers: int) -> None:
        self._spec = ReadSpec(
            sources=(Source(parent.table, parent.store),),
            decode=Decode(window="middle"),
            fit=parent.resize,
            members=(),
            captions=None,
            transform=None,
            seed=0,
            verify=True,
            stop=False,
        )
        self._workers = workers

    @contextmanager
    def read(self, rows: Iterator[int]) -> Iterator[Iterator[Clip]]:
        """The clips of some rows of the parent's table, in their order."""
        tasks = (ReadTask(0, 0, np.array([row], np.int64)) for row in rows)
        if self._workers:
            workers = Workers(
                self._spec, count=self._workers, ahead=_AHEAD, stall=_STALL, memory=_MEMORY
            )
            batches = workers.read(tasks)
        else:
            batches = (read_batch(self._spec, task, lambda _: None) for task in tasks)
        try:
            yield (self._clip(batch) for batch in batches)
        finally:
            batches.close()  # type: ignore[attr-defined]  # ends the processes

    def _clip(self, batch: Batch) -> Clip:
        if batch.samples[0] is None:
            (fault,) = batch.faults
            return Clip(None, None, (fault.error, fault.message))
        assert batch.times is not None
        (times,) = batch.times
        frames = torch.from_numpy(batch.video[0]).permute(0, 3, 1, 2)
        return Clip(frames, torch.from_numpy(times - times[0]))


def encode_unit(
    unit: Unit,
    folder: Path,
    parent: Parent,
    encoder: Encoder,
    clips: Iterator[Clip],
    done: Callable[[int], None] = lambda _: None,
) -> None:
    """Write one tar and the record that it is done; both appear at once.

    clips: of the rows that are new, in order. done: told how many more came to an end.

    Raises:
        ModelError: the device's memory does not hold a clip.
        StorageError: the folder cannot be written. RunDirectoryError: what is kept is damaged.
    """
    samples: list[list[Any]] = []
    failures: list[Failure] = []
    with replacing(folder / unit.path) as temporary, TarWriter(temporary) as tar:
        place = 0
        for _, rows in parent.chunks(unit.rows):
            for row in rows:
                try:
                    if (kept := unit.kept.get(place)) is not None:
                        data = read_kept(folder, kept)
                    else:
                        data = _encoded(next(clips), row, parent, encoder)
                    added = tar.add(f"{member_key(row['sample_id'])}.{DERIVED_SUFFIX}", data)
                    samples.append([row["sample_id"], added.offset, added.size, added.sha256])
                except _FailedError as error:
                    failures.append(_failure(unit, row, error))
                place += 1
                done(1)
    record = {
        "path": unit.path,
        "bytes": tar.size,
        "sha256": tar.sha256,
        "samples": samples,
        "failures": failures,
    }
    with replacing(record_of(folder, unit.key)) as temporary:
        temporary.write_text(json.dumps(record), "utf-8")


class _FailedError(Exception):
    """A clip that could not be read or encoded: class of errors, message."""


def _encoded(clip: Clip, row: Row, parent: Parent, encoder: Encoder) -> bytes:
    if clip.failure is not None:
        raise _FailedError(*clip.failure)
    assert clip.video is not None
    assert clip.times is not None
    try:
        made = encoder.clip(clip.video, clip.times, parent.texts(row))
        return write_sample(made, encoder.dtype)
    except DataError as error:
        raise _FailedError(type(error).__name__, str(error)) from error


def _failure(unit: Unit, row: Row, error: _FailedError) -> Failure:
    kind, message = error.args
    return {
        "clip_id": row["clip_id"],
        "video_id": row["video_id"],
        "shard": unit.path,
        "error": kind,
        "message": message,
        "transient": is_transient(kind),
    }
