"""Which blocks of a file its intervals need: the container is walked, in a process of its own.

Nobody vouches for the bytes, so that it is not done in the process that downloads, which may not
die of them. The parent sends one line of JSON (`Request`) to the standard input. Each line of the
output is the number of a block that is needed; the parent answers with its place in the part, once
it is there. The last line is "done", or "unfit" where the whole file should be had.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vidcurate.errors import DataError
from vidcurate.media.blocks import Blocks
from vidcurate.media.open import open_container, video_stream
from vidcurate.media.probe import first_pts, stated_duration

MARGIN = 2.0
"""Seconds before and after an interval that are wanted: for seeks, snapping and sound."""

_MOST = 0.5  # share of the duration from which on the whole file is had
_CPU = 60  # seconds; a walk takes a few at most
_INDEXED = ("mov,mp4", "matroska")  # containers whose index leads to any time


@dataclass(frozen=True)
class Request:
    """What the parent sends.

    part: path of the blocks so far. size: of the whole file. places: number of a block -> where it
    begins in the part. intervals: start and end in seconds of source time.
    """

    part: str
    size: int
    places: Sequence[tuple[int, int]]
    intervals: Sequence[tuple[float, float]]


class UnfitError(Exception):
    """Sections of this file are not worth it, or cannot be told."""


def walk(file: Blocks, intervals: Sequence[tuple[float, float]]) -> None:
    """Read all of a file that a score pass over the intervals will read.

    Args:
        file: reads of it fetch what is missing.
        intervals: start and end in seconds of source time.

    Raises:
        UnfitError: the container has no index or no duration, or most of it is needed.
        av.FFmpegError, DataError: it cannot be read.
    """
    with open_container(file) as container:
        if not container.format.name.startswith(_INDEXED):
            raise UnfitError
        path = Path(file.name)
        stream = video_stream(container, path)
        if stream.codec_context is None or stream.time_base is None or stream.start_time is None:
            raise UnfitError
        zero = first_pts(container, stream, path)
        wanted = list(_merged(intervals))
        if sum(b - a for a, b in wanted) >= _MOST * stated_duration(container, stream):
            raise UnfitError
        for start, end in wanted:
            low = zero + max(0, math.floor(start / stream.time_base))
            _read(container, stream, low, zero + math.ceil(end / stream.time_base))


def _read(container: InputContainer, stream: VideoStream, low: int, high: int) -> None:
    """Read the packets from the key frame before `low` to `high`, in units of the stream."""
    container.seek(low, stream=stream)
    for packet in container.demux():
        if packet.stream is stream and packet.dts is not None and packet.dts > high:
            return


def _merged(intervals: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The intervals with their margins, those that touch as one."""
    low = high = -math.inf
    for start, end in sorted(intervals):
        if start - MARGIN > high:
            if high > low:
                yield low, high
            low = start - MARGIN
        high = max(high, end + MARGIN)
    if high > low:
        yield low, high


def _serve() -> str:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
    request = Request(**json.loads(sys.stdin.readline()))
    places = dict(request.places)
    handle = os.open(request.part, os.O_RDONLY)

    def get(number: int, first: int, count: int) -> bytes:
        if number not in places:
            print(number, flush=True)
            answer = sys.stdin.readline()
            if not answer:
                raise UnfitError  # the parent has given up
            places[number] = int(answer)
        return os.pread(handle, count, places[number] + first)

    try:
        walk(Blocks(request.size, get, name="sections", handle=handle), request.intervals)
    except (av.FFmpegError, DataError, UnfitError):
        return "unfit"
    return "done"


if __name__ == "__main__":
    print(_serve(), flush=True)
