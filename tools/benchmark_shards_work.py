"""What the benchmark of shards measures: ways to read and to write the same samples.

Every way gives (samples, bytes of their .mp4).
"""

from __future__ import annotations

import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from benchmark_turns import Taken, timed
from mosaic_peer import SHARD
from shard_samples import Made, write_plain, write_tars

from vidcurate.shards import ShardDataset
from vidcurate.shards.reader.reading import Decode

_SUFFIX = ".mp4"
BUFFER = 1000  # samples that webdataset's users shuffle among


def counted(sizes: Sequence[int]) -> tuple[int, int]:
    """Number and sum."""
    return len(sizes), sum(sizes)


# --------------------------------------------------------------------------- reading


def plain(paths: Sequence[Path]) -> tuple[int, int]:
    """Each sample's file, opened, read, closed."""
    return counted([len(path.read_bytes()) for path in paths])


def tar(shards: Sequence[Path]) -> tuple[int, int]:
    """Python's tarfile, member after member; what is no video is passed over."""
    sizes = []
    for shard in shards:
        with tarfile.open(shard) as members:
            for member in members:
                if member.name.endswith(_SUFFIX):
                    content = members.extractfile(member)
                    assert content is not None
                    sizes.append(len(content.read()))
    return counted(sizes)


def webdataset(shards: Sequence[Path], *, shuffle: bool) -> tuple[int, int]:
    """webdataset's pipeline without a decoder; shuffled as its users do, without buckets."""
    import webdataset as wds

    samples = wds.WebDataset(
        [str(path) for path in shards],
        shardshuffle=len(shards) if shuffle else False,
        select_files=lambda name: name.endswith(_SUFFIX),
    )
    if shuffle:
        samples = samples.shuffle(BUFFER)
    return counted([len(sample["mp4"]) for sample in samples])


def ours(shards: Path, tables: Path, *, shuffle: bool, verify: bool) -> tuple[int, int]:
    """Our reader; its batches are of one bucket each."""
    batches = ShardDataset(
        shards,
        batch=8,
        decode=None,
        shuffle=shuffle,
        verify=verify,
        on_error="stop",
        index_folder=tables,
    )
    return counted(
        [
            len(sample.members["mp4"])
            for batch in batches
            for sample in batch.samples
            if sample is not None
        ]
    )


# --------------------------------------------------------------------------- decoding


def clip_bytes(shards: Sequence[Path]) -> list[bytes]:
    """The videos in tars."""
    found = []
    for shard in shards:
        with tarfile.open(shard) as members:
            for member in members:
                content = members.extractfile(member)
                if content is not None and member.name.endswith(_SUFFIX):
                    found.append(content.read())
    return found


def floor(clips: Sequence[bytes], size: tuple[int, int], frames: int) -> tuple[int, int]:
    """What decoding to a size takes at least: PyAV, one thread, one reused reformatter.

    The whole picture is scaled, by PyAV's default (bilinear), and all frames of a clip are wanted,
    so that none is decoded in vain; they lie in one array at the end, as a trainer wants them.
    """
    width, height = size
    for data in clips:
        pixels = np.empty((frames, height, width, 3), np.uint8)
        scaler = VideoReformatter()
        with av.open(BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            number = 0
            for frame in container.decode(stream):
                scaled = scaler.reformat(frame, width, height, "rgb24")
                pixels[number] = scaled.to_ndarray()
                number += 1
        if number != frames:
            raise SystemExit(f"a clip has {number} frames and not {frames}")
    return counted([len(data) for data in clips])


def ours_decoded(
    shards: Path, tables: Path, clips: Sequence[bytes], *, how: Decode
) -> tuple[int, int]:
    """Our reader, with tensors of the bucket's size; every clip must come."""
    count = sum(len(batch) for batch in _tensors(shards, tables, 0, how))
    if count != len(clips):
        raise SystemExit(f"the reader gave {count} of {len(clips)} clips")
    return counted([len(data) for data in clips])


def clips_a_second(shards: Path, tables: Path, *, workers: int) -> float:
    """The rate of our reader, from the first batch of each process on."""
    batches = iter(_tensors(shards, tables, workers, Decode()))
    for _ in range(max(1, workers)):
        next(batches)
    began = time.perf_counter()
    count = sum(len(batch) for batch in batches)
    return count / (time.perf_counter() - began)


def _tensors(shards: Path, tables: Path, workers: int, how: Decode) -> ShardDataset:
    return ShardDataset(
        shards, batch=1, decode=how, workers=workers, on_error="stop", index_folder=tables
    )


# --------------------------------------------------------------------------- writing


def writing(
    folder: Path, write: Callable[[Path], None], samples: Sequence[Made]
) -> Callable[[], Taken]:
    """Write to a folder that is not there; what an earlier turn left goes before the time runs."""

    def work() -> tuple[int, int]:
        write(folder)
        return counted([len(sample.members["mp4"]) for sample in samples])

    def run() -> Taken:
        shutil.rmtree(folder, ignore_errors=True)
        return timed(work)()

    return run


def writers(samples: Sequence[Made]) -> dict[str, Callable[[Path], None]]:
    """Ways to write samples that are in memory, each to a folder that is not there."""

    def our_tars(folder: Path) -> None:
        for _ in write_tars(samples, folder):
            pass

    def webdataset_tars(folder: Path) -> None:
        import webdataset as wds

        folder.mkdir(parents=True)
        pattern = str(folder / "%05d.tar")
        with wds.ShardWriter(pattern, maxsize=SHARD, verbose=0) as out:
            for sample in samples:
                out.write({"__key__": sample.sample_id, **sample.members})

    return {
        "plain files": lambda folder: write_plain(samples, folder),
        "vidcurate": our_tars,
        "webdataset": webdataset_tars,
    }
