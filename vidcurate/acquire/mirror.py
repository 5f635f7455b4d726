"""Places of the user's own that are looked at before a download: `acquire.mirror`.

A folder is used in place, an object store is read by fsspec. The pattern is the user's and is
trusted; the values that are put into it come from a dataset and are not.
"""

from __future__ import annotations

import glob
import string
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcurate.acquire.cache import check_free, shown
from vidcurate.acquire.limits import Stopped
from vidcurate.clip import url_key
from vidcurate.errors import (
    AcquireError,
    MissingExtraError,
    TransferError,
    UserError,
    VidcurateError,
)
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire

_BLOCK = 1024 * 1024
_VIDEOS = (
    *(".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
    *(".ts", ".webm", ".wmv"),
)
# What downloaders leave beside a video, or instead of one.
_BESIDE = (
    *(".description", ".jpeg", ".jpg", ".json", ".part", ".png", ".srt", ".txt", ".vtt", ".webp"),
    ".ytdl",
)
STORE_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs",
                  "abfs": "adlfs", "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko",
                  "ssh": "paramiko", "hf": "huggingface_hub", "smb": "smbprotocol"}  # fmt: skip
"""The package that fsspec needs for the URLs of a protocol."""

# Errors of stores that are no OSError; only of what is loaded, so nothing is imported for them.
_ERRORS = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("ftplib", "Error"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("paramiko", "SSHException"),
    ("zipfile", "BadZipFile"),
)


@dataclass(frozen=True)
class Place:
    """Where a mirror would have a video.

    url: the pattern with its names filled in; `search` the same for globbing: characters of the
    values that glob would take for wildcards are escaped. base: the folder that a local pattern
    begins with. is_search: the pattern has wildcards; is_any_ending: its only one is `.*` at its
    end.
    """

    url: str
    search: str
    base: str
    is_search: bool
    is_any_ending: bool

    @property
    def is_remote(self) -> bool:
        """True for object stores and archives, False for a local folder."""
        return "://" in self.url


def names_of(pattern: str) -> list[str]:
    """The names in braces of a pattern.

    Raises:
        UserError: braces that do not match, or more than a name in them.
    """
    try:
        found = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise UserError(f"acquire.mirror: {pattern!r} is not a pattern: {error}") from error
    for _, name, form, conversion in found:
        if name == "" or form or conversion:
            raise UserError(f"acquire.mirror: {pattern!r}: braces hold a name, as in {{video_id}}")
    return [name for _, name, _, _ in found if name is not None]


def place_of(pattern: str, row: VideoRow) -> Place | None:
    """Where the mirror of that pattern would have the video of a row.

    `{video_id}` is the YouTube id of the row's key `youtube:...`, else the dataset's own id; other
    names are the dataset's columns of the video. None where the row has no value for a name.

    Raises:
        UserError: a name that the dataset has no column for.
        AcquireError: a value that must not be put into a path.
    """
    pattern = pattern.removeprefix("file://").removeprefix("local://")
    values: dict[str, str] = {}
    for name in names_of(pattern):
        value = _value(name, pattern, row)
        if value is None or value == "":
            return None
        _check_value(name, value)
        values[name] = value
    first = min((i for i in (pattern.find("{"), pattern.find("*")) if i >= 0), default=len(pattern))
    return Place(
        url=_filled(pattern, values),
        search=_filled(pattern, {name: glob.escape(v) for name, v in values.items()}),
        base=pattern[:first].rpartition("/")[0] or ("/" if pattern.startswith("/") else "."),
        is_search=glob.has_magic(pattern),
        is_any_ending=pattern.endswith(".*") and not glob.has_magic(pattern[:-1]),
    )


def local_file(place: Place) -> Path | None:
    """The file that a local mirror has; None where it has none.

    Of several that fit a pattern one with the ending of a video is taken, else the first by name.
    A pattern that ends in `.*` is tried with the endings of videos first: to look through a folder
    of a million files takes about a second.

    Raises:
        TransferError: the mirror's folder is not there or cannot be read.
    """
    base = Path(place.base).expanduser()
    if not base.is_dir():
        raise TransferError(f"acquire.mirror: there is no folder {base} (is it mounted?)")
    try:
        found = _existing(place)
    except OSError as error:
        raise TransferError(f"acquire.mirror: {place.url}: {error.strerror}") from error
    return found.absolute() if found is not None else None


def _existing(place: Place) -> Path | None:
    path = Path(place.url).expanduser()
    if not place.is_search:
        return path if path.is_file() else None
    if place.is_any_ending:
        for suffix in _VIDEOS:
            candidate = path.with_name(path.name.removesuffix(".*") + suffix)
            if candidate.is_file():
                return candidate
    matches = glob.glob(str(Path(place.search).expanduser()))
    best = _best([match for match in matches if Path(match).is_file()])
    return Path(best) if best is not None else None


