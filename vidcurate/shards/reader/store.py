"""Reading pieces of shards, from a local folder or from any store that fsspec knows."""

from __future__ import annotations

import errno
import functools
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from vidcurate.clip import is_url
from vidcurate.durable import replacing
from vidcurate.errors import (
    MissingExtraError,
    ShardMissingError,
    ShardTruncatedError,
    StoreError,
    StoreFailedError,
    StoreRefusedError,
    StoreStalledError,
    UserError,
)
from vidcurate.shards.reader.cache import Cache

_T = TypeVar("_T")
_Range = tuple[str, int, int]
_OPEN_FILES = 64
_BLOCK = 16 * 1024**2  # of a file that is copied whole
_AT_ONCE = 16  # requests of read_many
_GAP = 64 * 1024  # ranges that lie nearer to each other are one request
_PAUSE = 0.25  # seconds before the second attempt; doubles
_MAY_PASS = (408, 425, 429)  # refusals that another attempt may not meet
_HTTP = ("http://", "https://")
_URL = re.compile(r"\w+://[^\s'\"]+")
_LOCAL = ("file://", "local://")


class Store:
    """One folder, on this machine or in a store, that is read by byte ranges.

    Reads are safe in threads and after a fork. What a pickle holds is the arguments only.

    Args:
        root: a local folder, or a URL of fsspec ("s3://bucket/folder", "https://...").
        options: of fsspec's file system (credentials, endpoints).
        cache: keeps what was read from a remote store, once `version` is set.
        timeout: seconds that one attempt of one read may take. attempts: of a read that fails in a
            way that may pass; between them the pause doubles.

    Attributes:
        is_remote: read through fsspec.
        version: of what lies below root (the digest of its index), as the cache keeps it under;
            "" (default): nothing is cached.

    Raises:
        UserError: fsspec does not know the store. MissingExtraError: its package is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        timeout: float = 30.0,
        attempts: int = 3,
    ) -> None:
        given = str(root)
        for prefix in _LOCAL:
            given = given.removeprefix(prefix)
        self.is_remote = is_url(given)
        self.root = (
            given.rstrip("/") if self.is_remote else str(Path(given).expanduser().absolute())
        )
        self.options = dict(options or {})
        self.cache = cache
        self.timeout = timeout
        self.attempts = attempts
        self.version = ""
        self._start()
        if self.is_remote:
            self._remote_system()  # mistakes in the URL show here

    def _start(self) -> None:
        # An lru_cache takes no lock of Python's, so that a fork in another thread cannot break it;
        # a file that it gives up closes with the last read of it.
        self._opened = functools.lru_cache(_OPEN_FILES)(_LocalFile)
        self._system: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_system")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def patience(self) -> float:
        """Seconds that a `read` may take at most, all its attempts together; 0 of a local one."""
        pauses = _PAUSE * (2 ** (self.attempts - 1) - 1)
        return self.attempts * self.timeout + pauses if self.is_remote else 0.0

    # ------------------------------------------------------------------ reading

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of a file below root, from `offset`.

        Raises:
            StoreError: one of its family; it names the place. StoreFailedError and
                StoreStalledError are transient.
        """
        data = self._at_hand(path, offset, size)
        if data is None:
            data = self._read_remote(path, offset, size)
            self._keep(path, offset, data)
        return data

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | StoreError]:
        """Several ranges (path, offset, size), each its bytes or the error that reading it gave.

        From a remote store several at a time, and neighbours in one request.
        """
        if not self.is_remote:
            return [self._tried(range_) for range_ in ranges]
        # Each is kept by itself: another time it has other neighbours.
        result: list[bytes | StoreError] = [b""] * len(ranges)
        wanted = []
        for i, range_ in enumerate(ranges):
            try:
                found = self._at_hand(*range_)
            except StoreError as error:
                result[i] = error
                continue
            if found is None:
                wanted.append(i)
            else:
                result[i] = found
        groups = iter(_groups(ranges, wanted))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    places = next(groups, None)
                if places is None:
                    return
                for i, data in zip(
                    places, self._neighbours([ranges[i] for i in places]), strict=True
                ):
                    result[i] = data

        threads = [
            threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(wanted)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return result

    def _neighbours(self, ranges: Sequence[_Range]) -> list[bytes | StoreError]:
        """Ranges of one file, sorted, in one request."""
        if len(ranges) == 1:
            return [self._tried(ranges[0])]
        path, first, _ = ranges[0]
        try:
            data = self._read_remote(path, first, max(o + s for _, o, s in ranges) - first)
        except ShardTruncatedError:
            # One that lies past the end of the file does not spoil its neighbours.
            return [self._tried(range_) for range_ in ranges]
        except StoreError as error:
            return [error] * len(ranges)
        parts = [data[offset - first :][:size] for _, offset, size in ranges]
        for (_, offset, _), part in zip(ranges, parts, strict=True):
            self._keep(path, offset, part)
        return list(parts)

    def _tried(self, range_: tuple[str, int, int]) -> bytes | StoreError:
        try:
            return self.read(*range_)
        except StoreError as error:
            return error

    def read_all(self, path: str) -> bytes:
        """The whole of a small file below root; never cached.

        Raises:
            StoreError: as of `read`.
        """
        check_path(path)
        if not self.is_remote:
            return self._read_local(path, 0, None)
        data: bytes = self._asked(path, lambda fs, full: fs.cat_file(full))
        return data

    def size(self, path: str) -> int:
        """Bytes of a file below root.

        Raises:
            StoreError: as of `read`, and where the store does not tell.
        """
        check_path(path)
        if not self.is_remote:
            return self._local(path).size
        size = self._asked(path, lambda fs, full: fs.info(full).get("size"))
        if size is None:
            raise StoreRefusedError(f"{self.shown(path)}: the store does not tell its size")
        return int(size)

    def exists(self, path: str) -> bool:
        """Whether there is such a file below root.

        Raises:
            StoreError: that cannot be told.
        """
        try:
            self.size(path)
        except ShardMissingError:
            return False
        return True

    def copy(self, path: str, to: Path) -> None:
        """Copy a file below root to a local one, a block at a time.

        Raises:
            StoreError: as of `read`. StorageError: `to` cannot be written.
        """
        size = self.size(path)
        with replacing(to) as temporary, temporary.open("wb") as file:
            for offset in range(0, size, _BLOCK):
                length = min(_BLOCK, size - offset)
                if self.is_remote:
                    file.write(self._read_remote(path, offset, length))
                else:
                    file.write(self._read_local(path, offset, length))

    def shown(self, path: str) -> str:
        """The place of a path, as messages show it: without user, password and query."""
        from vidcurate.acquire.cache import shown

        return shown(f"{self.root}/{path}")

    def _at_hand(self, path: str, offset: int, size: int) -> bytes | None:
        """A range of a local file or of the cache; None where it must be asked for.

        Raises:
            StoreError: a range that cannot be, or a local file that cannot be read.
        """
        check_path(path)
        if offset < 0 or size < 0:
            raise StoreError(f"{self.shown(path)}: {_range(offset, size)} cannot be: see its index")
        if size == 0:
            return b""
        if not self.is_remote:
            return self._read_local(path, offset, size)
        if self.cache is None or not self.version:
            return None
        return self.cache.get((self.root, path, offset, size, self.version), size)

    def _keep(self, path: str, offset: int, data: bytes) -> None:
        if self.cache is not None and self.version:
            self.cache.put((self.root, path, offset, len(data), self.version), data)

    # ------------------------------------------------------------------ local

    def _local(self, path: str) -> _LocalFile:
        try:
            return self._opened(f"{self.root}/{path}")
        except OSError as error:
            raise self._failed(path, error) from error

    def _read_local(self, path: str, offset: int, size: int | None) -> bytes:
        file = self._local(path)
        size = file.size if size is None else size
        try:
            # Its size goes before: a wrong index must not ask for a terabyte of memory.
            data = file.read(offset, size) if offset + size <= file.size else b""
        except OSError as error:
            self._opened.cache_clear()
            raise self._failed(path, error) from error
        if len(data) != size:
            raise self._truncated(path, offset, size, file.size)
        return data

    # ------------------------------------------------------------------ remote

    def _read_remote(self, path: str, offset: int, size: int) -> bytes:
        def request(fs: Any, full: str) -> bytes:
            data: bytes = fs.cat_file(full, start=offset, end=offset + size)
            if len(data) > size:
                raise StoreRefusedError(
                    f"{self.shown(path)}: the server ignores byte ranges (asked for {size} bytes, "
                    f"it sent {len(data)}); serve the shards from one that knows them, or copy them"
                )
            if len(data) < size:
                whole = fs.info(full).get("size")
                if whole is None or whole < offset + size:
                    raise self._truncated(path, offset, size, whole)
                raise ConnectionError(f"sent {len(data)} of {size} bytes")
            return data

        try:
            return self._asked(path, request)
        except StoreRefusedError as error:
            if _status(error.__cause__) == 416:
                raise self._truncated(path, offset, size, None) from error
            raise

    def _asked(self, path: str, request: Callable[[Any, str], _T]) -> _T:
        """The answer to a request, after as many attempts as it takes and may take."""
        from vidcurate.acquire.mirror import store_errors

        attempt = 1
        while True:
            system, root = self._remote_system()
            full = f"{root}/{quote(path) if self.root.startswith(_HTTP) else path}"
            try:
                return _within(self.timeout, functools.partial(request, system, full))
            except queue.Empty:
                error = self._stalled(path, attempt)
            except store_errors() as cause:
                error = self._failed(path, cause, attempt)
                error.__cause__ = cause
            if not error.is_transient or attempt >= self.attempts:
                raise error
            time.sleep(_PAUSE * 2 ** (attempt - 1))
            attempt += 1

    def _remote_system(self) -> tuple[Any, str]:
        """fsspec's file system and root of this process: they do not survive a fork."""
        if self._system is None or self._system[0] != os.getpid():
            from fsspec.core import url_to_fs

            from vidcurate.acquire.mirror import STORE_PACKAGES

            protocol = self.root.partition("://")[0].split("::")[-1]
            try:
                system, root = url_to_fs(self.root, skip_instance_cache=True, **self.options)
            except ImportError as error:
                package = STORE_PACKAGES.get(protocol, protocol)
                raise MissingExtraError(
                    f"{protocol}:// needs {package}: pip install {package}"
                ) from error
            except ValueError as error:
                raise UserError(f"{self.shown('')}: {error}") from error
            self._system = (os.getpid(), system, root.rstrip("/"))
        return self._system[1], self._system[2]

    # ------------------------------------------------------------------ errors

    def _failed(self, path: str, error: BaseException, attempt: int = 1) -> StoreError:
        where = self.shown(path)
        status = _status(error)
        if isinstance(error, FileNotFoundError | NotADirectoryError) or status in (404, 410):
            return ShardMissingError(
                f"{where} is not there, though the index names it; copy it there, or pack again"
            )
        if isinstance(error, PermissionError) or (
            status is not None and 400 <= status < 500 and status not in _MAY_PASS
        ):
            return StoreRefusedError(
                f"{where}: the store refuses to let it be read ({_said(error)}); mend the "
                "permissions, or give credentials in the store's options"
            )
        if isinstance(error, TimeoutError):  # fsspec's own deadline
            return self._stalled(path, attempt)
        if isinstance(error, IsADirectoryError):
            return StoreRefusedError(f"{where} is a folder, and the index says it is a file")
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            return StoreFailedError(f"{where}: too many open files; raise `ulimit -n`")
        return StoreFailedError(
            f"{where} cannot be read, {attempt} time(s): {_said(error)}; see whether the store or "
            "disk is well, and go on from the last state"
        )

    def _stalled(self, path: str, attempt: int) -> StoreError:
        return StoreStalledError(
            f"{self.shown(path)}: no answer within {self.timeout:g} s, {attempt} time(s); see "
            "whether the store can be reached from here, or raise the timeout"
        )

    def _truncated(self, path: str, offset: int, size: int, whole: int | None) -> StoreError:
        ends = "ends before" if whole is None else f"has {whole} bytes and ends before"
        return ShardTruncatedError(
            f"{self.shown(path)} {ends} {_range(offset, size)}; it was not copied whole, or it is "
            "not the shard that was indexed: copy it again, or pack again"
        )


class _LocalFile:
    """A file that stays open as long as this object is held. size: bytes when it was opened."""

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._handle).st_size

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._handle, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]  # Linux gives at most 2 GiB at a time
        while (left := size - sum(map(len, parts))) > 0:
            part = os.pread(self._handle, left, offset + size - left)
            if not part:
                break
            parts.append(part)
        return b"".join(parts)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` is kept: at the end of the program this module may be taken down before.
        handle = self.__dict__.pop("_handle", None)
        if handle is not None:
            close(handle)


@functools.lru_cache(65536)
def check_path(path: str) -> None:
    """Refuse what an index must not name: it is data, and may be anyone's.

    Raises:
        StoreError: the path is not below the index's folder.
    """
    if (
        not path
        or path.startswith("/")
        or "\\" in path
        or "::" in path
        or is_url(path)
        or ".." in PurePosixPath(path).parts
        or not path.isprintable()
    ):
        raise StoreError(
            f"the index names {path!r}, which is no path below its folder; it is damaged or made "
            "to harm: do not use it"
        )


def _within(timeout: float, call: Callable[[], _T]) -> _T:
    """What a call returns or raises, or queue.Empty after `timeout` seconds.

    The call runs in a daemon thread: one that never ends hinders neither the caller nor the end
    of the process (the threads of concurrent.futures would).
    """
    answers: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 (raised again where the caller waits)
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    value, error = answers.get(timeout=timeout)
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _groups(ranges: Sequence[_Range], wanted: Sequence[int]) -> Iterator[list[int]]:
    """Those of the wanted places that are read in one request: of one file, near to each other."""
    order = sorted(wanted, key=lambda i: ranges[i][:2])
    group: list[int] = []
    end = 0
    for i in order:
        path, offset, size = ranges[i]
        if group and (path != ranges[group[0]][0] or offset - end > _GAP):
            yield group
            group = []
        end = max(end, offset + size) if group else offset + size
        group.append(i)
    if group:
        yield group


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error of a store bears, whichever library it is of."""
    # Not of its causes: aiohttp's for an answer that broke off bears a made-up 400.
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    while error is not None:  # botocore's error is the cause of what s3fs raises
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return value if isinstance(value, int) else None
        error = error.__cause__
    return None


def _said(error: BaseException) -> str:
    """What an error says of itself, URLs without what may be secret in them."""
    from vidcurate.acquire.cache import shown

    status = _status(error)
    if status is not None:
        return f"HTTP status {status}"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    text = _URL.sub(lambda url: shown(url[0]), str(error))
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def _range(offset: int, size: int) -> str:
    return f"bytes {offset} to {offset + size}"
