"""Asking a host for a file by http(s): checked at each redirect, tried again, within limits.

Never from private addresses, see `acquire.addresses`. Through a proxy of the environment
(`acquire.download.proxies`) the proxy resolves names: `localhost` and private addresses written as
such are still refused here, also in redirects, but a name that leads to a private address is the
proxy's to refuse.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from vidcurate.acquire.addresses import check_proxied, resolve
from vidcurate.acquire.answers import check_opt_out, refusal
from vidcurate.acquire.cache import shown
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
from vidcurate.errors import AcquireError, MissingExtraError, TransferError, UserError
from vidcurate.recipe.model import Acquire, Download

if TYPE_CHECKING:
    import httpx

_AGENT = "vidcurate"
_HEADERS = {"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
_REDIRECTS = 10
_CONNECT = 10.0  # seconds for a connection; of the hosts of an old dataset many are dead
_STALL = 30.0  # seconds without a byte
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

_T = TypeVar("_T")


class Transfer(Generic[_T]):
    """The tries of one transfer; a subclass says in `_get` what one try does, in `drop` what a
    failure for good leaves behind.

    left: seconds of transfer that remain. status: of the last answer. wish: seconds to wait that
    it asked for.
    """

    def __init__(self, url: str, cfg: Acquire, options: Download, stop: threading.Event) -> None:
        try:
            import httpx  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "downloading needs httpx: pip install 'vidcurate[download]'"
            ) from error
        self.left = cfg.timeout
        self.status = 0
        self.wish: float | None = None
        self._url = url
        self._cfg = cfg
        self._options = options
        self._stop = stop
        self._jar = load_cookies(options.cookies)
        self._shown = "the video's URL"
        self._deadline = 0.0

    def drop(self) -> None:
        """Remove what came so far."""
        raise NotImplementedError

    def _get(self) -> _T:
        """One try, by `_answer`."""
        raise NotImplementedError

    def run(self, limits: HostLimits) -> _T:
        """What `_get` returns, once it does: transient failures are tried again.

        `download.tries` times in all; cfg.timeout bounds the seconds of transfer of all tries
        together, not the waiting for the host's turn.

        Raises:
            AcquireError: and its classes; after one that is not transient nothing is left.
            Stopped: `stop` was set.
            MissingExtraError: for a SOCKS proxy socksio is not installed.
            UserError: a proxy is no valid one.
        """
        host = host_of(self._url)
        per_hour = rate(self._options, host, is_page=False)
        for attempt in range(1, self._options.tries + 1):
            wait_turn(limits, host, per_hour, self._stop)
            try:
                return self._try()
            except AcquireError as error:
                if self._stop.is_set():
                    raise Stopped from error
                if not error.is_transient:
                    self.drop()
                    raise
                wait = backoff(attempt)
                if self.wish is not None or self.status == 429:
                    # After the last try, too: all are asked to wait, not this video alone.
                    limits.hold(host, max(wait, self.wish or 0))
                if attempt == self._options.tries or self.left <= 0:
                    raise
                pause(wait, self._stop)
        raise AssertionError("the last try returns or raises")

    def _try(self) -> _T:
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
    def _answer(self, wanted: str = "", validator: str = "") -> Iterator[httpx.Response]:
        """The answer to a GET of the URL, redirects followed, its body unread.

        wanted: the Range header's value, "" for the whole file. validator: of If-Range, "" for
            none.
        """
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
                headers = self._headers(where, wanted, validator)
                answer = self._send(client, where, headers, is_proxied)
                try:
                    self._check_time()  # on a stop the disk may be another's by now
                    if not answer.has_redirect_location:
                        self._check(answer, is_part=bool(wanted))
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

    def _headers(self, url: httpx.URL, wanted: str, validator: str) -> dict[str, str]:
        headers = {"Host": url.netloc.decode("ascii")}
        headers |= {"Range": wanted} if wanted else {}
        headers |= {"If-Range": validator} if validator else {}
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

    def _check(self, answer: httpx.Response, *, is_part: bool) -> None:
        """Refuse all but a whole file, or the part that was asked for."""
        status = self.status = answer.status_code
        if status == 200 or (status == 206 and is_part):
            if self._options.opt_out == "respect":
                check_opt_out(answer.headers.get_list("x-robots-tag"), _AGENT, self._shown)
            return
        self.wish = retry_after(answer.headers.get("retry-after"))
        raise refusal(status)(f"{self._shown}: HTTP {status} {answer.reason_phrase}".rstrip())


def validator_of(answer: httpx.Response) -> str:
    """What later ranges of the file are validated by (If-Range); "" where there is nothing.

    A weak ETag says nothing of the bytes (RFC 9110, section 13.1.5), nor does any of an answer
    that is encoded.
    """
    headers = answer.headers
    if headers.get("content-encoding", "identity") != "identity":
        return ""
    etag = str(headers.get("etag", ""))
    return etag if etag and not etag.startswith("W/") else str(headers.get("last-modified", ""))


def content_range(answer: httpx.Response, validator: str) -> tuple[int, int | None] | None:
    """First byte and size of the whole file (None: not told) that a 206 answers with.

    None where it does not say, or what it says of itself is not `validator`: some hosts ignore
    If-Range.
    """
    headers = answer.headers
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    now = headers.get("etag" if validator.startswith('"') else "last-modified", validator)
    if found is None or now != validator:
        return None
    return int(found[1]), int(found[2]) if found[2] != "*" else None


def check_size(size: int, cfg: Acquire, where: str) -> None:
    """Refuse a file that is larger than cfg.max_size.

    Raises:
        AcquireError: it is.
    """
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
