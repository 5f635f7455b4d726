"""A tar writer whose bytes depend on its members only, and which knows where each one lies.

The format is POSIX.1-2001 (pax), as Python's tarfile reads and WebDataset expects it: plain
ustar headers, with extended ones only where a member is beyond 8 GiB.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

_CHUNK = 1024 * 1024
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Member:
    """One file in a tar: where its content begins (bytes from the tar's start), and its size."""

    name: str
    offset: int
    size: int
    sha256: str


class TarWriter:
    """Writes one tar to a path; a context manager that ends the archive.

    Owner, mode and times are fixed. Give it a temporary path and rename afterwards.

    Args:
        path: the file to write; one that exists is replaced.

    `size` and `sha256` are of the whole file, known after the block.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.sha256 = ""
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._write(_END)
                self._write(bytes(-self.size % tarfile.RECORDSIZE))
        self.sha256 = self._digest.hexdigest()

    def add(self, name: str, content: Path | bytes) -> Member:
        """Append a file under a name without folders.

        Raises:
            OSError: it cannot be read or written.
        """
        assert "/" not in name
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        header = tarfile.TarInfo(name)
        header.size = size
        header.mode = 0o644
        self._write(header.tobuf(tarfile.PAX_FORMAT))
        offset = self.size
        digest = hashlib.sha256()
        for chunk in _chunks(content):
            digest.update(chunk)
            self._write(chunk)
        if self.size != offset + size:
            raise OSError(f"{name} changed its size while it was packed")
        self._write(bytes(-size % tarfile.BLOCKSIZE))
        return Member(name, offset, size, digest.hexdigest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def member_key(sample_id: str) -> str:
    """A sample's name in a tar that we write: its id, but for what WebDataset would not read as
    one name, as in ids of others' samples."""
    return quote(sample_id, safe="").replace(".", "%2E")


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
