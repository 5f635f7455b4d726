"""Downloading a file by http(s): resumed, checked at each redirect, within limits.

Never from private addresses, see `acquire.addresses`. Through a proxy of the environment
(`acquire.download.proxies`) the proxy resolves names: `localhost` and private addresses written as
such are still refused here, also in redirects, but a name that leads to a private address is the
proxy's to refuse.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vidcurate.acquire.addresses import check_proxied, resolve
from vidcurate.acquire.answers import HEAD, check_opt_out, is_page, refusal
from vidcurate.acquire.cache import check_free, shown
from vidcurate.acquire.cookies import cookie_header, load_cookies
from vidcurate.acquire.limits import (
    HostLimits,
    Stopped,
    backoff,
    host_of,
    pause,
    rate,
    retry_after,
    wait_turn,
)
from vidcurate.errors import (
    AcquireError,
    MissingExtraError,
    TransferError,
    UserError,
)
from vidcurate.recipe.model import Acquire, Download

if TYPE_CHECKING:
    import httpx

_AGENT = "vidcurate"
_HEADERS = {"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
_REDIRECTS = 10
_CONNECT = 10.0  # seconds for a connection; of the hosts of an old dataset many are dead
_STALL = 30.0  # seconds without a byte
_LOOK_AT_DISK = 64 * 1024**2  # bytes between looks at the free space
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(
    url: str, cfg: Acquire, part: Path, limits: HostLimits, stop: threading.Event
) -> str | None:
    """Download a URL to the file `part`; the hex sha256 of its bytes.

    None where the answer is no file but a page or a playlist (HTML, HLS, DASH): nothing is left
    at `part` then.

    What `part` holds of an earlier try is gone on with, where the host says that the file is still
    the same (Range, If-Range with its ETag or Last-Modified, remembered in `part`.json). Transient
    failures are tried again, `download.tries` times in all; cfg.timeout bounds the seconds of
    transfer of all tries together, not the waiting for the host's turn. The cookies of
    `download.cookies` (or VIDCURATE_COOKIES) go to the hosts that they name.

    Raises:
        AcquireError: and its classes; transient ones leave `part` for a later run.
        StorageError: less than cfg.min_free would be left.
        MissingExtraError: httpx, or for a SOCKS proxy socksio, is not installed.
        UserError: the cookies' file cannot be read, or a proxy is no valid one.
        Stopped: `stop` was set; `part` stays.
        OSError: `part` cannot be written.
    """
    try:
        import httpx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "downloading needs httpx: pip install 'vidcurate[download]'"
        ) from error
    assert cfg.download
    host = host_of(url)
    per_hour = rate(cfg.download, host, is_page=False)
    job = _Download(url, cfg, cfg.download, part, stop)
    for attempt in range(1, cfg.download.tries + 1):
        wait_turn(limits, host, per_hour, stop)
        try:
            return job.run()
        except AcquireError as error:
            if stop.is_set():
                raise Stopped from error
            if not error.is_transient:
                job.drop()
                raise
            wait = backoff(attempt)
            if job.wish is not None or job.status == 429:
                # After the last try, too: all are asked to wait, not this video alone.
                limits.hold(host, max(wait, job.wish or 0))
            if attempt == cfg.download.tries or job.left <= 0:
                raise
            pause(wait, stop)
    raise AssertionError("the last try returns or raises")


class _Download:
    """The tries of one download.

    left: seconds of transfer that remain. status: of the last answer. wish: seconds to wait that
    it asked for.
    """

    def __init__(
        self, url: str, cfg: Acquire, options: Download, part: Path, stop: threading.Event
    ) -> None:
        self.left = cfg.timeout
        self.status = 0
        self.wish: float | None = None
        self._url = url
        self._cfg = cfg
        self._options = options
        self._part = part
        self._told = part.with_name(f"{part.name}.json")  # what validates `part`
        self._stop = stop
        self._jar = load_cookies(options.cookies)
        self._shown = "the video's URL"
        self._deadline = 0.0

    def drop(self) -> None:
        """Remove what came so far."""
        self._part.unlink(missing_ok=True)
        self._told.unlink(missing_ok=True)

    def run(self) -> str | None:
        """One try; see `download`."""
        import httpx

        began = time.monotonic()
        self._deadline = began + self.left
        self.status, self.wish = 0, None
        try:
            return self._get()
        except httpx.InvalidURL as error:
            raise AcquireError(f"{self._shown}: not a valid URL: {error}") from error
        except httpx.TimeoutException as error:
            raise TransferError(f"{self._shown}: no answer in time") from error
        except httpx.DecodingError as error:
            raise AcquireError(
                f"{self._shown}: the answer's encoding is broken: {error}"
            ) from error
        except httpx.TransportError as error:
            raise TransferError(f"{self._shown}: the connection failed: {error}") from error
        finally:
            self.left -= time.monotonic() - began

    # ------------------------------------------------------------------ the body

    def _get(self) -> str | None:
        offset, validator = self._resumable()
        with self._answer(offset, validator) as answer:
            if answer.status_code != 206:
                offset = 0
            total = self._total(answer, offset, validator)
            _check_size(max(total or 0, offset), self._cfg, self._shown)
            check_free(self._part.parent, self._cfg, max(0, (total or 0) - offset))
            if offset == 0:
                self.drop()
                self._remember(answer)
            digest, size = self._write(answer, offset)
        if digest is None:
            self.drop()
            return None
        if total is not None and size != total:
            raise TransferError(
                f"{self._shown}: the connection ended after {size} of {total} bytes"
            )
        return digest

    def _write(self, answer: httpx.Response, offset: int) -> tuple[str | None, int]:
        """Write the body behind the first `offset` bytes; sha256 (None: a page) and size of all."""
        digest, head = hashlib.sha256(), b""
        if offset:
            with self._part.open("rb") as file:
                head = file.read(HEAD)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256")
        size = looked = offset
        is_known = len(head) >= HEAD
        kind = answer.headers.get("content-type", "")
        with self._part.open("ab") as file:
            for chunk in answer.iter_bytes():
                size += len(chunk)
                _check_size(size, self._cfg, self._shown)
                self._check_time()
                digest.update(chunk)
                file.write(chunk)
                if not is_known:
                    head += chunk[:HEAD]
                    is_known = len(head) >= HEAD
                    if is_known and is_page(head, kind, self._shown):
                        return None, size
                if size - looked >= _LOOK_AT_DISK:
                    check_free(self._part.parent, self._cfg)
                    looked = size
        if size == 0:
            raise AcquireError(f"{self._shown}: the answer is empty")
        if not is_known and is_page(head, kind, self._shown):
            return None, size
        return digest.hexdigest(), size

    def _resumable(self) -> tuple[int, str]:
        """Bytes at hand and what validates them; (0, "") where there are none to go on with."""
        try:
            told = json.loads(self._told.read_text(encoding="utf-8"))
            return self._part.stat().st_size, told["validator"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, ""

    def _remember(self, answer: httpx.Response) -> None:
        """Write what a later Range is validated by, where the answer has something.

        A weak ETag says nothing of the bytes (RFC 9110, section 13.1.5).
        """
        headers = answer.headers
        if headers.get("content-encoding", "identity") != "identity":
            return
        validator = headers.get("etag", "")
        if not validator or validator.startswith("W/"):
            validator = headers.get("last-modified", "")
        if validator:
            self._told.write_text(json.dumps({"validator": validator}), encoding="utf-8")

    def _total(self, answer: httpx.Response, offset: int, validator: str) -> int | None:
        """Bytes of the whole file, where the answer says it."""
        headers = answer.headers
        if answer.status_code == 200:
            stated = headers.get("content-length", "")
            is_plain = headers.get("content-encoding", "identity") == "identity"
            return int(stated) if stated.isdecimal() and is_plain else None
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        # Some hosts ignore If-Range.
        now = headers.get("etag" if validator.startswith('"') else "last-modified", validator)
        if found is None or int(found[1]) != offset or now != validator:
            self.drop()
            raise TransferError(f"{self._shown}: the file has changed since its first part came")
        return int(found[2]) if found[2] != "*" else None

    def _check_time(self) -> float:
        """Seconds left."""
        if self._stop.is_set():
            raise Stopped
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TransferError(
                f"{self._shown}: took longer than acquire.timeout ({self._cfg.timeout:g} s)"
            )
        return left

    # ------------------------------------------------------------------ the answer

    @contextmanager
    def _answer(self, offset: int, validator: str) -> Iterator[httpx.Response]:
        """The answer to a GET of the URL, redirects followed, its body unread."""
        import httpx

        where = httpx.URL(self._url)
        for _ in range(_REDIRECTS + 1):
            self._shown = shown(str(where))
            if where.scheme not in ("http", "https") or not where.host:
                raise AcquireError(f"{self._shown}: only http and https are downloaded")
            if (where.port or 0) > 65535:
                raise AcquireError(f"{self._shown}: not a valid URL: there is no such port")
            # A client for each hop, and nothing kept: hosts share no connection and no cookie.
            with self._client(where) as (client, is_proxied):
                headers = self._headers(where, offset, validator)
                answer = self._send(client, where, headers, is_proxied)
                try:
                    self._check_time()  # on a stop the disk may be another's by now
                    if not answer.has_redirect_location:
                        self._check(answer, offset)
                        yield answer
                        return
                    where = where.join(answer.headers["location"])
                finally:
                    answer.close()
        raise AcquireError(f"{self._shown}: more than {_REDIRECTS} redirects")

    @contextmanager
    def _client(self, url: httpx.URL) -> Iterator[tuple[httpx.Client, bool]]:
        """A client for this URL, and whether it goes through a proxy of the environment."""
        import httpx

        proxy = _proxy(url) if self._options.proxies else None
        try:
            client = httpx.Client(
                trust_env=False,
                follow_redirects=False,
                verify=_tls(),
                headers=_HEADERS,
                proxy=proxy,
            )
        except ImportError as error:
            raise MissingExtraError(
                "a SOCKS proxy needs socksio: pip install 'httpx[socks]'"
            ) from error
        except ValueError as error:
            # Without the URL: it may hold a password.
            raise UserError("the environment names a proxy that is no valid URL of one") from error
        with client:
            yield client, proxy is not None

    def _headers(self, url: httpx.URL, offset: int, validator: str) -> dict[str, str]:
        headers = {"Host": url.netloc.decode("ascii")}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        if self._jar is not None:
            # By the name: the request itself goes to an address.
            named = cookie_header(self._jar, str(url.copy_with(username=None, password=None)))
            headers |= {"Cookie": named} if named else {}
        return headers

    def _send(
        self, client: httpx.Client, url: httpx.URL, headers: dict[str, str], is_proxied: bool
    ) -> httpx.Response:
        """Ask for the URL at one of its checked addresses, the next one where none answers."""
        import httpx

        port = url.port or (443 if url.scheme == "https" else 80)
        host = url.raw_host.decode("ascii")
        allowed = self._cfg.allow_hosts
        if is_proxied:
            check_proxied(host, port, allowed, self._shown)
            addresses = [host]
        else:
            addresses = resolve(host, port, allowed, self._shown)
        for i, address in enumerate(addresses):
            left = self._check_time()
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers=headers,
                timeout=httpx.Timeout(min(left, _STALL), connect=min(left, _CONNECT)),
                # The certificate must be that of the name, not of the address.
                extensions={} if is_proxied else {"sni_hostname": host},
            )
            try:
                return client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if i == len(addresses) - 1:
                    raise
        raise AssertionError("a resolved host has an address")

    def _check(self, answer: httpx.Response, offset: int) -> None:
        """Refuse all but a whole file, or the rest that was asked for."""
        status = self.status = answer.status_code
        if status == 200 or (status == 206 and offset):
            if self._options.opt_out == "respect":
                check_opt_out(answer.headers.get_list("x-robots-tag"), _AGENT, self._shown)
            return
        if status == 416 and offset:
            # What is at hand is as long as the file or longer: it must be of another one.
            self.drop()
            raise TransferError(f"{self._shown}: the part at hand does not fit the file")
        self.wish = retry_after(answer.headers.get("retry-after"))
        raise refusal(status)(f"{self._shown}: HTTP {status} {answer.reason_phrase}".rstrip())


def _check_size(size: int, cfg: Acquire, where: str) -> None:
    if size > cfg.max_size:
        raise AcquireError(f"{where}: larger than acquire.max_size ({cfg.max_size} bytes)")


def _proxy(url: httpx.URL) -> str | None:
    """The proxy of the environment for a URL (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY)."""
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(url.netloc.decode("ascii")):
        return None
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


@cache
def _tls() -> ssl.SSLContext:
    """One for all: to read the certificates takes longer than many a download."""
    import httpx

    return httpx.create_ssl_context()
