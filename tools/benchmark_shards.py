"""How fast shards are read and written, beside other ways to do the same with the same samples.

    python tools/benchmark_shards.py [--quick] [--peers FOLDER] [--folder FOLDER] [--json FILE]

Measures, on this machine's disk, with what is read in memory already (a warm page cache):

- raw bytes in order and shuffled: single files, Python's tarfile, webdataset, mosaicml streaming
  and vidcurate's reader, with checksums and without;
- decoding to 480x272: the share of what PyAV takes for the decoding alone, and what a second
  process gains;
- writing: vidcurate's tars (with a checksum of each member and of the tar), webdataset's,
  mosaicml's shards and single files;
- the time to the first batch when a run goes on at sample 1, one million and nine million of an
  index of ten million rows, which name the real samples of the first two parts over and over;
- the memory of 8 worker processes with that index, and with one of ten thousand rows.

Ways take turns (A B C A B C), and the median of their ratios in a turn counts, by wall time; a
ratio by CPU time stands beside it. mosaicml streaming wants an environment of its own: `--peers`
names a folder where pip makes it; without it, it is not measured. Exits 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import benchmark_large_index as large_index
import benchmark_shards_work as work
import fetch_footage
import generated_index
import pyarrow.parquet as pq
import shard_samples
from benchmark import machine
from benchmark_peers import MOSAIC, Mosaic, environment
from benchmark_turns import Row, Taken, compare, timed

from vidcurate.run.process import available_cores
from vidcurate.shards.index import read_index
from vidcurate.shards.reader.reading import Decode

SIZE = (480, 272)  # of the bucket that is decoded to
_MIB = 2**20
Ways = dict[str, Callable[[], Taken]]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    samples, size: how many, and about how many bytes each. written: of them, in the part on
    writing. rounds: turns of which the median counts; clip_rounds where clips are decoded. clips,
    clip_size, frames: of that part. rows, few_rows: of the two generated indexes. at: samples
    where a run goes on. workers: processes whose memory is looked at.
    """

    samples: int = 2000
    size: int = 300_000
    written: int = 500
    rounds: int = 5
    clip_rounds: int = 3
    clips: int = 12
    clip_size: tuple[int, int] = (1280, 720)
    frames: int = 49
    rows: int = 10_000_000
    few_rows: int = 10_000
    at: tuple[int, ...] = (1, 1_000_000, 9_000_000)
    workers: int = 8


FULL = Effort()
QUICK = Effort(
    samples=200,
    written=100,
    rounds=2,
    clip_rounds=1,
    clips=4,
    clip_size=(640, 360),
    rows=100_000,
    at=(1, 90_000),
    workers=2,
)


def rows(effort: Effort, folder: Path, peer: Path | None, footage: Path) -> Iterator[Row]:
    """Measure one after the other.

    Args:
        folder: empty, for all that is written. peer: the Python of an environment with mosaicml
            streaming; None leaves it out. footage: where the encoded video is kept.
    """
    plain, shards, tables = folder / "plain", folder / "shards", folder / "tables"
    shard_samples.write_plain(shard_samples.made(effort.samples, effort.size), plain)
    shard_samples.write_shards(shard_samples.made(effort.samples, effort.size), shards)
    with contextlib.ExitStack() as stack:
        mosaic = None
        if peer is not None:
            mosaic = stack.enter_context(Mosaic(peer, plain, folder / "mosaic"))
        yield from reading(effort, plain, shards, tables, mosaic)
        yield from writing(effort, folder / "written", mosaic)
    yield from decoding(effort, folder / "clips", tables, footage)
    yield from growing_index(effort, folder, shards)


