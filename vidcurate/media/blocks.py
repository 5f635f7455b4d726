"""Files of which only some blocks are at hand: what a download of sections leaves.

    magic         19 bytes
    blocks        1 MiB each, the file's last one shorter, in the order in which they came
    index         JSON: size of the whole file, what its host validates it by, and the numbers of
                  the blocks in the order in which they lie
    its length    8 bytes, little-endian

The blocks do not lie at their places in a sparse file, whose holes read as zeros: to a reader that
knows nothing of blocks this is no media file at all. All that reads a video's file opens it here.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from vidcurate.errors import AcquireError, MissingSectionError

MAGIC = b"vidcurate blocks 1\n"

BLOCK = 2**20
"""Bytes of a block."""


class Blocks(io.RawIOBase):
    """A file in blocks, read like any other; a read ends at the end of its block.

    Args:
        size: of the whole file in bytes.
        get: bytes of a block, by its number, the first byte wanted and how many there are.
        name: what errors and FFmpeg know it by.
        handle: a file descriptor that is closed with it.

    Reads raise what `get` raises.
    """

    def __init__(
        self,
        size: int,
        get: Callable[[int, int, int], bytes],
        *,
        name: str,
        handle: int | None = None,
    ) -> None:
        self.size = size
        self.name = name
        self._get = get
        self._handle = handle
        self._place = 0

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill the buffer, to the end of the block at most; 0 at the end of the file."""
        number, first = divmod(self._place, BLOCK)
        count = max(0, min(len(buffer), BLOCK - first, self.size - self._place))
        if count:
            data = self._get(number, first, count)
            assert len(data) == count
            buffer[:count] = data
            self._place += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As files do."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the file below."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        super().close()


def open_blocks(path: Path) -> Blocks | None:
    """The file of sections at `path`; None where it is any other file.

    Reads of blocks that are not there raise a MissingSectionError, never give anything else.

    Raises:
        OSError: the file cannot be read.
        AcquireError: it is damaged.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.pread(handle, len(MAGIC), 0) != MAGIC:
            os.close(handle)
            return None
        size, numbers = _index(handle, path)
    except BaseException:
        os.close(handle)
        raise
    places = dict(zip(numbers, _places(size, numbers), strict=True))

    def get(number: int, first: int, count: int) -> bytes:
        if number not in places:
            raise MissingSectionError(
                f"{path}: only sections of it were downloaded, and byte {number * BLOCK + first} "
                "is in none of them"
            )
        return os.pread(handle, count, places[number] + first)

    return Blocks(size, get, name=f"file:{path}", handle=handle)


def open_bytes(path: Path) -> BinaryIO:
    """A video's file for plain reading, whole or of sections.

    Raises:
        OSError, AcquireError: as `open_blocks`.
    """
    blocks = open_blocks(path)
    return path.open("rb") if blocks is None else cast(BinaryIO, io.BufferedReader(blocks))


def file_size(path: Path) -> int:
    """Bytes of a video's file; of one of sections those of the whole.

    Raises:
        OSError, AcquireError: as `open_blocks`.
    """
    with open_bytes(path) as file:
        return file.seek(0, os.SEEK_END)


def index_of(size: int, numbers: Sequence[int], validator: str) -> bytes:
    """What ends a file of sections whose blocks lie in that order."""
    text = json.dumps({"size": size, "validator": validator, "blocks": list(numbers)}).encode()
    return text + len(text).to_bytes(8, "little")


def write_blocks(path: Path, size: int, blocks: Mapping[int, bytes], validator: str) -> None:
    """Write a file of sections.

    Args:
        size: of the whole file. blocks: by their numbers. validator: see `index_of`.
    """
    path.write_bytes(MAGIC + b"".join(blocks.values()) + index_of(size, list(blocks), validator))


def _index(handle: int, path: Path) -> tuple[int, list[int]]:
    """Size of the whole file, and the numbers of the blocks that are there."""
    end = os.fstat(handle).st_size - 8
    length = int.from_bytes(os.pread(handle, 8, max(end, 0)), "little")
    try:
        index = json.loads(os.pread(handle, min(length, end), max(0, end - length)))
        size, numbers = int(index["size"]), [int(n) for n in index["blocks"]]
        is_whole = len(MAGIC) + sum(_length(size, n) for n in numbers) == end - length
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise AcquireError(f"{path}: a download of sections that is damaged; remove it")
    return size, numbers


def _length(size: int, number: int) -> int:
    return max(0, min(BLOCK, size - number * BLOCK))


def _places(size: int, numbers: Sequence[int]) -> list[int]:
    """Where the blocks lie."""
    places, place = [], len(MAGIC)
    for number in numbers:
        places.append(place)
        place += _length(size, number)
    return places
