"""How far the workers of torch's DataLoader are, who share no memory with each other but this."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any

from vidcurate.errors import UserError

_MOST = 256  # workers
_BEGUN, _LOADS, _FIRST = 0, 1, 2
_log = logging.getLogger("vidcurate.shards")


class Passes:
    """Numbers that one process and the DataLoader workers that it starts see alike.

    A worker knows of what it reads itself alone, and the process that made the data set of nothing.
    So that a loop over a DataLoader gives epoch after epoch, each worker notes here which epoch it
    has read to its end; the next pass begins with the first one that some worker has not. As its
    own note holds each worker in the pass until it has ended it, one that starts late goes along
    with those that are done already. Notes of passes of another number of workers stand apart.

    Without locks, which a killed worker would hold for ever. A pickle made for a process that
    multiprocessing starts refers to the same numbers; any other one begins with its own.
    """

    def __init__(self) -> None:
        self._numbers: Any = RawArray("q", _FIRST + _MOST * (_MOST + 1) // 2)
        self._loads = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if get_spawning_popen() is not None else {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state:
            self.__dict__.update(state)
        else:
            self.__init__()  # type: ignore[misc]

    @property
    def is_used(self) -> bool:
        """A DataLoader's worker has read since the last `reset`."""
        return bool(self._numbers[_BEGUN])

    def reset(self) -> None:
        """Forget all notes: the data set stands somewhere else now."""
        self._loads = self._numbers[_LOADS] + 1
        self._numbers[:] = [0, self._loads, *[0] * (len(self._numbers) - _FIRST)]

    def begin(self, worker: int, workers: int) -> int:
        """In a worker that begins a pass: the epochs that were read to their end, 0 of none.

        Raises:
            UserError: there are too many workers, or they live since before the last `reset`.
        """
        if workers > _MOST:
            raise UserError(f"a DataLoader of {workers} workers; use {_MOST} at most")
        if self._loads != self._numbers[_LOADS]:
            raise UserError(
                "load_state_dict: the workers of this DataLoader live on (persistent_workers) and "
                "cannot see it; make a new DataLoader after it"
            )
        ended = max(min(self._notes(number)) for number in range(1, _MOST + 1))
        if worker == 0:
            if self._numbers[_BEGUN] == ended + 1:
                _log.warning(
                    "the last pass over this DataLoader was broken off, and begins again: to go "
                    "on after a batch, load_state_dict its `state`, and make a new DataLoader"
                )
            self._numbers[_BEGUN] = ended + 1
        return ended

    def end(self, worker: int, workers: int, ended: int) -> None:
        """In a worker that has no more to read of a pass. ended: the epoch to come."""
        self._numbers[_first(workers) + worker] = ended

    def _notes(self, workers: int) -> Sequence[int]:
        first = _first(workers)
        found: Sequence[int] = self._numbers[first : first + workers]
        return found


def _first(workers: int) -> int:
    """Where the notes of so many workers stand."""
    return _FIRST + workers * (workers - 1) // 2
