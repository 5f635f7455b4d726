"""Several ways of one job by turns, as ratios to one of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure: the median with its lowest and highest; None where none was taken.

    least, most: what it is to be. note: what else was measured.
    """

    name: str
    value: float | None
    unit: str
    low: float = 0.0
    high: float = 0.0
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """True where the figure is outside of its limits."""
        return self.value is not None and not (
            (self.least is None or self.value >= self.least)
            and (self.most is None or self.value <= self.most)
        )

    @property
    def limits(self) -> str:
        """The limits in words."""
        known = (("at least", self.least), ("at most", self.most))
        said = ", ".join(f"{word} {limit:g}" for word, limit in known if limit is not None)
        return f" ({said}{': missed' if self.missed else ''})" if said else ""


@dataclass(frozen=True)
class Taken:
    """What one turn took: seconds of wall time and of CPU, and what it went through."""

    wall: float
    cpu: float
    samples: int
    bytes: int


def timed(work: Callable[[], tuple[int, int]]) -> Callable[[], Taken]:
    """A job of this process that returns its samples and bytes, with its times."""

    def run() -> Taken:
        wall, cpu = time.perf_counter(), time.process_time()
        samples, size = work()
        return Taken(time.perf_counter() - wall, time.process_time() - cpu, samples, size)

    return run


def compare(
    what: str,
    ways: Mapping[str, Callable[[], Taken]],
    *,
    base: str,
    unit: str,
    also: str,
    rounds: int,
    least: Mapping[str, float] | None = None,
) -> Iterator[Row]:
    """The speed of each way as a multiple of that of `base`, from rounds in which all take a turn.

    Args:
        ways: by name. also: the way whose multiple the notes give, too. least: limits by name.

    Raises:
        SystemExit: the ways did not go through the same samples.
    """
    for way in ways.values():
        way()  # imports, and the files' way into memory, are not counted
    turns = [{name: way() for name, way in ways.items()} for _ in range(rounds)]
    for name in ways:
        _check_same(what, base, turns[0][base], name, turns[0][name])
        ratios = [turn[base].wall / turn[name].wall for turn in turns]
        by_cpu = statistics.median(turn[base].cpu / turn[name].cpu for turn in turns)
        of_also = statistics.median(turn[also].wall / turn[name].wall for turn in turns)
        wall = statistics.median(turn[name].wall for turn in turns)
        taken = turns[0][name]
        compared = f"{of_also:.2f} x {also}, " if also != base else ""
        note = (
            f"{compared}{taken.bytes / wall / 1e6:,.0f} MB/s, "
            f"{wall / taken.samples * 1e3:.2f} ms a sample; by CPU time {by_cpu:.2f}"
        )
        yield Row(
            f"{what}: {name}",
            statistics.median(ratios),
            unit,
            min(ratios),
            max(ratios),
            least=(least or {}).get(name),
            note=note,
        )


def _check_same(what: str, base: str, first: Taken, name: str, other: Taken) -> None:
    if (first.samples, first.bytes) != (other.samples, other.bytes):
        raise SystemExit(
            f"{what}: {name} went through {other.samples} samples ({other.bytes} bytes), "
            f"{base} through {first.samples} ({first.bytes} bytes)"
        )
