"""Live progress of a run: a bar with ETA in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vidcurate.recipe.model import Recipe
    from vidcurate.run.score import ScoreResult
    from vidcurate.run.worker import Stats

_LINE_EVERY = 10.0


@contextmanager
def scoring(recipe: Recipe, limit: int | None) -> Iterator[Callable[[ScoreResult, Stats], None]]:
    """Show the score pass while the block runs; gives what the pass calls after each video."""
    counter = _Counter(recipe, limit)
    counter.start()
    if sys.stderr.isatty():
        with _bar(counter) as update:
            yield update
    else:
        yield _lines(counter)
    counter.stop()


class _Counter(threading.Thread):
    """Counts the source's videos beside the run, so that an ETA can be told."""

    def __init__(self, recipe: Recipe, limit: int | None) -> None:
        super().__init__(daemon=True)
        self._recipe = recipe
        self._limit = limit
        self._stopped = threading.Event()
        self.total: int | None = None

    def run(self) -> None:
        """Count to the end, or until the run is over."""
        from vidcurate.errors import UserError
        from vidcurate.operator.base import VideoRow

        seen = 0
        try:
            rows = (r for r in self._recipe.source_operator.videos() if isinstance(r, VideoRow))
            for _ in islice(rows, self._limit):
                seen += 1
                if self._stopped.is_set():
                    return
        except UserError:
            return  # the run itself tells of it
        self.total = seen

    def stop(self) -> None:
        """Count no further."""
        self._stopped.set()


def _summary(result: ScoreResult, counter: _Counter) -> str:
    stats = result.stats
    done = stats.videos + result.skipped
    of = f" of {counter.total}" if counter.total else ""
    text = f"{done}{of} videos, {stats.clips} clips"
    if stats.failed:
        text += f", {stats.failed} failed"
    return text


@contextmanager
def _bar(counter: _Counter) -> Iterator[Callable[[ScoreResult, Stats], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("score"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def update(result: ScoreResult, added: Stats) -> None:
            del added
            progress.update(
                task,
                total=counter.total,
                completed=result.stats.videos + result.skipped,
                description=_summary(result, counter),
            )

        yield update


def _lines(counter: _Counter) -> Callable[[ScoreResult, Stats], None]:
    began = last = time.monotonic()

    def update(result: ScoreResult, added: Stats) -> None:
        nonlocal last
        del added
        now = time.monotonic()
        if now - last < _LINE_EVERY:
            return
        last = now
        done = result.stats.videos
        left = (counter.total or 0) - result.skipped - done
        eta = f", {(now - began) / done * left:.0f} s left" if done and left > 0 else ""
        typer.echo(f"score: {_summary(result, counter)}, {now - began:.0f} s{eta}", err=True)

    return update
