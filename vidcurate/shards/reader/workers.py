"""Reading batches in supervised processes: in order, ahead of the caller, and never for ever.

A process that dies or hangs is started anew. What it was at is tried once more; a sample that ends
a process twice leaves a slot of weight 0, and the rest of its batch is read without it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import cv2

from vidcurate.child import Child, ask, tell
from vidcurate.errors import (
    DataError,
    UserError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from vidcurate.recipe.model import Limits
from vidcurate.shards.reader.batch import Batch
from vidcurate.shards.reader.reading import ReadSpec, ReadTask, read_batch
from vidcurate.shards.reader.shared import Shared, mapped, share, stacked

_TARGET = "vidcurate.shards.reader.workers:serve"
_DEATHS = (WorkerCrashError, WorkerTimeoutError, WorkerMemoryError)
_ATTEMPTS = 2  # of a slot that ends its process
_STARTS = 3  # of a process that ends before it is at any slot
_SLOW_START = 120.0  # seconds more for a process to begin with: it imports torch
_FOR_EVER = 1e12  # seconds: a worker lives as long as its reader
_POLL = 0.2
_ROUNDS = 3  # of reads of a remote store, one after the other, for the samples read together


class Workers:
    """Processes that read batches ahead, given back in the order asked.

    Args:
        spec: what to read, and how. count: processes. ahead: batches that each may be ahead by.
        stall: seconds that one sample may take, besides the reads of a remote store, which have a
            timeout of their own. memory: resident bytes of one process.

    Raises:
        UserError: a part of `spec` cannot travel to another process.
    """

    def __init__(
        self, spec: ReadSpec, *, count: int, ahead: int, stall: float, memory: int
    ) -> None:
        try:
            self._spec = cloudpickle.dumps(spec)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise UserError(
                f"transform, captions or storage options cannot be sent to workers ({error}); "
                "use functions and plain values, or workers=0"
            ) from error
        stall += _ROUNDS * max(source.store.patience for source in spec.sources)
        self._limits = Limits(time=_FOR_EVER, stall=stall, memory=memory)
        self._count, self._room = count, count * ahead

    def read(self, tasks: Iterator[ReadTask]) -> Iterator[Batch]:
        """The batches of the tasks, in order. Closing it ends the processes, as does the program.

        Raises:
            UserError: it is read in a fork of the process that began it.
            DataError: a sample cannot be read and the spec says stop, or workers do not start.
            VidcurateError: what reading raised in a worker, as it was.
        """
        desk = _Desk(tasks, self._room)
        stop = threading.Event()
        owner = os.getpid()
        environment = {
            "OMP_NUM_THREADS": "1",  # there is a process a core
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),  # of what the spec uses
        }
        children = [
            Child(self._limits, stop, environment, what="a reader's worker")
            for _ in range(self._count)
        ]
        threads = [
            threading.Thread(target=self._drive, args=(child, desk), daemon=True)
            for child in children
        ]

        def end() -> None:
            atexit.unregister(end)
            if os.getpid() != owner:
                return  # a fork has neither the threads nor a right to the processes
            stop.set()
            desk.close()
            for thread in threads:
                thread.join()
            for child in children:
                child.close()

        # Before the interpreter ends threads and takes modules apart; a `finally` comes after.
        atexit.register(end)
        try:
            for thread in threads:
                thread.start()
            for batch in desk.results():
                yield batch
                if os.getpid() != owner:
                    raise UserError(
                        "a fork cannot read on where its parent has begun; iterate anew in it"
                    )
        finally:
            if not stop.is_set():
                end()

    def _drive(self, child: Child, desk: _Desk) -> None:
        """Keep one process at work until there is no more to do."""
        starts = 0
        while True:
            held = _Held()

            def hand_out(_: Any, held: _Held = held) -> ReadTask | None:
                held.number, held.task = desk.take()
                held.slot = -1
                return held.task

            child.limits = self._limits.model_copy(
                update={"stall": self._limits.stall + _SLOW_START}
            )
            try:
                for said in child.run(_TARGET, self._spec, hand_out):
                    child.limits = self._limits
                    starts = 0
                    if isinstance(said, _At):
                        held.slot = said.slot
                        continue
                    desk.put(held.number, said.batch())
                    held.task = None
                return
            except _DEATHS as error:
                starts += 1
                if held.slot < 0 and starts >= _STARTS:
                    desk.fail(error)
                    return
                if held.task is not None:
                    desk.again(held, error)
            except Exception as error:  # noqa: BLE001 (the edge of a thread: the caller gets it)
                desk.fail(error)
                return


class _Held:
    """What one worker is at."""

    number = -1
    slot = -1
    task: ReadTask | None = None


class _Desk:
    """Where workers take tasks and lay down batches, and the caller takes these in order."""

    def __init__(self, tasks: Iterator[ReadTask], room: int) -> None:
        self._tasks = enumerate(tasks)
        self._room = room
        self._lock = threading.Condition()
        self._returned: deque[tuple[int, ReadTask]] = deque()
        self._deaths: Counter[tuple[int, int]] = Counter()  # by task and slot
        self._done: dict[int, Batch] = {}
        self._issued = self._given = 0  # tasks that workers took, batches that the caller has
        self._exhausted = self._closed = False
        self._error: Exception | None = None

    def take(self) -> tuple[int, ReadTask | None]:
        """The next task, once there is room; None when there is nothing more to do."""
        with self._lock:
            while not self._closed and self._error is None:
                if self._returned:
                    return self._returned.popleft()
                if not self._exhausted and self._issued < self._given + self._room:
                    number, task = next(self._tasks, (-1, None))
                    if task is not None:
                        self._issued += 1
                        return number, task
                    self._exhausted = True
                if self._exhausted and self._given + len(self._done) == self._issued:
                    break
                self._lock.wait(_POLL)
            self._lock.notify_all()
        return -1, None

    def again(self, held: _Held, error: DataError) -> None:
        """Give a task back; without the slot that ended its process too often."""
        task, place = held.task, (held.number, held.slot)
        assert task is not None
        with self._lock:
            self._deaths[place] += 1
            if held.slot >= 0 and self._deaths[place] >= _ATTEMPTS:
                task = replace(task, crashed={**task.crashed, held.slot: str(error)})
            self._returned.append((held.number, task))
            self._lock.notify_all()

    def put(self, number: int, batch: Batch) -> None:
        """Lay down a batch."""
        with self._lock:
            self._done[number] = batch
            self._lock.notify_all()

    def fail(self, error: Exception) -> None:
        """End it all with an error, which the caller gets."""
        with self._lock:
            self._error = self._error or error
            self._lock.notify_all()

    def close(self) -> None:
        """There is nothing more to do."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def results(self) -> Iterator[Batch]:
        """The batches in order; raises what `fail` was given."""
        while True:
            with self._lock:
                while self._given not in self._done:
                    if self._error is not None:
                        raise self._error
                    if self._exhausted and self._given == self._issued:
                        return
                    self._lock.wait(_POLL)
                batch = self._done.pop(self._given)
                self._given += 1
                self._lock.notify_all()
            yield batch


# -------------------------------------------------------------------- messages of a worker


@dataclass(frozen=True)
class _At:
    """Which slot of its batch a worker begins to read."""

    slot: int


@dataclass(frozen=True)
class _Read:
    """A batch; its video apart where it is shared."""

    rest: Batch
    video: Shared | None

    def batch(self) -> Batch:
        """The whole batch, in the receiving process."""
        if self.video is not None:
            self.rest.video = mapped(self.video)
        elif self.rest.video is not None:
            self.rest.video = stacked(self.rest.video)
        return self.rest


def serve(blob: bytes) -> Iterator[_Read]:
    """Read what the parent hands out, until there is no more; runs in a worker."""
    spec: ReadSpec = pickle.loads(blob)  # noqa: S301 (our own parent's)
    cv2.setNumThreads(1)
    if spec.transform is not None:
        import torch  # noqa: F401 (before the first sample is timed)
    handle: int | None = None
    while (task := ask(None)) is not None:
        if handle is not None:
            os.close(handle)  # the parent has mapped it before it answered
        batch = read_batch(spec, task, lambda slot: tell(_At(slot)))
        video = share(batch.video) if batch.video else None
        handle = video.handle if video is not None else None
        if video is not None:
            batch.video = None
        yield _Read(batch, video)