def reading(
    effort: Effort, plain: Path, shards: Path, tables: Path, mosaic: Mosaic | None
) -> Iterator[Row]:
    """Raw bytes in order and shuffled."""
    paths, tars = sorted(plain.glob("*.mp4")), sorted(shards.glob("*/*.tar"))
    ours = partial(work.ours, shards, tables)
    ways: Ways = {
        "webdataset": timed(partial(work.webdataset, tars, shuffle=False)),
        "vidcurate, verify=False": timed(partial(ours, shuffle=False, verify=False)),
        "vidcurate": timed(partial(ours, shuffle=False, verify=True)),
        "plain files": timed(partial(work.plain, paths)),
        "tarfile": timed(partial(work.tar, tars)),
    }
    least = {"vidcurate, verify=False": 5.0}
    yield from _against_webdataset("read in order", ways, mosaic, "read", effort, least)
    ways = {
        f"webdataset (a buffer of {work.BUFFER}, no buckets)": timed(
            partial(work.webdataset, tars, shuffle=True)
        ),
        "vidcurate, verify=False": timed(partial(ours, shuffle=True, verify=False)),
        "vidcurate": timed(partial(ours, shuffle=True, verify=True)),
        "plain files": timed(partial(work.plain, paths)),
    }
    yield from _against_webdataset("shuffled, by bucket", ways, mosaic, "shuffled", effort)


def writing(effort: Effort, folder: Path, mosaic: Mosaic | None) -> Iterator[Row]:
    """Samples that are in memory to files."""
    # The first by name: those that mosaicml's process writes.
    every = shard_samples.made(effort.samples, effort.size)
    samples = heapq.nsmallest(effort.written, every, key=lambda sample: sample.sample_id)
    ways: Ways = {
        name: work.writing(folder, write, samples) for name, write in work.writers(samples).items()
    }
    job = f"write {effort.written}"
    yield from _against_webdataset("write", ways, mosaic, job, effort)


def _against_webdataset(
    what: str,
    ways: Ways,
    mosaic: Mosaic | None,
    job: str,
    effort: Effort,
    least: Mapping[str, float] | None = None,
) -> Iterator[Row]:
    name = "mosaicml streaming"
    if mosaic is not None:
        ways = ways | {name: mosaic.task(job)}
    base = next(way for way in ways if way.startswith("webdataset"))
    yield from compare(
        what,
        ways,
        base=base,
        unit="x webdataset",
        also="plain files",
        rounds=effort.rounds,
        least=least,
    )
    if mosaic is None:
        yield Row(f"{what}: {name}", None, "", note="not measured (needs --peers)")


def decoding(effort: Effort, folder: Path, tables: Path, footage: Path) -> Iterator[Row]:
    """Packed clips to tensors: against decoding and scaling alone, and with two processes."""
    shards = shard_samples.packed_clips(
        effort.clips, effort.clip_size, effort.frames, folder, footage
    )
    clips = work.clip_bytes(sorted(shards.glob("*/*.tar")))
    ways: Ways = {
        "PyAV, one thread, one reused reformatter": timed(
            partial(work.floor, clips, SIZE, effort.frames)
        )
    }
    for backend in ("av", "decord"):
        how = Decode(backend=backend)
        ways[f"vidcurate, {backend}"] = timed(
            partial(work.ours_decoded, shards, tables, clips, how=how)
        )
    base, ours, _ = ways
    source = f"{effort.frames} frames of {effort.clip_size[1]}p to {SIZE[0]}x{SIZE[1]}"
    yield from compare(
        source,
        ways,
        base=base,
        unit="of the floor",
        also=base,
        rounds=effort.clip_rounds,
        least={ours: 0.95},
    )
    yield _second_process(shards, tables, source, effort.clip_rounds)


def _second_process(shards: Path, tables: Path, source: str, rounds: int) -> Row:
    pairs = [
        [work.clips_a_second(shards, tables, workers=n) for n in (0, 2)] for _ in range(rounds)
    ]
    ratios = [both / alone for alone, both in pairs]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    note = (
        f"{statistics.median(both for _, both in pairs):.1f} clips/s, once they are started, on "
        f"{available_cores()} cores"
    )
    return Row(f"{source}: vidcurate, workers=2", middle, "x workers=0", low, high, note=note)


# --------------------------------------------------------------------------- large indexes


