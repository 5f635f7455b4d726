"""Members of tars: found by their headers, and taken out one at a time, with limits.

Only plain (uncompressed) tars are read, as WebDataset and video2dataset write them.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

from vidcurate.clip import is_url
from vidcurate.errors import AcquireError

_CHUNK = 1024 * 1024
# What tarfile raises on bytes that are no tar; RecursionError on a long chain of extended headers.
_BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)


class BrokenTarError(AcquireError):
    """A tar that is broken or cut short. `member`: the name of the one that is cut, if known."""

    def __init__(self, message: str, member: str | None = None) -> None:
        super().__init__(message)
        self.member = member


def member(location: str) -> tuple[Path, str] | None:
    """The tar and the member's name in a location `<tar>#<name>`; None where it names no member.

    The part before a # must be an existing file that ends in .tar; a file that has the location
    itself as its name is no member.
    """
    if is_url(location) or "\0" in location:
        return None
    at = location.find("#")
    while at >= 0:
        tar = Path(location[:at])
        if tar.suffix.lower() == ".tar" and tar.is_file():
            return None if os.path.lexists(location) else (tar, location[at + 1 :])
        at = location.find("#", at + 1)
    return None


def tar_members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar in order, from their headers; contents are stepped over.

    A member's bytes lie at `offset_data` (a sparse file's do not: `issparse()`).

    Raises:
        BrokenTarError: no plain tar, or broken or cut short after the members that were given; a
            member whose bytes are not all there is not given.
        AcquireError: the file cannot be read.
    """
    try:
        with tar.open("rb") as file:
            yield from _members(file, tar)
    except OSError as error:
        raise AcquireError(f"{tar}: cannot be read: {error.strerror or error}") from error


def _members(file: IO[bytes], tar: Path) -> Iterator[tarfile.TarInfo]:
    size = os.fstat(file.fileno()).st_size
    last = -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                # A negative size would send tarfile back to the same member for ever.
                if info.size < 0 or info.offset <= last:
                    raise BrokenTarError(f"{tar}: broken header at byte {info.offset}")
                last = info.offset
                if not info.issparse() and info.isreg() and info.offset_data + info.size > size:
                    raise BrokenTarError(
                        f"{tar}: cut short in {info.name!r}, which has {info.size} bytes", info.name
                    )
                yield info
                archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
            end = archive.offset
    except _BROKEN as error:
        raise BrokenTarError(f"{tar}: not a readable plain tar: {error}") from error
    # tarfile ends silently at a header that it cannot read.
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise BrokenTarError(f"{tar}: no end mark: it may be cut short")
    if block.strip(b"\0"):
        raise BrokenTarError(f"{tar}: broken header at byte {end}; what follows cannot be read")


def extract(tar: Path, name: str, target: Path, max_size: int) -> None:
    """Write one member of a tar to `target`, whose folder exists; all of it or nothing.

    The first member of that name is taken. It is written under another name, synced and renamed.

    Args:
        max_size: in bytes; a larger member is refused.

    Raises:
        AcquireError: no such member, no regular file (a link, a device), too large, or the tar is
            unreadable or broken before it.
        OSError: the target cannot be written.
    """
    try:
        stat = tar.stat()
    except OSError as error:
        raise AcquireError(f"{tar}: cannot be read: {error.strerror}") from error
    places, broken = _places(tar, stat.st_size, stat.st_mtime_ns)
    if name not in places:
        raise AcquireError(broken or f"{tar}: no member {name!r}")
    place = places[name]
    if place is None:
        raise AcquireError(f"{tar}: {name!r} is no regular file")
    offset, size = place
    if size > max_size:
        raise AcquireError(f"{tar}: {name!r} has {size} bytes, more than the {max_size} allowed")
    handle, part = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out, tar.open("rb") as file:
            file.seek(offset)
            left = size
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise AcquireError(f"{tar}: cut short in {name!r}")
                out.write(chunk)
                left -= len(chunk)
            out.flush()
            os.fsync(out.fileno())  # the name must never be on disk before the bytes
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _places(
    tar: Path, size: int, changed: int
) -> tuple[dict[str, tuple[int, int] | None], str | None]:
    """Name -> offset and size of a tar's members, None where it is no regular file; and why the
    tar ends early.

    Kept for the last few tars: to walk their headers for every member would cost the square of
    their number. size, changed: of the tar as it is now.
    """
    found: dict[str, tuple[int, int] | None] = {}
    try:
        for info in tar_members(tar):
            is_plain = info.isreg() and not info.issparse()
            found.setdefault(info.name, (info.offset_data, info.size) if is_plain else None)
    except BrokenTarError as error:
        return found, str(error)
    return found, None
