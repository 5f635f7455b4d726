"""What the reader takes of an index of any size: time to go on from a state, and memory.

    python tools/benchmark_large_index.py FOLDER TABLES WORKERS

prints as JSON the bytes that a process and so many of its workers have for themselves while they
read the packed shards in FOLDER; TABLES is where the tables of indexes are.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from vidcurate.shards import ShardDataset
from vidcurate.shards.reader.order import WINDOW

BATCH = 8
_BATCHES = 12  # of each worker, before memory is read


def dataset(folder: Path, tables: Path, workers: int = 0) -> ShardDataset:
    """Batches of raw bytes, shuffled."""
    return ShardDataset(
        folder,
        batch=BATCH,
        decode=None,
        on_error="stop",
        workers=workers,
        index_folder=tables,
    )


def state_at(folder: Path, tables: Path, sample: int) -> dict[str, Any]:
    """The state, through JSON, that a run saves after about so many samples of its first epoch."""
    batches = dataset(folder, tables)
    state: dict[str, Any] = batches.state_dict()
    (position,) = state["sources"]
    position.update(window=sample // WINDOW)  # the beginning of a window needs no more
    batches.load_state_dict(state)
    for batch in islice(batches, max(1, sample % WINDOW // BATCH)):
        state = batch.state
    found: dict[str, Any] = json.loads(json.dumps(state))
    return found


def first_batch(folder: Path, tables: Path, state: dict[str, Any] | None = None) -> float:
    """Seconds from nothing but imports to the first batch, after a state or from the start."""
    began = time.perf_counter()
    batches = dataset(folder, tables)
    if state is not None:
        batches.load_state_dict(state)
    first = next(iter(batches))
    seconds = time.perf_counter() - began
    assert all(sample is not None for sample in first.samples)
    return seconds


def memory(folder: Path, tables: Path, workers: int) -> dict[str, Any]:
    """Bytes that this process and each worker have for themselves (USS) while they read."""
    batches: Any = iter(dataset(folder, tables, workers))
    for _ in islice(batches, _BATCHES * workers):
        pass
    own = psutil.Process()
    private = [process.memory_full_info().uss for process in own.children(recursive=True)]
    result = {"own": own.memory_full_info().uss, "workers": private}
    batches.close()  # the workers end
    return result


def main() -> None:
    """Read, look, print."""
    folder, tables, workers = sys.argv[1:]
    print(json.dumps(memory(Path(folder), Path(tables), int(workers))))


if __name__ == "__main__":
    main()
