"""The samples of a tar of the WebDataset form, from its headers."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidcurate.acquire.archive import BrokenTarError, tar_members
from vidcurate.errors import AcquireError

VIDEO_SUFFIXES = (
    *("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg", "m2ts", "mts", "ts", "flv"),
    *("wmv", "ogv", "gif"),
)
"""Endings of the member that holds a sample's video; of several the first in this order is it."""

DERIVED_SUFFIX = "safetensors"
"""Of the member that holds what `vidcurate precache` made of a sample, which has no video."""

# WebDataset's rule: the key ends at the first dot of the base name; hidden files have none.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")


@dataclass(frozen=True)
class Place:
    """A member: its suffix in lower case, its name, where its content begins, its size in bytes."""

    suffix: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarSample:
    """What stands together under one key, in the tar's order. key: with its folders."""

    key: str
    members: tuple[Place, ...]

    @property
    def video(self) -> Place | None:
        """The member that holds the video."""
        places = {place.suffix: place for place in self.members}
        return next((places[s] for s in VIDEO_SUFFIXES if s in places), None)


@dataclass(frozen=True)
class TarFault:
    """A part of a tar that cannot be used. key: of a sample, None for other parts.

    offset: of the member's content; None where it is not of one.
    """

    key: str | None
    offset: int | None
    reason: str


def split_name(name: str) -> tuple[str, str] | None:
    """The key and the suffix, in lower case, of a member's name; None where it is of no sample."""
    match = _NAME.fullmatch(name)
    return None if match is None or _META.match(name) else (match[1], match[2].lower())


def tar_samples(tar: Path) -> Iterator[TarSample | TarFault]:
    """The samples of a tar in order, and what is wrong with it.

    Grouped as webdataset groups (`webdataset.tariterators.group_by_keys`): what follows each other
    under one key, the name up to the first dot after the last slash. A key that comes again later,
    which webdataset gives as another sample of the same key, is a fault here, and so is the sample
    that a broken tar ends in. Folders and names like `__this__` are passed over as there, and so
    are names without an ending.
    """
    members: list[Place] = []
    current: str | None = None
    done: set[str] = set()
    again: str | None = None  # a key that is told of already
    try:
        for found in _members(tar):
            if isinstance(found, TarFault):
                yield found
                continue
            key, place = found
            if key == again:
                continue
            if key != current:
                if current is not None:
                    done.add(current)
                    yield TarSample(current, tuple(members))
                current, again, members = key, None, []
            if key in done:
                current, again = None, key
                reason = f"{place.name!r}: its key stood before other keys already"
                yield TarFault(key, place.offset, reason)
            elif any(place.suffix == other.suffix for other in members):
                yield TarFault(key, place.offset, f"{place.name!r}: the sample holds it twice")
            else:
                members.append(place)
    except AcquireError as error:
        last = None if current is None else TarSample(current, tuple(members))
        yield from _after_break(tar, error, last)
    else:
        if current is not None:
            yield TarSample(current, tuple(members))


def _after_break(
    tar: Path, error: AcquireError, last: TarSample | None
) -> Iterator[TarSample | TarFault]:
    """What is to say of the end of a broken tar; `last`: the sample that it breaks off after."""
    reason = str(error).removeprefix(f"{tar}: ")
    parts = split_name((error.member or "") if isinstance(error, BrokenTarError) else "")
    half = parts[0] if parts else (last.key if last else None)
    if last is not None and last.key != half:
        yield last
    if half is not None:
        yield TarFault(half, None, f"{reason}: it may lack members")
    yield TarFault(None, None, f"{reason}; what follows is lost")


def _members(tar: Path) -> Iterator[tuple[str, Place] | TarFault]:
    """The keys and members of a tar, in order."""
    for info in tar_members(tar):
        if info.isdir() or _META.match(info.name):
            continue
        parts = split_name(info.name)
        if reason := _refused(info):
            yield TarFault(parts and parts[0], info.offset_data, f"{info.name!r}: {reason}")
        elif parts is not None:
            yield parts[0], Place(parts[1], info.name, info.offset_data, info.size)


def _refused(info: tarfile.TarInfo) -> str | None:
    """Why a member is not touched; None where it is fine."""
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return "the name is not valid UTF-8"
    if info.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", info.name):
        return "the name leads out of the tar"
    if "\0" in info.name:
        return "the name holds a zero byte"
    if not info.isreg() or info.issparse():
        return "a link, a device or the like, not a regular file"
    return None
