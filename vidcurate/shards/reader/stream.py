"""The batches of one data set as one flat sequence, planned a window at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vidcurate.errors import UserError
from vidcurate.shards.reader.order import Order
from vidcurate.shards.reader.shapes import Rows


class Entry(NamedTuple):
    """One batch of one rank.

    source: place of its data set. epoch, window, batch: where it stands in that. rows: of its
    samples. cost: predicted. left_out, dropped: rows that no batch holds, which this one reports:
    (row, reason) of what cannot be read in this plan, and rows that `remainder: drop` drops.
    """

    source: int
    epoch: int
    window: int
    batch: int
    rows: Rows
    cost: float
    left_out: tuple[tuple[int, str], ...] = ()
    dropped: tuple[int, ...] = ()


class Position(NamedTuple):
    """After `batch` batches of a window. phase: of the window. check: the window's digest."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    phase: int = 0
    check: str = ""


@dataclass
class Stream:
    """One data set's batches in their flat sequence, read ahead by whole windows.

    at: the position after the last batch that was taken. ahead: those to come; unless endless, of
    the same epoch only.
    """

    source: int
    order: Order
    endless: bool
    at: Position = Position()
    ahead: deque[Entry] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.go_to(self.at)

    def go_to(self, at: Position) -> None:
        """Stand after a batch."""
        self.at = at
        self.ahead.clear()
        self._next = (at.epoch, at.window, at.phase)  # the window to plan
        self._skip = at.batch  # batches of it that have been taken
        self._positions: dict[tuple[int, int], Position] = {}  # where windows ahead begin
        self._left_out: list[tuple[int, str]] = []  # to be reported with the next batch
        self._dropped: list[int] = []

    def take(self, count: int) -> list[Entry]:
        """The next batches, fewer at the end of the epoch.

        Raises:
            UserError: an epoch has no batch.
        """
        self._fill(2 * count)  # the last step of an epoch reports what is left
        taken = [self.ahead.popleft() for _ in range(min(count, len(self.ahead)))]
        if taken:
            last = taken[-1]
            begin = self._positions[last.epoch, last.window]
            self.at = begin._replace(batch=last.batch + 1)
            keep = (last.epoch, last.window)
            self._positions = {k: v for k, v in self._positions.items() if k >= keep}
        return taken

    def report_dropped(self, entries: list[Entry]) -> None:
        """Report taken batches as dropped, with the next batch."""
        self._left_out += [left for entry in entries for left in entry.left_out]
        self._dropped += [row for entry in entries for row in entry.dropped]
        self._dropped += [row for entry in entries for row in entry.rows.tolist()]

    def next_epoch(self) -> None:
        """Stand at the beginning of the next epoch, and of a run there."""
        left_out, dropped = self._left_out, self._dropped
        self.go_to(Position(self.at.epoch + 1))
        self._left_out, self._dropped = left_out, dropped

    def _fill(self, count: int) -> None:
        began = self._next[:2] == (self.at.epoch, 0) and self.at.batch == 0
        empty = 0
        while len(self.ahead) < count and (self.endless or self._next[1] < self.order.windows):
            empty = 0 if self._plan_window() else empty + 1
            if empty == self.order.windows:
                break
        if not self.ahead and (began or empty):
            self._refuse_empty()
        if self.ahead and (self._left_out or self._dropped) and not self.endless:
            self.ahead[-1] = with_report(self.ahead[-1], self._left_out, self._dropped)
            self._left_out, self._dropped = [], []

    def _plan_window(self) -> bool:
        """Add the next window's batches; False where it has none."""
        epoch, index, phase = self._next
        if index == self.order.windows:
            epoch, index = epoch + 1, 0
        window = self.order.window(epoch, index, phase)
        self._positions[epoch, index] = Position(epoch, index, 0, phase, window.digest)
        entries = [
            Entry(self.source, epoch, index, place, rows, cost)
            for place, (rows, cost) in enumerate(
                zip(window.batches, window.cost.tolist(), strict=True)
            )
        ]
        if not self._skip:
            self._left_out += window.left_out
            self._dropped += window.dropped.tolist()
        entries = entries[self._skip :]
        self._skip = 0
        if entries:
            entries[0] = with_report(entries[0], self._left_out, self._dropped)
            self._left_out, self._dropped = [], []
        self.ahead.extend(entries)
        phase = (phase + len(window.batches)) % self.order.plan.neighbours
        self._next = (epoch, index + 1, phase)
        return bool(window.batches)

    def _refuse_empty(self) -> None:
        reasons = sorted({reason for _, reason in self._left_out})[:3]
        raise UserError(
            f"data set {self.source} gives no batch in a whole epoch: "
            + (
                "; ".join(reasons)
                or "all batches would be incomplete, and the remainder is dropped"
            )
        )

    # ------------------------------------------------------------------ comparing

    def compare(self, digest: str, settings: Mapping[str, Any]) -> None:
        """Refuse a state of another index or of other settings.

        Raises:
            UserError: says which, and both values.
        """
        if digest != self.order.table.digest:
            raise UserError(
                f"data set {self.source}: the reader's state is of the index {digest}, and this is "
                f"{self.order.table.digest} (its samples or shards have changed); read the index "
                "that it was saved with, or begin without the state"
            )
        ours = self.order.settings
        for name in sorted({*ours, *settings}):
            then, now = settings.get(name), ours.get(name)
            if then != now:
                raise UserError(
                    f"data set {self.source}: the reader's state was saved with {name} {then!r}, "
                    f"now it is {now!r}; set it as it was, or begin without the state"
                )

    def compare_window(self, at: Position) -> None:
        """Refuse a position that is none, or whose window has other batches now.

        Raises:
            UserError: says which.
        """
        numbers = (at.epoch, at.window, at.batch, at.phase)
        whole = all(isinstance(n, int) and n >= 0 for n in numbers)
        if not whole or at.window >= self.order.windows or (at.batch and not at.check):
            raise UserError(
                f"data set {self.source}: the reader's state is damaged (position {numbers}); load "
                "an earlier one, or begin without"
            )
        if not at.check:
            return
        window = self.order.window(at.epoch, at.window, at.phase)
        if window.digest != at.check or at.batch > len(window.batches):
            raise UserError(
                f"data set {self.source}: window {at.window} of epoch {at.epoch} had the batches "
                f"{at.check} when the state was saved, and now has {window.digest}; the cost or "
                "token function or the limits of native samples have changed: use the former "
                "ones, or begin without the state"
            )


def with_report(entry: Entry, left_out: Sequence[tuple[int, str]], dropped: Sequence[int]) -> Entry:
    """An entry that reports more."""
    return entry._replace(left_out=(*entry.left_out, *left_out), dropped=(*entry.dropped, *dropped))
