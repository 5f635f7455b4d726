"""Getting the bytes of one video: where they are looked for, and in which order.

A local file is taken as it is, a member of a tar is copied to the cache; a file that is missing is
looked for in the mirrors of the recipe. Of a URL the mirrors are asked first, then the cache, then
the host: video pages through yt-dlp (`acquire.pages`), files by http(s) (`acquire.direct`), or
sections of them (`acquire.sections`).
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidcurate.acquire import archive, direct, mirror, pages, sections
from vidcurate.acquire.cache import SECTIONS, Cache, Meta, check_free, hash_file, shown
from vidcurate.acquire.limits import HostLimits, Stopped, abandonable, host_of, pause
from vidcurate.clip import is_url, short_hash, url_key
from vidcurate.errors import AcquireError, StorageError
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire

__all__ = ["Fetched", "Fetcher", "Stopped", "cache_key"]

_POLL = 0.2  # seconds between looks at `stop` while other transfers of a host are waited for


@dataclass(frozen=True)
class Fetched:
    """A video that is at hand.

    path: a local file, perhaps one of sections (`media.blocks`). rights: what its host says of it
    (license, channel) and, of bytes that came into the cache, retrieved_at and, where they are
    all of the file's, sha256. is_download: it lies in the cache, where
    `Fetcher.forget` drops it. is_mirrored: it was copied there from a mirror, not from its host.
    """

    path: Path
    rights: Mapping[str, str] = field(default_factory=dict)
    is_download: bool = False
    is_mirrored: bool = False


class Fetcher:
    """Fetches videos; one for all threads of a process.

    Args:
        cfg: of the recipe. cache: folder for downloads, made when needed.
        limits: how often hosts are asked, shared by all who ask them.
        stop: when set, what is under way is given up with `Stopped`; parts of files stay.
    """

    def __init__(
        self, cfg: Acquire, cache: Path, limits: HostLimits, stop: threading.Event
    ) -> None:
        for pattern in cfg.mirror:
            mirror.names_of(pattern)  # a mistake in it is told before any work
        self._cfg = cfg
        self._cache = Cache(cache)
        self._limits = limits
        self._stop = stop
        self._transfers: dict[str, threading.BoundedSemaphore] = {}
        self._lock = threading.Lock()

    def fetch(self, row: VideoRow, *, whole: bool = False) -> Fetched:
        """The local file that holds the video of a row. Thread-safe.

        Where `download.sections` is set it may hold only what the row's clips need of the video.
        whole: it holds all of it.

        Where the row's rights name a sha256, downloaded and copied bytes must have it; files that
        are used in place are not read for that.

        Raises:
            AcquireError: missing, unreadable, refused or failed; its class and `is_transient` say
                whether a later try may succeed.
            StorageError: the cache cannot be written, or a download would leave less than
                acquire.min_free.
            UserError: a mirror, the cookies or a proxy that cannot be used as the recipe names it.
            MissingExtraError: a package that this needs is not installed.
            Stopped: `stop` was set.
        """
        location = row.location
        if not is_url(location):
            member = archive.member(location)
            if member is not None:
                return self._extracted(location, *member)
            try:
                return Fetched(_local(location))
            except AcquireError:
                found = self._first_mirror(row, location)
                if found is None:
                    raise
                return found
        scheme = location.partition("://")[0].lower()
        if scheme not in ("http", "https"):
            raise AcquireError(f"{scheme}:// is not handled: give a local path or an http(s) URL")
        try:
            key, host = cache_key(row), host_of(location)
        except ValueError as error:
            raise AcquireError(f"not a valid URL: {error}") from error
        return self._first_mirror(row, key) or self._downloaded(row, key, host, whole=whole)

    def forget(self, row_key: str) -> bool:
        """Drop what the cache holds of that `cache_key`, in all variants, and finished or not.

        True where there was something. Bytes that another video shares stay, and so does what
        another run is about to fetch.
        """
        return self._cache.forget(row_key, wait=False)

    # ------------------------------------------------------------------ ways to the bytes

    def _extracted(self, location: str, tar: Path, name: str) -> Fetched:
        with _storage(self._cache.folder):
            stat = tar.stat()
            # Another tar under the same name must not serve the old bytes.
            variant = short_hash(f"{stat.st_size}:{stat.st_mtime_ns}")
            with self._cache.lock(location, self._stop):
                meta = self._cache.get(location, variant)
                if meta is None:
                    part = self._cache.part(location, variant)
                    check_free(part.parent, self._cfg)
                    archive.extract(tar, name, part, self._cfg.max_size)
                    self._cache.add(location, variant, location, {}, hash_file(part))
        return Fetched(self._cache.path(location, variant), is_download=True)

    def _first_mirror(self, row: VideoRow, key: str) -> Fetched | None:
        """What the first mirror that has the video has; None where none does."""
        for pattern in self._cfg.mirror:
            found = self._mirrored(pattern, row, key)
            if found is not None:
                return found
        return None

    def _mirrored(self, pattern: str, row: VideoRow, key: str) -> Fetched | None:
        place = mirror.place_of(pattern, row)
        if place is None:
            return None
        if not place.is_remote:
            path = mirror.local_file(place)
            return Fetched(path) if path is not None else None
        variant = f"mirror-{short_hash(place.url)}"
        with _storage(self._cache.folder), self._cache.lock(key, self._stop):
            meta = self._cache.get(key, variant)
            if meta is None:
                part = self._cache.part(key, variant)
                url = abandonable(
                    lambda: mirror.copy(place, part, self._cfg, self._stop), self._stop
                )
                if url is None:
                    return None
                meta = self._taken(row, key, variant, url, {}, None)
        return replace(self._fetched(key, variant, meta), is_mirrored=True)

    def _downloaded(self, row: VideoRow, key: str, host: str, *, whole: bool) -> Fetched:
        download = self._cfg.download
        is_part = not whole and (not download or download.sections)
        intervals = sections.intervals_of(row) if is_part else ()
        part_of = f"{SECTIONS}{short_hash(repr(intervals))}" if intervals else ""
        with _storage(self._cache.folder), self._cache.lock(key, self._stop):
            if not download:
                names = [(n, m) for n, m in self._cache.variants(key) if not n.startswith(SECTIONS)]
                if names:
                    return self._fetched(key, *names[0])
                if part_of and (meta := self._cache.get(key, part_of)):
                    return self._fetched(key, part_of, meta)
                raise AcquireError(
                    f"{shown(row.location)}: no mirror has it, and acquire.download is false; put "
                    "it there, or allow downloads, then `vidcurate retry OUT --all`"
                )
            page = f"h{download.max_height or 'best'}"
            for variant in ("file", page, part_of):
                meta = self._cache.get(key, variant) if variant else None
                if meta is not None:
                    return self._fetched(key, variant, meta)
            with self._transfer(host, download.per_host):
                is_page = pages.is_page(row.location)
                if part_of and not is_page:
                    meta = self._sections(row, key, part_of, intervals)
                    if meta is not None:
                        return self._fetched(key, part_of, meta)
                variant, meta = self._whole(row, key, page, is_page=is_page)
        return self._fetched(key, variant, meta)

    def _sections(
        self, row: VideoRow, key: str, variant: str, intervals: tuple[tuple[float, float], ...]
    ) -> Meta | None:
        """What the row's clips need of the file; None where the whole of it should be had."""
        part = self._cache.part(key, variant)
        is_there = abandonable(
            lambda: sections.download_sections(
                row.location, intervals, self._cfg, part, self._limits, self._stop
            ),
            self._stop,
        )
        return self._cache.add(key, variant, row.location, {}, "") if is_there else None

    def _whole(self, row: VideoRow, key: str, page: str, *, is_page: bool) -> tuple[str, Meta]:
        """The whole video from its host; the variant, and what is known of it."""
        rights: Mapping[str, str] = {}
        sha256 = None
        if not is_page:
            part = self._cache.part(key, "file")
            sha256 = abandonable(
                lambda: direct.download(row.location, self._cfg, part, self._limits, self._stop),
                self._stop,
            )
            is_page = sha256 is None
        variant = page if is_page else "file"
        if is_page:
            part = self._cache.part(key, page)
            check_free(part.parent, self._cfg)
            rights = pages.fetch_page(row.location, self._cfg, part, self._limits, self._stop)
        return variant, self._taken(row, key, variant, row.location, rights, sha256)

    # ------------------------------------------------------------------ parts of these

    def _fetched(self, key: str, variant: str, meta: Meta) -> Fetched:
        known = {"retrieved_at": meta.retrieved_at}
        if meta.sha256:
            known["sha256"] = meta.sha256
        return Fetched(self._cache.path(key, variant), {**meta.rights, **known}, True)

    def _taken(
        self,
        row: VideoRow,
        key: str,
        variant: str,
        url: str,
        rights: Mapping[str, str],
        sha256: str | None,
    ) -> Meta:
        """Take a finished part into the cache, if it is what the dataset names."""
        part = self._cache.part(key, variant)
        sha256 = sha256 or hash_file(part)
        expected = row.rights.get("sha256", "").strip().lower()
        if len(expected) == 64 and expected != sha256:
            self._cache.drop_part(key, variant)
            raise AcquireError(
                f"{shown(url)}: not the bytes that the dataset names: their sha256 is {sha256}, "
                f"not {expected}"
            )
        return self._cache.add(key, variant, url, rights, sha256)

    @contextmanager
    def _transfer(self, host: str, per_host: int) -> Iterator[None]:
        """One of the transfers that this process may have from a host at a time."""
        with self._lock:
            slot = self._transfers.setdefault(host, threading.BoundedSemaphore(per_host))
        while not slot.acquire(timeout=_POLL):
            pause(0, self._stop)
        try:
            yield
        finally:
            slot.release()


def cache_key(row: VideoRow) -> str:
    """What the cache knows a row by: its source key; of a member of a tar its location.

    Raises:
        ValueError: not a valid URL.
    """
    if not is_url(row.location):
        return row.location
    return row.key or url_key(row.location)


def _local(location: str) -> Path:
    path = Path(location)
    try:
        if not path.exists():
            broken = "a symbolic link to a missing file" if path.is_symlink() else "no such file"
            raise AcquireError(f"{location}: {broken}")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a device or pipe"
            raise AcquireError(f"{location}: {kind}, not a file")
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise AcquireError(f"{location}: cannot be read: {reason}") from error
    return path


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    """Errors of writing the cache, told as such."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, or set VIDCURATE_CACHE to a larger disk"
        raise StorageError(
            f"{folder}: cannot be written: {error.strerror or error}; "
            + (remedy if full else "set VIDCURATE_CACHE to a folder that can be")
        ) from error
