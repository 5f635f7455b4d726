"""`--fresh`: what a training itself wrote into its output is removed, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from vidcurate.durable import TEMP
from vidcurate.errors import StorageError, UserError
from vidcurate.lock import LOCK
from vidcurate.train.checkpoint import checkpoints
from vidcurate.train.metrics import read

_FILES = ("metrics.jsonl", "losses.svg", "summary.json")
_FOLDERS = ("tensorboard", "samples", "checkpoints")


def refuse_others(output: Path) -> None:
    """Nothing, where the folder is empty, or holds a training.

    Raises:
        UserError: it holds other things.
    """
    if not output.is_dir() or all(path.name == LOCK for path in output.iterdir()):
        return
    if not _is_training(output):
        raise UserError(
            f"--fresh: {output} is not a training's output: it has no checkpoint and no "
            "metrics.jsonl of one; give another output, or empty the folder yourself"
        )


def forget(output: Path, show: Callable[[str], None]) -> None:
    """Remove a training's checkpoints, metrics and samples, after saying which.

    What else is in the folder stays. Where there is nothing yet, nothing is done.

    Raises:
        StorageError: something cannot be removed.
    """
    own = _own(output)
    if not own:
        return
    names = ", ".join(path.relative_to(output).as_posix() for path in own)
    show(f"--fresh removes from {output}: {names}")
    try:
        for path in own:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name in _FOLDERS:
            if (output / name).is_dir() and not any((output / name).iterdir()):
                (output / name).rmdir()
    except OSError as error:
        raise StorageError(f"--fresh: {error.filename} cannot be removed ({error})") from error


def _is_training(output: Path) -> bool:
    if checkpoints(output / "checkpoints"):
        return True
    metrics = output / "metrics.jsonl"
    if not metrics.is_file():
        return False
    return all(isinstance(line, dict) and "step" in line for line in read(metrics))


def _own(output: Path) -> list[Path]:
    """The checkpoints last: as long as one is there, a kill in between leaves a training's."""
    own = [output / name for name in _FILES if (output / name).is_file()]
    own += sorted((output / "tensorboard").glob("events.out.tfevents.*"))
    own += sorted((output / "samples").glob("step-*"))
    own += sorted((output / "checkpoints").glob(f"{TEMP}step-*"))
    return [*own, *checkpoints(output / "checkpoints")]
