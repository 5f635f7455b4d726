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

from vidcurate.cli.summary import count

if TYPE_CHECKING:
    from vidcurate.recipe.model import Recipe
    from vidcurate.run.score import ScoreResult
    from vidcurate.run.tasks import Stats

_LINE_EVERY = 10.0

# Called with a text, what is done, and what there is to do in all (None: not known yet).
_Show = Callable[[str, int, int | None], None]


@contextmanager
def scoring(
    recipe: Recipe, limit: int | None, *, counted: bool = True
) -> Iterator[Callable[[ScoreResult, Stats], None]]:
    """Show the score pass while the block runs; gives what the pass calls after each video.

    Args:
        recipe: its source is counted meanwhile, so that an ETA can be told.
        limit: of videos. counted: False where only some of the source's videos are done (retry).
    """
    counter = _Counter(recipe, limit)
    if counted:
        counter.start()
    try:
        with _shown("score") as show:

            def update(result: ScoreResult, added: Stats) -> None:
                del added
                show(*_scored(result, counter.total or (result.total if counted else None)))

            yield update
    finally:
        counter.stop()


@contextmanager
def annotating() -> Iterator[Callable[[ScoreResult, Stats], None]]:
    """Show the annotate pass while the block runs; gives what it calls as clips are done."""
    with _shown("annotate") as show:

        def update(result: ScoreResult, added: Stats) -> None:
            del added
            done, total = result.stats.clips, result.total
            text = count(done, "clip") if total is None else f"{done} of {count(total, 'clip')}"
            show(text, done, total)

        yield update


@contextmanager
def packing() -> Iterator[Callable[[str, int, int], None]]:
    """Show the pack pass while the block runs; gives what it calls after each clip with
    (selection, clips done, clips)."""
    with _shown("pack") as show:
        yield lambda selection, done, total: show(
            f"{selection}, {done} of {count(total, 'clip')}", done, total
        )


@contextmanager
def working(title: str) -> Iterator[_Show]:
    """Show other work while the block runs; gives what is called with (text, done, in all)."""
    with _shown(title) as show:
        yield show


class _Counter(threading.Thread):
    """Counts the source's videos beside the run."""

    def __init__(self, recipe: Recipe, limit: int | None) -> None:
        super().__init__(daemon=True)
        self._recipe = recipe
        self._limit = limit
        self._stopped = threading.Event()
        self.total: int | None = None

    def run(self) -> None:
        """Count to the end, or until the run is over."""
        from vidcurate.errors import UserError
        from vidcurate.intake.videos import Intake
        from vidcurate.operator.base import VideoRow

        seen = 0
        operators = self._recipe.source_operators
        if len(operators) > 1 or not operators[0].is_grouped:
            return  # how many videos there are is known when their rows are brought together
        try:
            rows = (r for r in Intake(self._recipe) if isinstance(r, VideoRow))
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


def _scored(result: ScoreResult, counted: int | None) -> tuple[str, int, int | None]:
    """What to show of the score pass. Videos that were done before count neither way."""
    stats = result.stats
    total = None if counted is None else counted - result.skipped
    # Clips that are scored again come before the source is read: then more is done than is new.
    if total is not None and total < stats.videos:
        total = None
    done = count(stats.videos, "video") if total is None else f"{stats.videos} of {total} videos"
    text = f"{done}, {count(stats.clips, 'clip')}"
    if stats.failed:
        text += f", {stats.failed} failed"
    return text, stats.videos, total


@contextmanager
def _shown(title: str) -> Iterator[_Show]:
    if sys.stderr.isatty():
        with _bar(title) as show:
            yield show
        return
    lines = _Lines(title)
    try:
        yield lines.show
    finally:  # also where the run pauses
        lines.end()


@contextmanager
def _bar(title: str) -> Iterator[_Show]:
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
        TextColumn(title),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda text, done, total: progress.update(
            task, description=text, completed=done, total=total
        )


class _Lines:
    """Plain lines: one now and then, and one at the end in any case."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = self._told = time.monotonic()
        self._text = ""

    def show(self, text: str, done: int, total: int | None) -> None:
        """Tell the text where it is the last one or some seconds have passed since a line."""
        self._text = text
        now = time.monotonic()
        if done == total:
            self.end()
        elif now - self._told >= _LINE_EVERY:
            self._told = now
            left = (total or 0) - done
            self._tell(
                f", {(now - self._began) / done * left:.0f} s left" if done and left > 0 else ""
            )

    def end(self) -> None:
        """Tell the last text, where it is not told yet. The next one is of something new."""
        if self._text:
            self._tell("")
            self._text = ""
            self._began = self._told = time.monotonic()

    def _tell(self, more: str) -> None:
        passed = time.monotonic() - self._began
        typer.echo(f"{self._title}: {self._text}, {passed:.0f} s{more}", err=True)
