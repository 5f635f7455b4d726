"""What mosaicml streaming takes to read and to write samples; runs in an environment of its own.

    FOLDER/bin/python tools/mosaic_peer.py SAMPLES WORK

SAMPLES holds a sample's files side by side (<id>.mp4, .json, .txt). A line on stdin is a job:
"read", "shuffled" or "write N" (the first N samples by name). The answer is a line on stdout: JSON
with wall and cpu (seconds), samples and bytes (of the .mp4). vidcurate is not installed there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SHARD = 64 * 2**20  # bytes, the writer's own default
_TORCHVISION = Path(__file__).parent.parent / "vidcurate" / "models" / "torchvision_ops.py"
_COLUMNS = {"mp4": "bytes", "json": "bytes", "txt": "bytes"}


def read(dataset: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Go through the samples; their number and bytes."""
    samples = size = 0
    for sample in dataset:
        samples += 1
        size += len(sample["mp4"])
    return samples, size


def write(folder: Path, samples: Iterable[dict[str, bytes]]) -> tuple[int, int]:
    """Write samples that are in memory as shards."""
    from streaming import MDSWriter

    count = size = 0
    with MDSWriter(out=str(folder), columns=_COLUMNS, size_limit=SHARD) as out:
        for sample in samples:
            out.write(sample)
            count += 1
            size += len(sample["mp4"])
    return count, size


def main() -> None:
    """Make the shards, then answer jobs until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    _prepare_torchvision()
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    source, work = map(Path, sys.argv[1:])
    paths = sorted(source.glob("*.mp4"))
    write(work / "shards", map(_sample, paths))
    clean_stale_shared_memory()  # what a killed run of this tool left
    local = str(work / "shards")
    # One of each kind: a second one in the same process is refused.
    datasets = {"read": StreamingDataset(local=local, shuffle=False, batch_size=8)}
    shutil.copytree(work / "shards", work / "other", copy_function=os.link)
    other = str(work / "other")
    datasets["shuffled"] = StreamingDataset(local=other, shuffle=True, batch_size=8)
    held: list[dict[str, bytes]] = []
    for line in sys.stdin:
        job, *argument = line.split()
        if job == "write":
            written = work / "written"
            shutil.rmtree(written, ignore_errors=True)
            wanted = paths[: int(argument[0])]
            if len(held) != len(wanted):
                held = [_sample(path) for path in wanted]
        wall, cpu = time.perf_counter(), time.process_time()
        samples, size = write(written, held) if job == "write" else read(datasets[job])
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(taken | {"samples": samples, "bytes": size}), file=answers, flush=True)


def _prepare_torchvision() -> None:
    """streaming imports torchvision, which may be built for another torch."""
    spec = importlib.util.spec_from_file_location("torchvision_ops", _TORCHVISION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.prepare()


def _sample(path: Path) -> dict[str, bytes]:
    return {suffix: path.with_suffix(f".{suffix}").read_bytes() for suffix in _COLUMNS}


if __name__ == "__main__":
    main()
