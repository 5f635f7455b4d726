"""How much CPU and memory vidcurate takes, against what the same machine takes without it.

    python tools/benchmark.py [--quick] [--json FILE] [--readme README.md]

All figures are ratios within one run: A and B take turns about every second of video (A B A B),
and the median of several such runs counts, with the lowest and highest. CPU time of one process,
one decoder thread on both sides; OpenCV has one thread as well. What else the machine does slows
both alike. Prints a Markdown table; exits 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import av
import benchmark_footage as footage
import benchmark_work as work
import cv2
import fetch_footage
from benchmark_footage import Size

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
_GIB = 2**30
_NEAR = 3  # frames: the fast profile skips up to 3 in a row, so a cut may be seen that late


@dataclass(frozen=True)
class Effort:
    """How much is measured. `large` and `small`: size and seconds of the real footage.

    pairs: how often each is measured. scenes: of the made video with known cuts. clips: from
    when to when those that are cut out last. long: seconds of the video without cuts; 0 leaves
    that row out.
    """

    small: tuple[Size, float] = ((1280, 720), 48)
    large: tuple[Size, float] = ((1920, 1080), 40)
    pairs: int = 5
    scenes: int = 40
    scene_size: Size = (640, 360)
    clips: tuple[work.Span, ...] = ((2.2, 8.2), (12.6, 16.6))
    long: float = 7200


FULL = Effort()
QUICK = Effort(((1280, 720), 20), ((1920, 1080), 16), 2, 10, clips=((2.2, 5.2),), long=0)


@dataclass(frozen=True)
class Row:
    """One measured figure: a median with its lowest and highest, and what it may be at most."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    limit: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """True where the figure is past its limit."""
        return self.limit is not None and self.value > self.limit


def compare(
    name: str, a: work.Task, b: work.Task, pairs: int, *, unit: str, limit: float | None = None
) -> Row:
    """CPU time of b over that of a."""
    turns(a, b)  # imports and the file's way into memory are not counted
    pairs_taken = [turns(a, b) for _ in range(pairs)]
    ratios = [of_b / of_a for of_a, of_b in pairs_taken]
    return Row(name, statistics.median(ratios), unit, min(ratios), max(ratios), limit)


def turns(a: work.Task, b: work.Task) -> tuple[float, float]:
    """Do both once, by turns from pause to pause; the CPU seconds of each."""
    of_a, of_b = zip(*zip_longest(_timed(a()), _timed(b()), fillvalue=0.0), strict=True)
    return sum(of_a), sum(of_b)


def _timed(task: Iterator[object]) -> Iterator[float]:
    """The CPU seconds of each part of a task."""
    end = object()
    paused: object = None
    while paused is not end:
        began = time.process_time()
        paused = next(task, end)
        yield time.process_time() - began


# --------------------------------------------------------------------------- rows


def rows(effort: Effort, source: Path, folder: Path) -> Iterator[Row]:
    """Measure one after the other.

    Args:
        source: the real footage that the videos are made of. folder: where they are kept.
    """
    small = footage.real(source, *effort.small, folder)
    large = footage.real(source, *effort.large, folder)
    yield from _score_pass(effort, small, large)
    yield from _fast(effort, folder, small)
    yield from _pack(effort, small)
    yield _memory(large)
    if effort.long:
        yield _memory(footage.without_cuts(source, effort.large[0], effort.long, folder))


def _score_pass(effort: Effort, small: Path, large: Path) -> Iterator[Row]:
    everything = work.plan(work.SCORERS)
    what = "scenes, motion, brightness, static, 8 frames a clip"
    for path, size, limit in ((small, effort.small[0], 1.55), (large, effort.large[0], 1.2)):
        yield compare(
            f"score pass at {size[1]}p: {what}",
            partial(work.bare_decode, path),
            partial(work.score, path, everything),
            effort.pairs,
            unit="x bare decode",
            limit=limit,
        )
    yield compare(
        f"the same at {effort.small[0][1]}p against five separate tools",
        partial(work.separate_tools, small, work.spans(small)),
        partial(work.score, small, everything),
        max(1, effort.pairs // 2),
        unit="x their CPU",
        limit=0.36,
    )


def _fast(effort: Effort, folder: Path, small: Path) -> Iterator[Row]:
    everything = work.plan(work.SCORERS)
    yield compare(
        f"`profile: fast` at {effort.small[0][1]}p",
        partial(work.score, small, everything),
        partial(work.score, small, replace(everything, profile="fast")),
        max(1, effort.pairs // 2),
        unit="x exact",
    )
    for gop in footage.GOPS:
        path, true = footage.cuts(gop, effort.scenes, effort.scene_size, folder)
        profiles: tuple[tuple[work.Profile, int], ...] = (("exact", 0), ("fast", _NEAR))
        for profile, within in profiles:
            found = work.found_cuts(path, profile)
            value = work.f1(found, true, within)
            note = f"{len(found)} found of {len(true)}"
            where = f"within {within} frames" if within else "to the frame"
            name = f"cuts of `profile: {profile}`, {gop}, {where}"
            yield Row(name, value, "F1", value, value, note=note)


def _pack(effort: Effort, path: Path) -> Iterator[Row]:
    frames = sum(end - start for start, end in effort.clips) * float(work.info_of(path).fps)
    with tempfile.TemporaryDirectory() as temporary:
        cut = (path, effort.clips, Path(temporary))
        for name, how in (("copied and verified", work.copy_clips), ("encoded", work.encode_clips)):
            yield compare(
                f"clips of {effort.small[0][1]}p {name}",
                partial(work.bare_decode, path, frames),
                partial(how, *cut),
                max(1, effort.pairs // 2),
                unit="x decoding as many frames",
            )


def _memory(path: Path) -> Row:
    child = [sys.executable, str(Path(work.__file__)), str(path)]
    done = subprocess.run(child, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    peak = result["peak_bytes"] / _GIB
    info = work.info_of(path)
    length = f"{info.duration / 3600:g} h" if info.duration > 3599 else f"{info.duration:g} s"
    name = f"memory of one worker, {length} of {info.height}p at {info.fps} fps without cuts"
    note = f"{result['clips']} clips in {result['seconds']:.0f} s"
    return Row(name, peak, "GiB", peak, peak, 1.5, note)


# --------------------------------------------------------------------------- output


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists() and (found := re.search(r"model name\s*: (.+)", facts.read_text())):
        cpu = found[1]
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "load": f"{os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, PyAV {av.__version__}, "
        f"OpenCV {cv2.__version__}",
    }


def table(found: list[Row], facts: dict[str, str], command: str) -> str:
    """The rows as a Markdown table, with the command and the machine below it."""
    lines = ["| | median | lowest to highest | limit |", "|---|---|---|---|"]
    for row in found:
        spread = f"{row.low:.2f} to {row.high:.2f}" if row.low < row.high else row.note
        limit = "" if row.limit is None else f"{row.limit:g}{' missed' if row.missed else ''}"
        lines.append(f"| {row.name} | {row.value:.2f} {row.unit} | {spread} | {limit} |")
    lines += ["", f"`{command}` on {facts['cpu']} (load {facts['load']} at the start), "]
    lines[-1] += f"{facts['versions']}. CPU time, one decoder thread on both sides."
    return "\n".join(lines)


def replaced(text: str, block: str) -> str:
    """The text with what stands between the two marks replaced by the block.

    Raises:
        SystemExit: the marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"the file has no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def publish(
    found: list[Row],
    facts: dict[str, str],
    *,
    quick: bool,
    figures: Path | None,
    readme: Path | None,
) -> int:
    """Print the table and write it where that is asked; the exit status."""
    text = table(found, facts, f"tools/benchmark.py{' --quick' if quick else ''}")
    print(text)
    if figures:
        result = {"machine": facts, "quick": quick, "rows": [asdict(row) for row in found]}
        figures.write_text(json.dumps(result, indent=1) + "\n")
    if readme:
        readme.write_text(replaced(readme.read_text(), text))
    return int(any(row.missed for row in found))


def main() -> int:
    """Measure, print, write; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description="Measure vidcurate's CPU and memory.")
    parser.add_argument("--quick", action="store_true", help="shorter videos, none of two hours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the table in its place")
    chosen = parser.parse_args()
    if chosen.readme:
        replaced(chosen.readme.read_text(), "")  # refused before minutes are spent
    cv2.setNumThreads(1)
    facts = machine()
    (source, *_) = fetch_footage.fetch()
    found: list[Row] = []
    for row in rows(QUICK if chosen.quick else FULL, source, fetch_footage.FOLDER / "benchmark"):
        print(f"{row.value:8.2f} {row.unit:26} {row.name}", file=sys.stderr, flush=True)
        found.append(row)
    return publish(found, facts, quick=chosen.quick, figures=chosen.json, readme=chosen.readme)


if __name__ == "__main__":
    sys.exit(main())