def copy(place: Place, part: Path, cfg: Acquire, stop: threading.Event) -> str | None:
    """Copy the file that a remote mirror has to `part`; its URL, None where it has none.

    Raises:
        AcquireError: it is larger than cfg.max_size.
        TransferError: the store cannot be reached or read, or it takes longer than cfg.timeout.
        StorageError: less than cfg.min_free would be left.
        UserError: fsspec does not know the store. MissingExtraError: its package is not installed.
        Stopped: `stop` was set.
    """
    # Imported here, as most runs have no such mirror.
    from fsspec.core import url_to_fs

    deadline = time.monotonic() + cfg.timeout
    where = shown(place.url)
    protocol = place.url.partition("://")[0].split("::")[-1]
    try:
        store, path = url_to_fs(place.search if place.is_search else place.url)
        found = _found(store, path, place.is_search)
        size = (store.info(found).get("size") or 0) if found is not None else 0
    except ImportError as error:
        package = STORE_PACKAGES.get(protocol, protocol)
        raise MissingExtraError(
            f"acquire.mirror: {protocol}:// needs {package}: pip install {package}"
        ) from error
    except store_errors() as error:
        raise TransferError(f"acquire.mirror: {where} cannot be read: {error}") from error
    except ValueError as error:  # no such protocol, or no such name of a bucket
        raise UserError(f"acquire.mirror: {where}: {error}") from error
    if found is None:
        return None
    _check_size(size, cfg, where)
    check_free(part.parent, cfg, size)
    if stop.is_set():
        raise Stopped
    try:
        with part.open("wb") as file:
            for block in _blocks(store, found, where):
                if stop.is_set():
                    raise Stopped
                file.write(block)
                _check_size(file.tell(), cfg, where)
                if time.monotonic() > deadline:
                    raise TransferError(
                        f"{where}: took longer than acquire.timeout ({cfg.timeout:g} s)"
                    )
        if part.stat().st_size == 0:
            raise AcquireError(f"{where}: the file is empty")
    except (VidcurateError, OSError):
        part.unlink(missing_ok=True)
        raise
    return str(store.unstrip_protocol(found))


def _blocks(store: Any, path: str, where: str) -> Iterator[bytes]:
    """The bytes of a store's file. Its errors are told apart from those of writing to the cache."""
    try:
        with store.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except store_errors() as error:
        raise TransferError(f"acquire.mirror: {where} cannot be read: {error}") from error


def _found(store: Any, path: str, is_search: bool) -> str | None:
    try:
        if not is_search:
            # Not `isfile`: that says False as well when the store cannot be reached.
            return path if _is_file(store.info(path)) else None
        return _best([p for p, info in store.glob(path, detail=True).items() if _is_file(info)])
    except FileNotFoundError:
        return None


def _is_file(info: Mapping[str, Any]) -> bool:
    return info.get("type") == "file"


def _best(paths: Sequence[str]) -> str | None:
    """The path with a video's ending, else the first by name that is no side file."""

    def suffix(path: str) -> str:
        return Path(path).suffix.lower()

    wanted = [p for p in paths if suffix(p) not in _BESIDE]
    return min(wanted, key=lambda p: (suffix(p) not in _VIDEOS, p), default=None)


def _filled(pattern: str, values: Mapping[str, str]) -> str:
    parts = string.Formatter().parse(pattern)
    return "".join(text + (values[name] if name else "") for text, name, _, _ in parts)


def _value(name: str, pattern: str, row: VideoRow) -> str | None:
    if name == "video_id":
        key = row.key or url_key(row.location)
        return key.removeprefix("youtube:") if key.startswith("youtube:") else row.dataset_id
    if name not in row.fields:
        known = ", ".join(["video_id", *sorted(row.fields)])
        raise UserError(
            f"acquire.mirror: {pattern}: the dataset has no column {name!r} of its videos; "
            f"names that it has: {known}"
        )
    value = row.fields[name]
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise UserError(
            f"acquire.mirror: {pattern}: the column {name!r} holds no text and no whole number"
        )
    return None if value is None else str(value)


def _check_value(name: str, value: str) -> None:
    """Refuse what leads to another folder or store, or means more than itself in a URL."""
    is_bad = (
        value.startswith(("/", "~"))
        or ".." in value.split("/")
        or "::" in value
        or "://" in value
        or not value.isprintable()
    )
    if is_bad:
        raise AcquireError(
            f"acquire.mirror: {{{name}}} is {value!r} in this row, which must not be in a path"
        )


def _check_size(size: int, cfg: Acquire, where: str) -> None:
    if size > cfg.max_size:
        raise AcquireError(f"{where}: larger than acquire.max_size ({cfg.max_size} bytes)")


def store_errors() -> tuple[type[BaseException], ...]:
    """What stores raise; evaluated when something was raised, so their modules are loaded."""
    loaded = [(sys.modules[m], name) for m, name in _ERRORS if m in sys.modules]
    return (OSError, *(getattr(module, name) for module, name in loaded if hasattr(module, name)))
