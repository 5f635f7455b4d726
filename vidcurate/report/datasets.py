"""The report's section on datasets: what became of the clips that each source names."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from vidcurate.report import charts, format
from vidcurate.run.accounts import Account, accounts, has_datasets
from vidcurate.run.record import RunRecord
from vidcurate.run.tables import Run


@dataclass(frozen=True)
class Part:
    """Clips of one source that came to one end. css: class of its colour."""

    title: str
    clips: int
    css: str


@dataclass(frozen=True)
class Dataset:
    """One source step with what its clips came to, in the order of its bar."""

    account: Account
    parts: tuple[Part, ...]

    @property
    def bar(self) -> Markup:
        """All parts, as shares of what the metadata names."""
        whole = sum(part.clips for part in self.parts) or 1
        it = self.account
        return charts.bar(
            [(p.clips / whole, p.css, f"{p.title}: {format.count(p.clips)}") for p in self.parts],
            f"{it.source}: {it.obtained} of {it.expected} expected clips are obtained",
        )


def datasets(run: Run, record: RunRecord | None) -> list[Dataset]:
    """The sources of a run, in the recipe's order; none where they are plain folders."""
    if record is None or not has_datasets(record.recipe):
        return []
    return [Dataset(it, tuple(_parts(it))) for it in accounts(run, record.passes)]


def _parts(it: Account) -> list[Part]:
    reasons = sorted(it.lost.items(), key=lambda pair: -pair[1])
    parts = [
        Part("obtained", it.obtained, "pass"),
        *[
            Part(reason, clips, "broken shade2" if place % 2 else "broken")
            for place, (reason, clips) in enumerate(reasons)
        ],
        Part("left out by where", it.filtered, "fail"),
        Part("left out by exclude", it.excluded, "fail shade1"),
        Part("in an earlier dataset, too", it.shared, "open"),
    ]
    return [part for part in parts if part.clips]
