"""Checkpoints of torch.distributed.checkpoint: written meanwhile, and whole or not at all.

    FOLDER/step-00001000/    __0_0.distcp ...  .metadata  train.json

Tensors of the model, the optimiser and the moving average are DCP's; all else (step, place in the
data, the model's settings) is in train.json, which is written last, before the folder gets its
name. They load on any number of ranks, under DDP or FSDP2. `.metadata` is a pickle: load
checkpoints of your own, or of those you trust.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from vidcurate.durable import TEMP, sync_directory
from vidcurate.errors import RunDirectoryError, StorageError, UserError
from vidcurate.train.parallel import Place

VERSION = 1
ABOUT = "train.json"
"""What makes a folder a checkpoint: it is written last."""
_NAME = "step-{:08d}"
_log = logging.getLogger("vidcurate.train")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints below a folder, the earliest first."""
    return sorted(p.parent for p in folder.glob(f"step-*/{ABOUT}"))


def find(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the latest of a training's output.

    Raises:
        RunDirectoryError: there is none.
    """
    if (path / ABOUT).exists():
        return path
    found = checkpoints(path / "checkpoints")
    if not found:
        raise RunDirectoryError(
            f"{path} holds no checkpoint; give a folder step-00001000, or a training's output"
        )
    return found[-1]


def shapes(checkpoint: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a part ("model", "ema"), by name.

    Raises:
        RunDirectoryError: it is damaged.
    """
    stored = _stored(checkpoint)
    return {
        name.removeprefix(f"{part}."): tuple(getattr(about, "size", ()))
        for name, about in stored.items()
        if name.startswith(f"{part}.")
    }


def about(checkpoint: Path) -> dict[str, Any]:
    """What train.json of a checkpoint says.

    Raises:
        RunDirectoryError: it is damaged, or of another version.
    """
    path = checkpoint / ABOUT
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path} cannot be read ({error}); remove {checkpoint}, and the checkpoint before it "
            "is taken"
        ) from error
    if not isinstance(said, dict) or said.get("version") != VERSION:
        raise RunDirectoryError(
            f"{path} is not of version {VERSION}; load it with the version of vidcurate that saved"
        )
    return said


class Saver:
    """Saves checkpoints while training goes on, and keeps the latest.

    One is written at a time. One that fails (a full disk) is told, leaves the earlier ones as they
    are, and is tried again at the next time; `finish` raises where the last one failed.

    Args:
        folder: of the checkpoints. keep: so many.
    """

    def __init__(self, folder: Path, keep: int, place: Place) -> None:
        self.folder, self._keep, self._place = folder, keep, place
        self._running: tuple[Future[Any], int, dict[str, Any]] | None = None
        self.failed: str | None = None
        _expect_one_process()
        if place.first:
            for stale in folder.glob(f"{TEMP}*"):
                shutil.rmtree(stale, ignore_errors=True)
        place.barrier()

    def save(self, tensors: dict[str, Any], step: int, said: dict[str, Any]) -> None:
        """Begin to save; returns once the tensors are copied. All ranks call it.

        Args:
            tensors: nested mappings of tensors. step: of training. said: plain values.
        """
        self.wait()
        temporary = self.folder / f"{TEMP}{_NAME.format(step)}"
        try:
            future = dcp.async_save(
                tensors,
                storage_writer=dcp.FileSystemWriter(temporary),
                process_group=self._place.saving,
                no_dist=self._place.saving is None,
            )
        except (CheckpointException, OSError) as error:
            self._fail(step, error)
            return
        assert isinstance(future, Future)
        self._running = future, step, {"version": VERSION, "step": step, **said}

    def poll(self) -> None:
        """Give a checkpoint its name once it is written; never waits for that."""
        if self._running is not None and self._running[0].done():
            self.wait()

    def wait(self) -> None:
        """Wait until what is being saved is there."""
        if self._running is None:
            return
        (future, step, said), self._running = self._running, None
        try:
            future.result()
            if self._place.first:
                self._publish(step, said)
            self.failed = None
        except (CheckpointException, OSError) as error:
            self._fail(step, error)

    def finish(self) -> None:
        """Wait for the last one.

        Raises:
            StorageError: it could not be saved.
        """
        self.wait()
        # Of all ranks: none ends before the folder has its name, or has failed for all.
        failed = [why for why in self._place.objects(self.failed) if why is not None]
        if failed:
            raise StorageError(failed[0])

    def _publish(self, step: int, said: dict[str, Any]) -> None:
        temporary = self.folder / f"{TEMP}{_NAME.format(step)}"
        final = self.folder / _NAME.format(step)
        with (temporary / ABOUT).open("w") as file:
            json.dump(said, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(temporary)
        if final.exists():  # of a run that went on from an earlier one
            shutil.rmtree(final)
        temporary.rename(final)
        sync_directory(self.folder)
        for old in checkpoints(self.folder)[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _fail(self, step: int, error: BaseException) -> None:
        causes = getattr(error, "failures", {})
        reasons = {str(cause[0]) for cause in causes.values()} or {str(error)}
        self.failed = (
            f"the checkpoint of step {step} could not be saved in {self.folder} "
            f"({'; '.join(sorted(reasons))}); free space or mend the permissions: the earlier ones "
            "are kept"
        )
        _log.error("%s", self.failed)
        if self._place.first:
            temporary = self.folder / f"{TEMP}{_NAME.format(step)}"
            shutil.rmtree(temporary, ignore_errors=True)


def load(tensors: dict[str, Any], checkpoint: Path, place: Place) -> None:
    """Read a checkpoint into tensors that are there, in their place. All ranks call it.

    Raises:
        UserError: a tensor is missing there, or of another shape; names the first.
        RunDirectoryError: a file of it is missing or damaged.
    """
    _expect_one_process()
    stored = _stored(checkpoint)
    for name, tensor in _flat(tensors):
        size = tuple(getattr(stored.get(name), "size", ()))
        if name not in stored:
            raise UserError(
                f"{checkpoint} has no {name}: it is of another model or of other settings "
                "(ema, optimizer); give the settings that it was saved with, or another output"
            )
        if size != tuple(tensor.shape):
            raise UserError(
                f"{checkpoint} is of another shape: {name} is {size} there and "
                f"{tuple(tensor.shape)} in this model; set model as it was, or another output"
            )
    with _damage(checkpoint):
        dcp.load(
            tensors,
            storage_reader=dcp.FileSystemReader(checkpoint),
            process_group=place.saving,
            no_dist=place.saving is None,
        )


def _stored(checkpoint: Path) -> dict[str, Any]:
    """What DCP knows of each tensor, by name."""
    with _damage(checkpoint):
        found: dict[str, Any] = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return found


@contextmanager
def _damage(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointException, OSError, EOFError, pickle.UnpicklingError) as error:
        raise RunDirectoryError(
            f"{checkpoint} is damaged ({error}); remove it, and the one before it is taken"
        ) from error


def _expect_one_process() -> None:
    """DCP warns at every save and load of a single process; here that is what is wanted.

    Not only for a time: another thread saves.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _flat(tensors: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """(name as DCP has it, tensor) of nested mappings."""
    found: list[tuple[str, Any]] = []
    for key, value in tensors.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{key}.")
        else:
            found.append((f"{above}{key}", value))
    return found
