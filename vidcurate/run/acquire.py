"""Getting the bytes of one video: a local file as it is, a URL into the cache.

Downloads are by http(s) only and never from private addresses (loopback, local networks, cloud
metadata services): a dataset's URLs are written by strangers. Each address is resolved once,
checked, and that very address is connected to, so that a name cannot change in between; redirects
are checked in the same way. Proxies and netrc of the environment are not used.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vidcurate.clip import is_url, short_hash, url_key
from vidcurate.errors import AcquireError, MissingExtraError
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire

if TYPE_CHECKING:
    import httpx

_REDIRECTS = 10
_STALL = 30.0  # seconds without a connection or a byte
_RETRY_LATER = frozenset((408, 425, 429))
_HEADERS = {"User-Agent": "vidcurate", "Accept": "*/*", "Accept-Encoding": "identity"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def acquire(row: VideoRow, cfg: Acquire, cache: Path) -> Path:
    """The local file that holds the video of `row`.

    Args:
        row: a local path is checked and returned as it is; an http(s) URL is downloaded to
            `cache`, once for all rows of that URL.
        cfg: allow_hosts (`host:port` of private addresses that are fine), timeout of the whole
            download, max_size of the file.
        cache: folder for downloads, made when missing. Files there are whole: they are written
            under another name first.

    Raises:
        AcquireError: the file is missing, no file or unreadable; the download is refused or
            failed (transient where a later try may succeed).
        MissingExtraError: a URL, and httpx is not installed.
        OSError: the cache cannot be written, for example because the disk is full.
    """
    if not is_url(row.location):
        return _local(row.location)
    scheme = row.location.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise AcquireError(f"{scheme}:// is not handled: give a local path or an http(s) URL")
    try:
        import httpx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "downloading needs httpx: pip install 'vidcurate[download]'"
        ) from error
    try:
        target = cached(row.location, cache)
    except ValueError as error:
        raise AcquireError(f"not a valid URL: {error}") from error
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _download(row.location, cfg, target)
    return target


def cached(url: str, cache: Path) -> Path:
    """Where the download of a URL lies in the cache."""
    return cache / short_hash(url_key(url))


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


def _download(url: str, cfg: Acquire, target: Path) -> None:
    deadline = time.monotonic() + cfg.timeout
    handle, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, _answer(url, cfg, deadline) as (answer, shown):
            size = 0
            for chunk in answer.iter_bytes():
                size += len(chunk)
                _check_size(size, cfg, shown)
                _left(deadline, cfg, shown)
                file.write(chunk)
            if size == 0:
                raise AcquireError(f"{shown}: the answer is empty")
            file.flush()
            os.fsync(file.fileno())  # the name must never be on disk before the bytes
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _answer(url: str, cfg: Acquire, deadline: float) -> Iterator[tuple[httpx.Response, str]]:
    """The answer to a GET of the URL, redirects followed, its body unread; and the URL as shown.

    Errors of the transfer, in the caller's block too, become AcquireErrors.
    """
    import httpx

    shown = "the video's URL"
    # One connection a video and none kept: nothing is shared between hosts.
    with httpx.Client(trust_env=False, follow_redirects=False, headers=_HEADERS) as client:
        try:
            where = httpx.URL(url)
            for _ in range(_REDIRECTS + 1):
                # Without the query and the user's name: both hold secrets.
                shown = f"{where.scheme}://{where.host}{where.path}"
                answer = _get(client, where, cfg, deadline, shown)
                try:
                    if not answer.has_redirect_location:
                        _check_status(answer, cfg, shown)
                        yield answer, shown
                        return
                    where = where.join(answer.headers["location"])
                finally:
                    answer.close()
            raise AcquireError(f"{shown}: more than {_REDIRECTS} redirects")
        except httpx.InvalidURL as error:
            raise AcquireError(f"{shown}: not a valid URL: {error}") from error
        except httpx.TimeoutException as error:
            raise AcquireError(f"{shown}: no answer in time", transient=True) from error
        except httpx.DecodingError as error:
            raise AcquireError(f"{shown}: the answer's encoding is broken: {error}") from error
        except httpx.TransportError as error:
            raise AcquireError(
                f"{shown}: the connection failed: {error}", transient=True
            ) from error


def _get(
    client: httpx.Client, url: httpx.URL, cfg: Acquire, deadline: float, shown: str
) -> httpx.Response:
    """Ask for the URL at one of its checked addresses, the next one where none answers."""
    import httpx

    if url.scheme not in ("http", "https") or not url.host:
        raise AcquireError(f"{shown}: only http and https are downloaded")
    addresses = _addresses(url, cfg, shown)
    for i, address in enumerate(addresses):
        left = min(_left(deadline, cfg, shown), _STALL)
        request = client.build_request(
            "GET",
            url.copy_with(host=address),
            headers={"Host": url.netloc.decode("ascii")},
            timeout=left,
            # The certificate must be that of the name, not of the address.
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if i == len(addresses) - 1:
                raise
    raise AssertionError("a resolved host has an address")


def _addresses(url: httpx.URL, cfg: Acquire, shown: str) -> list[str]:
    """The addresses of the URL's host, all of them public, or of an allowed host."""
    port = url.port or (443 if url.scheme == "https" else 80)
    host = url.raw_host.decode("ascii")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        later = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        raise AcquireError(f"{shown}: the host is not found: {error}", transient=later) from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if f"{url.host.lower()}:{port}" not in {allowed.lower() for allowed in cfg.allow_hosts}:
        private = [address for address in addresses if not _is_public(address)]
        if private:
            raise AcquireError(
                f"{shown}: {private[0]} is not a public address, which is refused; if it is meant, "
                f"add {url.host}:{port} to acquire.allow_hosts"
            )
    return addresses


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # IPv6 forms that carry an IPv4 address lead to it.
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


def _check_status(answer: httpx.Response, cfg: Acquire, shown: str) -> None:
    status = answer.status_code
    if status != 200:
        raise AcquireError(
            f"{shown}: HTTP {status} {answer.reason_phrase}".rstrip(),
            transient=status >= 500 or status in _RETRY_LATER,
        )
    stated = answer.headers.get("content-length", "")
    if stated.isdecimal():
        _check_size(int(stated), cfg, shown)


def _check_size(size: int, cfg: Acquire, shown: str) -> None:
    if size > cfg.max_size:
        raise AcquireError(f"{shown}: larger than acquire.max_size ({cfg.max_size} bytes)")


def _left(deadline: float, cfg: Acquire, shown: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise AcquireError(
            f"{shown}: took longer than acquire.timeout ({cfg.timeout:g} s)", transient=True
        )
    return left
