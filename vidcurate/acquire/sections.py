"""Downloading sections of a file: the blocks that a dataset's intervals need, by byte ranges.

The host must answer a Range with 206, the file's size and something that validates later ranges
(a strong ETag, or Last-Modified). What does not fit is for `acquire.direct`: the whole file.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vidcurate.acquire.answers import HEAD, is_page
from vidcurate.acquire.cache import check_free
from vidcurate.acquire.http import Transfer, check_size, content_range, validator_of
from vidcurate.acquire.limits import HostLimits
from vidcurate.acquire.sections_child import Request, UnfitError
from vidcurate.errors import TransferError
from vidcurate.media.blocks import BLOCK, MAGIC, index_of
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire, Download

if TYPE_CHECKING:
    import httpx

_POLL = 0.2  # seconds between looks at a child
_MEMORY = 2 * 1024**3  # resident bytes of a child


def intervals_of(row: VideoRow) -> tuple[tuple[float, float], ...]:
    """Start and end of a row's clips, in seconds; empty where all of the video is needed.

    So it is where a clip's times are not known, or where the bytes' sha256 is to be checked.
    """
    if row.rights.get("sha256"):
        return ()
    found = []
    for clip in row.clips:
        start, end = clip.start, clip.end
        if start is None or end is None or clip.frames or not math.isfinite(end) or end <= start:
            return ()
        found.append((start, end))
    return tuple(sorted(set(found)))


def download_sections(
    url: str,
    intervals: Sequence[tuple[float, float]],
    cfg: Acquire,
    part: Path,
    limits: HostLimits,
    stop: threading.Event,
) -> bool:
    """Download what intervals need of a URL to the file `part`, in the format of `media.blocks`.

    Times, tries, limits and refusals are those of `direct.download`; a later run begins anew.

    Args:
        intervals: start and end in seconds of source time; there is one at least.

    Returns:
        False, with nothing left at `part`, where the whole file should be had: the host does not
        serve ranges, the container has no index, about half of the file is needed, or the file
        changed on the way.

    Raises:
        what `direct.download` raises.
    """
    assert cfg.download
    return _Sections(url, intervals, cfg, cfg.download, part, stop).run(limits)


class _Sections(Transfer[bool]):
    """The tries of one download; blocks that came stay for the next try."""

    def __init__(
        self,
        url: str,
        intervals: Sequence[tuple[float, float]],
        cfg: Acquire,
        options: Download,
        part: Path,
        stop: threading.Event,
    ) -> None:
        super().__init__(url, cfg, options, stop)
        self._intervals = intervals
        self._part = part
        self._size = 0
        self._validator = ""
        self._places: dict[int, int] = {}  # number of a block -> where it begins in the part
        self._end = len(MAGIC)

    def drop(self) -> None:
        """Remove what came so far."""
        self._part.unlink(missing_ok=True)

    def _get(self) -> bool:
        try:
            if not self._places:
                self._begin()
            self._walk()
            # The video's content id is made of its first and last MiB.
            for number in sorted({(self._size - BLOCK) // BLOCK, (self._size - 1) // BLOCK}):
                if number not in self._places:
                    self._fetch(number)
        except UnfitError:
            self.drop()
            return False
        with self._part.open("ab") as file:
            file.write(index_of(self._size, list(self._places), self._validator))
        return True

    # ------------------------------------------------------------------ blocks

    def _begin(self) -> None:
        """Get the first block, and learn of the file's size."""
        with self._answer(f"bytes=0-{BLOCK - 1}") as answer:
            validator = validator_of(answer)
            found = content_range(answer, validator) if answer.status_code == 206 else None
            if not validator or found is None or found[0] != 0 or found[1] is None:
                raise UnfitError
            self._size, self._validator = found[1], validator
            check_size(self._size, self._cfg, self._shown)
            self._afford()
            data = self._body(answer, min(BLOCK, self._size))
            if is_page(data[:HEAD], answer.headers.get("content-type", ""), self._shown):
                raise UnfitError
        self._part.write_bytes(MAGIC)
        self._keep(0, data)

    def _fetch(self, number: int) -> int:
        """Get a block; its place in the part."""
        self._afford()
        first = number * BLOCK
        last = min(first + BLOCK, self._size) - 1
        with self._answer(f"bytes={first}-{last}", self._validator) as answer:
            if answer.status_code != 206 or content_range(answer, self._validator) != (
                first,
                self._size,
            ):
                raise UnfitError  # it is another file by now
            data = self._body(answer, last + 1 - first)
        return self._keep(number, data)

    def _afford(self) -> None:
        """See that one more block is worth it, and that there is room."""
        if 2 * BLOCK * (len(self._places) + 1) > self._size:
            raise UnfitError
        check_free(self._part.parent, self._cfg, BLOCK)

    def _body(self, answer: httpx.Response, count: int) -> bytes:
        data = bytearray()
        for chunk in answer.iter_bytes():
            self._check_time()
            data += chunk
            if len(data) > count:
                raise UnfitError  # more than was asked for
        if len(data) < count:
            raise TransferError(
                f"{self._shown}: the connection ended after {len(data)} of {count} bytes"
            )
        return bytes(data)

    def _keep(self, number: int, data: bytes) -> int:
        place = self._end
        with self._part.open("r+b") as file:
            file.seek(place)
            file.write(data)
        self._places[number] = place
        self._end += len(data)
        return place

    # ------------------------------------------------------------------ the child

    def _walk(self) -> None:
        """Get the blocks that the child asks for while it walks the container."""
        request = Request(str(self._part), self._size, list(self._places.items()), self._intervals)
        with _child() as child:
            assert child.stdin
            assert child.stdout
            answer = json.dumps(asdict(request))
            while True:
                try:
                    child.stdin.write(f"{answer}\n".encode())
                    child.stdin.flush()
                except BrokenPipeError as error:
                    raise UnfitError from error
                while not wait([child.stdout.fileno()], _POLL):
                    self._check_time()
                    _check_memory(child.pid)
                said = child.stdout.readline().strip()
                if said == b"done":
                    return
                if not said.isdigit():  # "unfit", or it has died
                    raise UnfitError
                number = int(said)
                assert number not in self._places
                answer = str(self._fetch(number))


@contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that walks a container; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "vidcurate.acquire.sections_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Ctrl-C goes to the parent, which sets `stop`.
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()
            with suppress(BrokenPipeError):
                assert child.stdin
                child.stdin.close()


def _check_memory(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        if psutil.Process(pid).memory_info().rss > _MEMORY:
            raise UnfitError
