"""The cache gives back what was put in, stays within its size, and survives kills."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from vidcurate.shards.reader.cache import Cache

# Reads through a shared cache until it is killed, or for a number of reads.
WORK = """
import random, sys
from pathlib import Path
from vidcurate.shards.reader.cache import Cache

contents = [random.Random(n).randbytes(1000 + n * 137 % 30_000) for n in range(300)]
cache = Cache(Path(sys.argv[1]), int(sys.argv[2]))
draw = random.Random(int(sys.argv[3]))
reads = int(sys.argv[4])
done = 0
while done != reads:
    n = draw.randrange(300)
    found = cache.get(("root", n), len(contents[n]))
    if found is None:
        cache.put(("root", n), contents[n])
    elif found != contents[n]:
        sys.exit("wrong bytes")
    done += 1
    if done == 100:
        print("at work", flush=True)
print(cache.hits)
"""


def size_of(folder: Path) -> int:
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "used"]
    return sum(f.stat().st_size for f in files)


def start(folder: Path, limit: int, seed: int, reads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder), str(limit), str(seed), str(reads)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_was_put_is_given_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10**6)
    assert cache.get(("a", 1), 3) is None
    cache.put(("a", 1), b"abc")
    assert cache.get(("a", 1), 3) == b"abc"
    assert cache.get(("a", 2), 3) is None
    assert (cache.hits, cache.misses) == (1, 2)
    assert pickle.loads(pickle.dumps(cache)).get(("a", 1), 3) == b"abc"  # noqa: S301 (our own)


@pytest.mark.parametrize("damage", [b"", b"ab", b"\0" * 7, b"abcdefg"])
def test_a_damaged_file_is_not_believed(tmp_path: Path, damage: bytes) -> None:
    cache = Cache(tmp_path, 10**6)
    cache.put(("a",), b"abc")
    [file] = tmp_path.glob("??/*")
    file.write_bytes(damage)
    assert cache.get(("a",), 3) is None
    assert not file.exists()
    cache.put(("a",), b"abc")
    assert cache.get(("a",), 3) == b"abc"


def test_what_was_not_read_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 200_000)
    for n in range(20):
        cache.put((n,), bytes(8000))  # with its checksum 2 units of 4096: 163,840 in all
    for place, n in enumerate([*range(5, 20), 0, 1, 2, 3, 4]):
        os.utime(cache._path((n,)), (place, place))
    assert cache.get((5,), 8000) is not None  # read again: now the youngest
    for n in range(20, 25):
        cache.put((n,), bytes(8000))  # the last is the 25th: over the limit, so to 90 % of it
    gone = {n for n in range(25) if not cache._path((n,)).exists()}
    assert gone == {6, 7, 8, 9}
    assert size_of(tmp_path) <= 200_000


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    cache.put(("a",), bytes(10_000))
    assert cache.get(("a",), 10_000) is None
    assert size_of(tmp_path) == 0


def test_unfinished_files_of_killed_processes_go_after_an_hour(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    old, young = tmp_path / "tmp" / "old", tmp_path / "tmp" / "young"
    for path, age in ((old, 3700), (young, 3500)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    Cache(tmp_path, 10**6).put(("a",), b"abc")
    assert not old.exists()
    assert young.exists(), "it may be another process's that is at work"


def test_processes_share_it_within_its_size_and_survive_kills(tmp_path: Path) -> None:
    limit = 1_500_000  # of about 4.8 MB that they read
    killed = [start(tmp_path, limit, seed, -1) for seed in range(2)]
    workers = [start(tmp_path, limit, seed, 600) for seed in range(10, 13)]
    for process in killed:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        time.sleep(random.Random(process.pid).random() / 10)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for process in workers:
        out, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, "")
        assert int(out.split()[-1]) > 60, "a third of it fits"
    # Each of those that write at the same moment may be over by what it holds.
    assert size_of(tmp_path) <= limit + 5 * 32_000
    assert len(list((tmp_path / "tmp").iterdir())) <= 2, "of those that were killed alone"


def test_a_lost_count_is_made_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100_000)
    for n in range(20):
        cache.put((n,), bytes(8000))
        (tmp_path / "used").unlink()
    assert size_of(tmp_path) <= 100_000
    cache.put((99,), bytes(8000))
    assert 4096 * (tmp_path / "used").stat().st_size >= size_of(tmp_path) - 4096


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10**6)
    cache.put(("a",), b"abc")
    subprocess.run(["rm", "-r", str(tmp_path / "cache")], check=True)
    assert cache.get(("a",), 3) is None
    cache.put(("a",), b"abc")
    assert cache.get(("a",), 3) == b"abc"


def test_a_disk_that_cannot_be_written_turns_it_off_with_one_warning() -> None:
    cache = Cache(Path("/dev/full/cache"), 10**6)  # no folder can be made there, whoever asks
    with pytest.warns(
        RuntimeWarning, match="/dev/full/cache cannot be written.*without this cache"
    ):
        cache.put(("a",), b"abc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(("b",), b"abc")
    assert cache.get(("a",), 3) is None


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit of the process on the size of files fails a write in its middle, as a full disk."""
    code = f"""
import resource, signal, warnings
from pathlib import Path
from vidcurate.shards.reader.cache import Cache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
cache = Cache(Path({str(tmp_path)!r}), 10**6)
cache.put(("small",), bytes(10_000))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    cache.put(("large",), bytes(100_000))
    cache.put(("other",), bytes(100_000))
print(len(seen), cache.get(("large",), 100_000), cache.get(("small",), 10_000) == bytes(10_000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1 None True\n", "")
    assert list((tmp_path / "tmp").iterdir()) == []
