"""A tar's bytes from the first to the last, read once, and their checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO

from vidcurate.errors import AcquireError

_CHUNK = 1024 * 1024


class TarReadError(AcquireError):
    """A tar cannot be read on: what was read of it before is of no use either."""


class TarStream:
    """A tar as it is read from front to end.

    Args:
        file: the tar, open for reading at its beginning.

    place: bytes read so far. digest: the sha256 of these.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.place = 0
        self.digest = hashlib.sha256()
        self._file = file

    def read(self, size: int | None) -> Iterator[bytes]:
        """The next bytes, in pieces of at most 1 MiB; None: all to the end.

        Raises:
            TarReadError: they cannot be read, or the file ends before.
        """
        while size is None or size > 0:
            try:
                chunk = self._file.read(_CHUNK if size is None else min(size, _CHUNK))
            except OSError as error:
                text = f"it cannot be read at byte {self.place}: {error.strerror or error}"
                raise TarReadError(text) from error
            if not chunk:
                if size is None:
                    return
                raise TarReadError("it became shorter while it was read")
            self.digest.update(chunk)
            self.place += len(chunk)
            size = None if size is None else size - len(chunk)
            yield chunk

    def skip_to(self, offset: int) -> None:
        """Read on to a place in the tar.

        Raises:
            TarReadError: as `read`.
        """
        for _ in self.read(offset - self.place):
            pass
