"""This process: its cores, its cache of downloads, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cache_folder() -> Path:
    """Where downloads are kept, shared between runs: $VIDCURATE_CACHE or ~/.cache/vidcurate."""
    return Path(os.environ.get("VIDCURATE_CACHE") or Path.home() / ".cache" / "vidcurate")


@contextlib.contextmanager
def stopping(stop: threading.Event, on_stop: Callable[[], None] | None = None) -> Iterator[None]:
    """While the block runs, the first Ctrl-C or SIGTERM sets `stop`, a second ends at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if on_stop is not None:
            on_stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
