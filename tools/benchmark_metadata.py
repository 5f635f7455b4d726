"""How fast a dataset's metadata is read, and that memory does not grow with it.

    python tools/benchmark_metadata.py [--size GB] [--json FILE] [--folder FOLDER]

Makes files as InternVid and Panda-70M publish theirs, of a quarter of the size and of all of it,
and reads each in a process of its own: row by row, and as a run's intake does, which brings the
rows of a video together on disk where they are scattered (InternVid). Prints a Markdown table;
exits 1 where the larger file takes more than 1.25 times the memory of the smaller.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from peak_memory import peak_bytes

LIMIT = 1.25  # peak of the whole file over that of its quarter
_GB, _MIB = 10**9, 2**20
_CLIPS = 30  # of one video, about as in InternVid
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_WORDS = (
    "a man woman child dog small red old two people stand walk sit look at talk to the camera in "
    "front of on beside street kitchen table field house car river with and while holding"
)


@dataclass(frozen=True)
class Case:
    """What is read and how. intake: as a run reads it; else row by row. share: of the size."""

    name: str
    source: str
    suffix: str
    intake: bool
    share: float = 1.0


CASES = (
    Case("InternVid's JSONL, brought together by video", "internvid", ".jsonl", intake=True),
    Case("InternVid's JSONL, row by row", "internvid", ".jsonl", intake=False),
    # Its literals take 20 times as long, and each row comes out at once.
    Case("Panda-70M's CSV, a video a row", "panda70m", ".csv", intake=True, share=0.1),
)


@dataclass(frozen=True)
class Result:
    """One reading of one file, of `bytes` and `rows`. given: the videos or rows that came out."""

    case: str
    bytes: int
    rows: int
    given: int
    seconds: float
    cpu: float
    peak: int


# --------------------------------------------------------------------------- made files


def write_internvid(file: Path, size: int) -> int:
    """Write about `size` bytes of JSONL, a clip a line, those of a video far apart; the lines."""
    captions = _captions(1009)
    rows = max(1, size // 400)
    videos = max(1, rows // _CLIPS)
    with file.open("w") as lines:
        for i in range(rows):
            turn, place = divmod(i, videos)
            # Each turn names all videos once, in another order.
            video = (place * 7919 + turn * 104729) % videos
            start = 12.345 * turn
            row = {
                "YoutubeID": _identity(video),
                "Start_timestamp": _clock(start),
                "End_timestamp": _clock(start + 4 + i % 5),
                "Caption": captions[i % len(captions)],
                "UMT_Score": 0.3 + (i % 997) / 4000,
                "Aesthetic_Score": 3 + (i % 991) / 400,
            }
            lines.write(json.dumps(row) + "\n")
    return rows


def write_panda70m(file: Path, size: int) -> int:
    """Write about `size` bytes of CSV, a video a line; the lines."""
    captions = _captions(1009)
    written, rows = 0, 0
    with file.open("w") as lines:
        lines.write(
            "videoID,url,timestamp,caption,matching_score,desirable_filtering,"
            "shot_boundary_detection\n"
        )
        while written < size:
            n = 1 + rows * 7919 % 37  # 19 clips a video, as in the full set
            starts = [12.345 * k for k in range(n)]
            cells = (
                [[_clock(t), _clock(t + 5)] for t in starts],
                [captions[(rows + k) % len(captions)][:90] for k in range(n)],
                [0.4 + k / 1000 for k in range(n)],
                ["desirable"] * n,
                [[["0:00:00.000", "0:00:02.702"], ["0:00:02.736", "0:00:05.000"]]] * n,
            )
            name = _identity(rows)
            url = f"https://www.youtube.com/watch?v={name}"
            quoted = ",".join(f'"{cell}"' for cell in cells)
            written += lines.write(f"{name},{url},{quoted}\n")
            rows += 1
    return rows


def _captions(n: int) -> list[str]:
    chance, words = random.Random(0), _WORDS.split()
    return [" ".join(chance.choices(words, k=chance.randint(35, 65))) for _ in range(n)]


def _identity(number: int) -> str:
    digits = []
    for _ in range(11):
        number, digit = divmod(number, 64)
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02d}:{rest:06.3f}"


# --------------------------------------------------------------------------- reading


def measure(case: Case, file: Path, rows: int, folder: Path) -> Result:
    """Read the file in a process of its own."""
    child = [sys.executable, __file__, "--child", case.name, str(file), str(folder)]
    done = subprocess.run(child, check=True, capture_output=True, text=True)
    return Result(case.name, file.stat().st_size, rows, **json.loads(done.stdout))


def read(case: Case, file: Path, folder: Path) -> dict[str, float]:
    """Read the file here; what a `Result` says of that.

    Raises:
        AssertionError: a row could not be read.
    """
    began, cpu = time.monotonic(), time.process_time()
    given = _intake(case, file, folder) if case.intake else _plain(case, file)
    return {
        "given": given,
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "peak": peak_bytes(),
    }


def _plain(case: Case, file: Path) -> int:
    from vidcurate import MetadataRow, read_rows

    rows = 0
    for row in read_rows(file, case.source):
        assert isinstance(row, MetadataRow), row
        rows += 1
    return rows


def _intake(case: Case, file: Path, folder: Path) -> int:
    from vidcurate import VideoRow
    from vidcurate.intake.videos import Intake
    from vidcurate.recipe.load import from_raw

    source = {case.source: {"metadata": str(file)}}
    intake = Intake(from_raw({"source": source, "output": "none"}), scratch=folder)
    videos = clips = 0
    for row in intake:
        assert isinstance(row, VideoRow), row
        videos += 1
        clips += len(row.clips)
    intake.close()
    counts = intake.counts[case.source]
    assert (videos, clips) == (counts.videos, counts.clips), counts
    return videos


# --------------------------------------------------------------------------- output


def results(size: int, folder: Path) -> Iterator[Result]:
    """For each case the result of the quarter, then of the whole."""
    writers = {"internvid": write_internvid, "panda70m": write_panda70m}
    rows: dict[Path, int] = {}
    for case in CASES:
        for part in (size // 4, size):
            file = folder / f"{case.source}-{part}{case.suffix}"
            if file not in rows:
                rows[file] = writers[case.source](file, round(part * case.share))
            yield measure(case, file, rows[file], folder)


def pairs(found: list[Result]) -> Iterator[tuple[Result, Result]]:
    """The quarter and the whole of each case."""
    return zip(found[::2], found[1::2], strict=True)


def table(found: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| | rows | size | rows a CPU second | memory at a quarter | at all of it | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for quarter, whole in pairs(found):
        lines.append(
            f"| {whole.case} | {whole.rows:,} | {whole.bytes / _GB:.2f} GB "
            f"| {whole.rows / whole.cpu:,.0f} | {quarter.peak / _MIB:.0f} MiB "
            f"| {whole.peak / _MIB:.0f} MiB | {whole.peak / quarter.peak:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Make, read, print, write; 1 where memory grows."""
    parser = argparse.ArgumentParser(description="Measure the reading of metadata.")
    parser.add_argument("--size", type=float, default=2.0, metavar="GB", help="of the larger files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--folder", type=Path, help="where the files are made; default a new one")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        name, file, folder = chosen.child
        case = next(case for case in CASES if case.name == name)
        print(json.dumps(read(case, Path(file), Path(folder))))
        return 0
    found = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        for it in results(int(chosen.size * _GB), Path(made)):
            line = f"{it.bytes / _GB:7.3f} GB {it.seconds:8.1f} s {it.peak / _MIB:7.0f} MiB"
            print(f"{line}  {it.case}", file=sys.stderr, flush=True)
            found.append(it)
    print(table(found))
    if chosen.json:
        plain = [asdict(result) for result in found]
        chosen.json.write_text(json.dumps(plain, indent=1) + "\n")
    return int(any(whole.peak > LIMIT * quarter.peak for quarter, whole in pairs(found)))


if __name__ == "__main__":
    sys.exit(main())
