"""A supervised child process: a crash, a hang or a memory hog in it costs one job.

The parent sends one job at a time, (module:function, payload). The function is a generator;
each value that it yields travels back, and `None` is a sign of life only. While it works, the
function may put questions to its parent with `ask`, and say things with `tell`. Both ends are ours
and speak pickle over a private socket pair; no data from outside is ever unpickled.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

import psutil

from vidcurate.errors import (
    DataError,
    UserError,
    VidcurateError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from vidcurate.recipe.model import Limits

_POLL = 0.5
_BEAT = 1.0


class Child:
    """One child process, started on first use and again after it had to be killed.

    Args:
        limits: time, stall and memory bounds of one job.
        stop: when set, the job at hand is given up.
        environment: variables that it is given besides those of this process.
        what: it is, for messages.
    """

    def __init__(
        self,
        limits: Limits,
        stop: threading.Event | None = None,
        environment: Mapping[str, str] | None = None,
        what: str = "the decode process",
    ) -> None:
        self.limits = limits
        self._stop = stop or threading.Event()
        self._environment = dict(environment or {})
        self._what = what
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._spent = 0.0  # CPU seconds of children that are no more

    def run(
        self, target: str, payload: Any, answer: Callable[[Any], Any] | None = None
    ) -> Iterator[Any]:
        """Run the generator function `target` ("module:function") on `payload` in the child.

        Args:
            answer: gives the answers to what the function asks; the time that it takes does not
                count. What it raises ends the job.

        Yields:
            what the function yields, in order, without its `None`s; no more once `stop` is set.

        Raises:
            WorkerCrashError, WorkerTimeoutError, WorkerMemoryError: the child died or was killed.
            VidcurateError, Exception: what the function raised, as it was.
        """
        link = self._start()
        finished = False
        began = heard = time.monotonic()
        try:
            try:
                link.send((target, payload, answer is not None))
            except OSError as error:
                raise self._crash() from error
            while not self._stop.is_set():
                if not link.poll(_POLL):
                    self._check(began, heard)
                    continue
                try:
                    kind, value = link.recv()
                except (EOFError, OSError) as error:
                    raise self._crash() from error
                heard = time.monotonic()
                if kind == "done":
                    finished = True
                    return
                if kind == "error":
                    finished = True
                    raise value
                if kind == "ask":
                    assert answer is not None
                    reply = answer(value)
                    began += time.monotonic() - heard
                    heard = time.monotonic()
                    try:
                        link.send(reply)
                    except OSError as error:
                        raise self._crash() from error
                    continue
                self._check(began, heard)
                if value is not None:
                    yield value
        finally:
            if not finished:  # killed, crashed, or the caller lost interest: state is unknown
                self.close()

    def close(self) -> None:
        """End the child at once, and what it has started. The next `run` starts another."""
        if self._process is not None:
            self._spent += self._living_seconds()
            with contextlib.suppress(ProcessLookupError):  # its group: it leads a session
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._link is not None:  # not before: a child that waits for an answer would complain
            self._link.close()
            self._link = None

    def cpu_seconds(self) -> float:
        """CPU time that the children have used so far, the one that lives and those before it."""
        return self._spent + self._living_seconds()

    def _living_seconds(self) -> float:
        if self._process is None or self._process.returncode is not None:
            return 0.0
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def _start(self) -> Connection:
        if self._link is not None and self._process is not None and self._process.poll() is None:
            return self._link
        self.close()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vidcurate.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,  # what a library prints is no part of a command's output
                env={**os.environ, **self._environment},
                # Ctrl-C goes to the parent, which decides what is drained.
                start_new_session=True,
            )
            self._link = Connection(os.dup(ours.fileno()))
        return self._link

    def _check(self, began: float, heard: float) -> None:
        now = time.monotonic()
        if now - began > self.limits.time:
            raise WorkerTimeoutError(
                f"took longer than limits.time ({self.limits.time:g} s) and was stopped"
            )
        if now - heard > self.limits.stall:
            raise WorkerTimeoutError(
                f"made no progress for limits.stall ({self.limits.stall:g} s) and was stopped"
            )
        assert self._process is not None
        try:
            resident = psutil.Process(self._process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return  # its end shows on the link
        if resident > self.limits.memory:
            raise WorkerMemoryError(
                f"used {resident / 2**20:.0f} MiB, more than limits.memory "
                f"({self.limits.memory / 2**20:.0f} MiB), and was stopped"
            )

    def _crash(self) -> WorkerCrashError:
        assert self._process is not None
        self._spent += self._living_seconds()  # a dead child still tells, until it is waited for
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return WorkerCrashError(f"{self._what} closed its link but did not end")
        if code < 0:
            # Nobody kills itself so: it was the kernel, out of memory, or a person.
            outside = -code == signal.SIGKILL
            name = signal.Signals(-code).name
            return WorkerCrashError(f"{self._what} died of {name}", transient=outside)
        return WorkerCrashError(f"{self._what} ended with status {code}")


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the closed link ends it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


_parent: Connection | None = None
"""In a child whose parent answers: the link to it."""


def ask(question: Any) -> Any:
    """The parent's answer to the job that runs in this child; only where `can_ask`."""
    assert _parent is not None
    _parent.send(("ask", question))
    return _parent.recv()


def tell(value: Any) -> None:
    """Give the parent a value ahead of what the job yields; only where `can_ask`."""
    assert _parent is not None
    _parent.send(("value", value))


def can_ask() -> bool:
    """True in a child whose parent answers questions."""
    return _parent is not None


def _serve(link: Connection) -> None:
    global _parent  # noqa: PLW0603 (a process has one parent)
    last = 0.0
    while True:
        try:
            target, payload, answers = link.recv()
        except EOFError:
            return
        _parent = link if answers else None
        module, _, function = target.partition(":")
        try:
            for value in getattr(importlib.import_module(module), function)(payload):
                now = time.monotonic()
                if value is not None or now - last > _BEAT:
                    link.send(("value", value))
                    last = now
        except Exception as error:  # noqa: BLE001 (the runner's edge in the child: the parent decides)
            link.send(("error", _portable(error)))
        else:
            link.send(("done", None))


def _portable(error: Exception) -> VidcurateError:
    """An error as one that surely travels: its class may be a library's or a user's own."""
    import pickle
    import traceback

    if isinstance(error, VidcurateError):
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
        except Exception:  # noqa: BLE001 (whatever its class does)
            plain = UserError if isinstance(error, UserError) else DataError
            return plain(f"{type(error).__name__}: {error}")
        return error
    text = "".join(traceback.format_exception(error)[-3:])
    return DataError(f"{type(error).__name__}: {error}\n{text}")


if __name__ == "__main__":
    _die_with_parent()
    # This file runs as __main__: jobs that import it must find the same link.
    importlib.import_module("vidcurate.child")._serve(Connection(int(sys.argv[1])))
