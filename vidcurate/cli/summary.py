"""What a run came to, as lines of text: the table at the end of `vidcurate run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidcurate.run.accounts import Account
    from vidcurate.run.group import GroupReport
    from vidcurate.select import SelectReport
    from vidcurate.shards.pack import PackReport

_WIDEST = 60
_VIDEO_STATES = {"failed": "failed", "partial": "partly failed", "no_clips": "without clips"}

Row = Sequence[object]


def aligned(rows: Sequence[Row]) -> Iterator[str]:
    """Rows as lines: the first column to the left, the others to the right; () is a blank line."""
    count = max(map(len, rows), default=0)
    widths = [max((len(str(r[i])) for r in rows if len(r) > i), default=0) for i in range(count)]
    for row in rows:
        cells = [
            str(cell).ljust(widths[i]) if i == 0 else str(cell).rjust(max(widths[i], 6))
            for i, cell in enumerate(row)
        ]
        yield "  ".join(cells).rstrip()


def scored(counts: Mapping[str, Any]) -> list[Row]:
    """Rows on videos and clips; `counts` are of `tables.summary`."""
    videos = counts["videos"]
    rows: list[Row] = [("videos", sum(videos.values()))]
    rows += [(f"  {word}", videos[s]) for s, word in _VIDEO_STATES.items() if videos.get(s)]
    rows.append(("clips", sum(counts["clips"].values())))
    return rows


def datasets(accounts: Sequence[Account]) -> list[Row]:
    """Rows on what became of the clips that the metadata names, a column for each source."""
    rows: list[Row] = [("", *(a.source for a in accounts)), ()] if len(accounts) > 1 else []
    if any(a.faults for a in accounts):
        rows.append(("rows that cannot be used", *(a.faults for a in accounts)))
    rows.append(("clips that the metadata names", *(_or_dash(a.named) for a in accounts)))
    for word, counts in (
        ("left out by where", [a.filtered for a in accounts]),
        ("left out by exclude", [a.excluded for a in accounts]),
        ("in an earlier dataset, too", [a.shared for a in accounts]),
    ):
        if any(counts):
            rows.append((f"  {word}", *counts))
    rows.append(("expected", *(a.expected for a in accounts)))
    rows.append(("obtained", *(a.obtained for a in accounts)))
    rows.append(("lost", *(sum(a.lost.values()) for a in accounts)))
    for reason in dict.fromkeys(r for a in accounts for r in a.lost):
        rows.append((f"  {reason}", *(a.lost.get(reason, 0) for a in accounts)))
    return rows


def _or_dash(n: int | None) -> int | str:
    return "-" if n is None else n


def speed(totals: Mapping[str, Any]) -> list[Row]:
    """A row on what scoring cost, set off; `totals` are of all score passes so far."""
    if not totals.get("cpu_s"):
        return []
    rate = totals["video_s"] / totals["cpu_s"]
    rows: list[Row] = [(), ("seconds of video per CPU second", f"{rate:.1f}")]
    busy = sum(step.get("model_seconds", 0.0) for step in totals.get("steps", {}).values())
    if busy:
        share = f"{busy:.1f} of {totals['wall_s']:.1f} s"
        rows.append(("models at work", share))
    return rows


def memory(totals: Mapping[str, Any]) -> Iterator[str]:
    """A line for each step whose batches had to be made smaller; `totals` as of `speed`."""
    for name, step in totals.get("steps", {}).items():
        if step.get("largest"):
            yield (
                f"{name}: memory ran out, so its batches were halved down to {step['largest']}; "
                f"batch_size: {step['largest']} on the step spares the tries"
            )


def grouped(report: GroupReport) -> list[Row]:
    """Rows on what the group steps found, a column for each."""
    steps = list(report.steps.values())
    rows: list[Row] = [("", *report.steps)]
    rows.append(("clips", *(s.clips for s in steps)))
    rows.append(("  new", *(s.new for s in steps)))
    rows.append(("groups", *(_or_dash(s.groups) for s in steps)))
    rows.append(("dropped by select", *(s.dropped for s in steps)))
    return rows


def selected(reports: Mapping[str, SelectReport]) -> list[Row]:
    """Rows on the fates of clips, a column for each selection."""
    chosen = list(reports.values())
    rows: list[Row] = [("", *reports)] if list(reports) != ["default"] else []
    rows.append(("kept", *(r.kept for r in chosen)))
    rows.append(("  minutes", *(f"{r.hours * 60:.1f}" for r in chosen)))
    rows.append(("dropped", *(sum(r.dropped.values()) for r in chosen)))
    for by, why in dict.fromkeys(key for r in chosen for key in r.dropped):
        rows.append((f"  {_reason(by, why)}", *(r.dropped.get((by, why), 0) for r in chosen)))
    rows.append(("failed", *(r.failed for r in chosen)))
    if any(r.unjudged for r in chosen):
        rows.append(("unjudged", *(r.unjudged for r in chosen)))
    return rows


def packed(reports: Mapping[str, PackReport]) -> Iterator[str]:
    """A line for each selection that was packed, and what is to be said of it."""
    width = max((len(str(r.folder)) for r in reports.values()), default=0)
    for i, report in enumerate(reports.values()):
        parts = [f"{count(report.samples, 'sample')} in {count(report.shards, 'shard')}"]
        if report.removed or 0 < report.added < report.samples:  # it was packed before
            parts[0] += f" ({report.added} added, {report.removed} removed)"
        elif not report.added:
            parts[0] += " (no clip came or left)"
        if report.no_bucket:
            parts.append(f"{count(len(report.no_bucket), 'clip')} without a bucket left out")
        if report.failures:
            parts.append(f"{count(len(report.failures), 'clip')} could not be cut")
        head = "shards" if i == 0 else ""
        yield f"{head:6}  {str(report.folder).ljust(width)}  {', '.join(parts)}"
        for note in report.notes:
            yield f"{'':8}{note}"


def hints(
    out: Path, counts: Mapping[str, Any], reports: Mapping[str, SelectReport]
) -> Iterator[str]:
    """What the user may want to do next, where something needs a look; a blank line before."""
    found = list(_hints(out, counts, reports))
    yield from ["", *found] if found else []


def _hints(
    out: Path, counts: Mapping[str, Any], reports: Mapping[str, SelectReport]
) -> Iterator[str]:
    faults: Counter[str] = Counter()
    for row in counts["quarantine"]:
        faults[row["error"]] += row["count"]
    if faults:
        kinds = ", ".join(f"{n} {error}" for error, n in faults.most_common())
        yield f"{faults.total()} in the quarantine ({kinds}): vidcurate status {out}"
    if any(r.unjudged for r in reports.values()):
        yield f"unjudged clips lack a score that a threshold needs: vidcurate run {out}"
    elif any(r.clips for r in reports.values()) and not any(r.kept for r in reports.values()):
        if all(r.failed == r.clips for r in reports.values()):
            yield f"nothing was kept, as every clip failed: vidcurate retry {out}"
            return
        yield (
            "nothing was kept: see the histograms in the report, and try other thresholds with "
            f"vidcurate select {out} --set score.STEP.COLUMN.min=VALUE"
        )


def count(n: int, noun: str) -> str:
    """ "1 clip", "2 clips"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _reason(by: str, why: str) -> str:
    text = why if why.removeprefix("not ").startswith(by) else f"{by}: {why}"
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
