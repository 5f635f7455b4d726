"""What the reader takes in a process of its own: to go on from a state, and in memory.

    python tools/benchmark_shards_child.py begin FOLDER TABLES                  seconds
    python tools/benchmark_shards_child.py resume FOLDER TABLES SAMPLE TIMES    [seconds, ...]
    python tools/benchmark_shards_child.py memory FOLDER TABLES WORKERS         {own, workers}

FOLDER: packed shards. TABLES: where the tables of indexes are. Prints JSON.
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
    """The state that a run saves after about so many samples of its first epoch."""
    batches = dataset(folder, tables)
    state: dict[str, Any] = batches.state_dict()
    (position,) = state["sources"]
    position.update(window=sample // WINDOW)  # the beginning of a window needs no more
    batches.load_state_dict(state)
    for batch in islice(batches, max(1, sample % WINDOW // BATCH)):
        state = batch.state
    return state


def first_batch(folder: Path, tables: Path, state: dict[str, Any] | None = None) -> float:
    """Seconds from nothing but imports to the first batch, after a state or from the start."""
    import torch  # noqa: F401 (the reader imports it with the first batch)

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
    dataset(folder, tables)  # the table is there, as on any day but the first
    batches = iter(dataset(folder, tables, workers))
    for _ in islice(batches, _BATCHES * workers):
        pass
    own = psutil.Process()
    private = [process.memory_full_info().uss for process in own.children(recursive=True)]
    result = {"own": own.memory_full_info().uss, "workers": private}
    batches.close()
    return result


def main() -> None:
    """Do what the arguments say."""
    what, *rest = sys.argv[1:]
    folder, tables, *numbers = rest
    where = Path(folder), Path(tables)
    result: Any
    if what == "begin":
        result = first_batch(*where)
    elif what == "resume":
        sample, times = map(int, numbers)
        state = json.loads(json.dumps(state_at(*where, sample)))  # as a checkpoint holds it
        result = [first_batch(*where, state) for _ in range(times)]
    else:
        result = memory(*where, int(numbers[0]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
