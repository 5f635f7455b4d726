"""Downloaded videos on disk, shared between recipes and processes.

    <cache>/content/<sha256>              the bytes, once
    <cache>/videos/<key>/<variant>        a hard link to them; key: hash of the source key,
                                          variant: such as "file" or "h720". Of "sections-..." a
                                          file of its own, in the format of media.blocks
    <cache>/videos/<key>/<variant>.json   url (no query), retrieved_at, sha256, size, rights
    <cache>/videos/<key>/<variant>.part   an unfinished download, kept for the next try
    <cache>/videos/<key>/lock             held by the process that works on this key

A video is there when its .json is: that is written last. Where a file system has no hard links
the bytes lie under the video's own name alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from vidcurate.acquire.limits import Stopped, pause
from vidcurate.clip import is_url, short_hash, url_key
from vidcurate.errors import StorageError
from vidcurate.recipe.model import Acquire

SECTIONS = "sections-"
"""What the names of variants begin with that hold sections of a video."""

_USER = re.compile(r"^([^:/?#]+://)[^/?#]*@")
_FRAGMENT = re.compile(r"[?#].*", re.DOTALL)
_POLL = 0.1  # seconds between looks at a lock that another holds


@dataclass(frozen=True)
class Meta:
    """What is known of a cached video.

    url: where it came from, without query and user (`shown`). retrieved_at: UTC, ISO 8601.
    size: bytes. rights: what the host says (license, channel). sha256: "" of sections, whose
    bytes are not the video's.
    """

    url: str
    retrieved_at: str
    sha256: str
    size: int
    rights: Mapping[str, str]


class Cache:
    """The cache in a folder, which is made when something comes in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str, variant: str) -> Path:
        """Where a variant of the video of that source key lies, or will lie."""
        return self.folder / "videos" / short_hash(key) / variant

    def part(self, key: str, variant: str) -> Path:
        """Where its unfinished download lies."""
        return _beside(self.path(key, variant), "part")

    def drop_part(self, key: str, variant: str) -> None:
        """Remove an unfinished download."""
        part = self.part(key, variant)
        part.unlink(missing_ok=True)
        _beside(part, "json").unlink(missing_ok=True)

    def get(self, key: str, variant: str) -> Meta | None:
        """What is known of a cached video; None where it is not there, or not whole."""
        path = self.path(key, variant)
        try:
            meta = Meta(**json.loads(_beside(path, "json").read_text(encoding="utf-8")))
            return meta if path.stat().st_size == meta.size else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def variants(self, key: str) -> list[tuple[str, Meta]]:
        """All that is there of a video, by name."""
        names = sorted(p.stem for p in self.path(key, "lock").parent.glob("*.json"))
        found = [(name, self.get(key, name)) for name in names]
        return [(name, meta) for name, meta in found if meta is not None]

    def add(self, key: str, variant: str, url: str, rights: Mapping[str, str], sha256: str) -> Meta:
        """Take the finished `part` of a video in; sha256 is that of its bytes. Under `lock`.

        Without a sha256 no other video shares the bytes.

        Raises:
            OSError: the cache cannot be written.
        """
        path, part = self.path(key, variant), self.part(key, variant)
        meta = Meta(
            url=shown(url),
            retrieved_at=datetime.now(UTC).isoformat(timespec="seconds"),
            sha256=sha256,
            size=part.stat().st_size,
            rights=dict(rights),
        )
        _sync(part)  # the name must never be on disk before the bytes
        part.replace(path)
        if sha256:
            self._share(path, sha256)
        told = _beside(path, "json.tmp")
        told.write_text(json.dumps(asdict(meta)), encoding="utf-8")
        told.replace(_beside(path, "json"))
        _beside(part, "json").unlink(missing_ok=True)
        return meta

    def forget(self, key: str, *, wait: bool = True) -> bool:
        """Drop all variants of a video, unfinished ones too; True where there was one.

        The bytes go when no other video has the same. wait: for one who holds the `lock`, which
        may take as long as a download; else what that one works on is left to them.
        """
        folder = self.path(key, "lock").parent
        if not folder.is_dir():
            return False
        stop = threading.Event()
        if not wait:
            stop.set()
        try:
            with self.lock(key, stop):
                metas = self.variants(key)
                names = [p for p in folder.iterdir() if p.name != "lock"]
                for path in names:
                    path.unlink(missing_ok=True)
                for _, meta in metas:
                    if meta.sha256:
                        self._drop_content(meta.sha256)
        except Stopped:
            return False
        return bool(names)

    @contextmanager
    def lock(self, key: str, stop: threading.Event) -> Iterator[None]:
        """Only one process and thread works on a key; the lock dies with its process.

        Raises:
            Stopped: `stop` was set while another held it.
        """
        path = self.path(key, "lock")
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except (FileExistsError, FileNotFoundError):
                if path.parent.is_file():
                    raise
                continue  # one who held the lock has just removed the empty folder
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # One who held it before may have removed the file.
                if path.stat().st_ino == os.fstat(handle).st_ino:
                    break
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(handle)
            pause(_POLL, stop)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)
            _remove_if_empty(path.parent)

    def _share(self, path: Path, sha256: str) -> None:
        """Make the file at `path` a link to the content of that hash; it becomes the content
        where there is none yet."""
        content = self.folder / "content" / sha256
        content.parent.mkdir(parents=True, exist_ok=True)
        link = _beside(path, "link")
        link.unlink(missing_ok=True)
        try:
            os.link(path, content)
        except FileExistsError:
            # Dropped by another in this moment, or too many links: the file stays one of its own.
            with suppress(OSError):
                os.link(content, link)
                link.replace(path)
        except OSError:
            pass  # no hard links here

    def _drop_content(self, sha256: str) -> None:
        content = self.folder / "content" / sha256
        with suppress(FileNotFoundError):
            # Should another video link to it just now, that one keeps the bytes by its own name.
            if content.stat().st_nlink == 1:
                content.unlink()


def check_free(folder: Path, cfg: Acquire, coming: int = 0) -> None:
    """See that `coming` more bytes leave cfg.min_free on the disk of a folder.

    Raises:
        StorageError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if free - coming < cfg.min_free:
        raise StorageError(
            f"{folder}: {free} bytes are free, and a download must leave acquire.min_free "
            f"({cfg.min_free} bytes); free some space, keep fewer downloads "
            "(acquire.keep_sources), or set VIDCURATE_CACHE to a larger disk"
        )


def hash_file(path: Path) -> str:
    """Hex sha256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(location: str) -> str:
    """A location as messages and records show it: a URL without the user, the query and the
    fragment, which may hold secrets; a path as it is. Of a YouTube video its id stays."""
    if not is_url(location):
        return location
    with suppress(ValueError):  # no valid URL
        if (key := url_key(location)).startswith("youtube:"):
            return f"https://www.youtube.com/watch?v={key.removeprefix('youtube:')}"
    return _FRAGMENT.sub("", _USER.sub(r"\1", location))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, or gone
        folder.rmdir()