def growing_index(effort: Effort, folder: Path, shards: Path) -> Iterator[Row]:
    """Where a run goes on, and what memory its workers take, as an index grows."""
    large, small = (
        generated(folder / f"index-{rows}", rows, shards) for rows in (effort.rows, effort.few_rows)
    )
    tables = folder / "large-tables"
    rows_of = f"of an index of {effort.rows:,} rows"
    first = large_index.first_batch(large, tables)  # it builds the table
    yield Row(f"first batch {rows_of} that is new to this machine", first, "s", first, first)
    for sample in effort.at:
        state = large_index.state_at(large, tables, sample)
        seconds = [large_index.first_batch(large, tables, state) for _ in range(effort.rounds)]
        middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
        yield Row(f"first batch at sample {sample:,} {rows_of}", middle, "s", low, high, most=1.0)
    yield from _memory(effort, large, small, tables)


def _memory(effort: Effort, large: Path, small: Path, tables: Path) -> Iterator[Row]:
    taken: dict[int, dict[str, Any]] = {}
    for index, count in ((small, effort.few_rows), (large, effort.rows)):
        large_index.first_batch(index, tables)  # its table is there, as on any day but the first
        found = taken[count] = _memory_of(index, tables, effort.workers)
        each = [n / _MIB for n in found["workers"]]
        yield Row(
            f"memory of a worker of {effort.workers}, {count:,} rows",
            statistics.median(each),
            "MiB",
            min(each),
            max(each),
            note=f"{(found['own'] + sum(found['workers'])) / _MIB:,.0f} MiB with the parent's "
            f"{found['own'] / _MIB:,.0f}; private (USS)",
        )
    totals = [f["own"] + sum(f["workers"]) for f in taken.values()]
    ratio = totals[1] / totals[0]
    name = f"memory of all processes, {effort.rows:,} rows"
    yield Row(name, ratio, f"x {effort.few_rows:,} rows", ratio, ratio, most=1.1)


def generated(folder: Path, rows: int, shards: Path) -> Path:
    """An index whose rows name the real samples over and over."""
    folder.mkdir()
    index = read_index(shards)
    assert index is not None
    for bucket in index["buckets"]:
        (folder / bucket).symlink_to(shards / bucket)
    like = pq.read_table(shards / index["index"][0])
    generated_index.write(folder, rows, like=like)
    return folder


def _memory_of(folder: Path, tables: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, large_index.__file__, str(folder), str(tables), str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed (see its message above)")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --------------------------------------------------------------------------- output


def table(found: Sequence[Row], facts: Mapping[str, str], command: str) -> str:
    """The rows as a Markdown table, with the command and the machine below it."""
    lines = ["| | median | lowest to highest | measured |", "|---|---|---|---|"]
    for row in found:
        value = "" if row.value is None else f"{row.value:.2f} {row.unit}"
        spread = f"{row.low:.2f} to {row.high:.2f}" if row.low < row.high else ""
        lines.append(f"| {row.name} | {value}{row.limits} | {spread} | {row.note} |")
    ending = f"`{command}` on {facts['cpu']} (load {facts['load']} at the start), "
    return "\n".join([*lines, "", f"{ending}{facts['versions']}. Warm page cache."])


def facts_of(peer: Path | None) -> dict[str, str]:
    """The machine, and the versions of what is measured."""
    facts = machine()
    names = ("torch", "webdataset")
    peers = [f"{name} {version(name)}" for name in names]
    if peer is not None:
        peers.append(MOSAIC.replace("==", " "))
    return facts | {"versions": ", ".join([facts["versions"], *peers])}


def main() -> int:
    """Measure, print, write; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description="Measure vidcurate's shards and their reader.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter: its figures vary")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="mosaicml's environment")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured (about 9 GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    chosen = parser.parse_args()
    peer = environment(chosen.peers.absolute()) if chosen.peers else None
    facts = facts_of(peer)
    effort = QUICK if chosen.quick else FULL
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        for row in rows(effort, Path(temporary), peer, fetch_footage.FOLDER / "benchmark"):
            value = "" if row.value is None else f"{row.value:8.2f} {row.unit}"
            print(f"{value:27} {row.name}  {row.note}", file=sys.stderr, flush=True)
            found.append(row)
    command = "tools/benchmark_shards.py" + (" --quick" if chosen.quick else "")
    print(table(found, facts, command + (" --peers FOLDER" if peer else "")))
    if chosen.json:
        result = {"machine": facts, "quick": chosen.quick, "rows": [asdict(row) for row in found]}
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(row.missed for row in found))


if __name__ == "__main__":
    sys.exit(main())
