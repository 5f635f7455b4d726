"""A local HTTP server for tests that serves files and plays the faults of real hosts.

    with FaultServer({"film.mp4": path}) as server:
        server.url("/ok/film.mp4")

Paths (the last piece names a file of the server; query as said):

    /ok/F             the file, with Range, If-Range, ETag and Last-Modified
    /plain/F          the file, without Range and validators
    /status/S/F       status S each time; the query is its Retry-After
    /fail/N/S/F       status S for the first N requests, then as /ok; the query is its Retry-After
    /cut/N/F          as /ok, but the first N answers break off after half of their bytes
    /dated/F          as /cut/1/F, with a weak ETag: only Last-Modified validates the rest
    /changed/F        breaks off once; then it is another file, with another ETag
    /liar/F           as /changed, but Range is answered with 206 and If-Range is ignored
    /swap/N/F         as /ok for N requests; then it is another file. Query: If-Range is ignored
    /slow/F           a byte every 50 ms, without end
    /stall/F          some bytes, then nothing
    /silent/F         no answer at all
    /endless/F        bytes without end
    /type/A/B/F       as /ok, with the content type A/B
    /robots/F         as /ok; X-Robots-Tag is the query, one header for each of its parts at |
    /to               redirect to what the query says
    /empty, /json     an empty answer, an answer in JSON
    /page/F           an HTML page with a <video> of /ok/F

As an HTTP proxy it answers for http://films.example, a name that no resolver knows.
Any other path is looked up in `answers` (path -> content type and body), else 404.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote


class FaultServer(ThreadingHTTPServer):
    """The server, on a free port of 127.0.0.1; it runs inside a `with`.

    files: name -> path; a name may hold slashes. faults: name -> "status/503", the fault that is
    played when /ok is asked for it. seen: (path with query, headers) of each request so far. sent:
    bytes of bodies of files, by that path.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.faults: dict[str, str] = {}
        self.answers: dict[str, tuple[str, bytes]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.counts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def host(self) -> str:
        """As `acquire.allow_hosts` names it."""
        return f"127.0.0.1:{self.server_port}"

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://{self.host}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: PLR0912, PLR0915 - one branch for each fault
        server = self.server
        server.seen.append((self.path, dict(self.headers.items())))
        server.counts[self.path] += 1
        count = server.counts[self.path]
        # To a proxy the whole URL is sent.
        path, _, query = self.path.removeprefix("http://films.example").partition("?")
        parts = unquote(path).strip("/").split("/")
        for place in range(1, len(parts)):
            if (name := "/".join(parts[place:])) in server.files:
                parts[place:] = [name]
        if parts[0] == "ok" and parts[-1] in server.faults:
            parts[:-1] = server.faults[parts[-1]].split("/")
        match parts:
            case ["ok", name]:
                self._file(name)
            case ["plain", name]:
                self._send(200, server.files[name].read_bytes())
            case ["status", status, _]:
                self._refuse(int(status), query)
            case ["fail", times, status, name]:
                if count <= int(times):
                    self._refuse(int(status), query)
                else:
                    self._file(name)
            case ["cut", times, name]:
                self._file(name, cut=count <= int(times))
            case ["dated", name]:
                self._file(name, cut=count == 1, is_weak=True)
            case ["changed", name]:
                self._file(name, cut=count == 1, more=b"" if count == 1 else b"changed")
            case ["liar", name]:
                more = b"" if count == 1 else b"changed"
                self._file(name, cut=count == 1, more=more, if_range=False)
            case ["swap", times, name]:
                more = b"" if count <= int(times) else b"changed"
                self._file(name, more=more, if_range=not query)
            case ["slow", _]:
                self._drip(b"\0", 0.05)
            case ["stall", _]:
                self._head(200, {"Content-Length": "100000"})
                self.wfile.write(bytes(1000))
                server.closing.wait()
            case ["silent", _]:
                server.closing.wait()
            case ["endless", _]:
                self._drip(bytes(65536), 0)
            case ["type", one, two, name]:
                self._file(name, {"Content-Type": f"{one}/{two}"})
            case ["robots", name]:
                self._file(name, *[{"X-Robots-Tag": v} for v in unquote(query).split("|")])
            case ["to"]:
                self._head(302, {"Location": query, "Content-Length": "0"})
            case ["empty"]:
                self._send(200, b"")
            case ["json"]:
                self._send(200, b'{"error": "no such video"}', "application/json")
            case ["page", name]:
                page = f"<!DOCTYPE html><title>Film</title><video src='/ok/{name}'></video>"
                self._send(200, page.encode(), "text/html")
            case _:
                kind, body = server.answers.get(path, ("", b""))
                self._send(200 if kind else 404, body, kind or "text/html")

    def do_HEAD(self) -> None:
        self._head(405, {"Content-Length": "0"})

    def _file(
        self,
        name: str,
        *headers: Mapping[str, str],
        cut: bool = False,
        more: bytes = b"",
        if_range: bool = True,
        is_weak: bool = False,
    ) -> None:
        body = self.server.files[name].read_bytes() + more
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        date = formatdate(1e9, usegmt=True)
        told = {"ETag": f"W/{etag}" if is_weak else etag, "Last-Modified": date}
        strong = date if is_weak else etag
        start, end, status = 0, len(body), 200
        wanted = self.headers.get("Range")
        if wanted and (not if_range or self.headers.get("If-Range", strong) == strong):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(end, int(last or end) + 1), 206
            if start >= len(body):
                self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
                return
            told["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        rest = body[start:end]
        self._head(status, told, {"Content-Length": str(len(rest))}, *headers)
        if cut:
            self.close_connection = True
            rest = rest[: len(rest) // 2]
        self.server.sent[self.path] += len(rest)
        self.wfile.write(rest)

    def _refuse(self, status: int, retry_after: str) -> None:
        wish = {"Retry-After": unquote(retry_after)} if retry_after else {}
        body = b"<html>no</html>" if status != 204 else b""
        self._head(status, wish, {"Content-Length": str(len(body)), "Content-Type": "text/html"})
        self.wfile.write(body)

    def _send(self, status: int, body: bytes, kind: str = "video/mp4") -> None:
        self._head(status, {"Content-Length": str(len(body)), "Content-Type": kind})
        self.wfile.write(body)

    def _head(self, status: int, *headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for some in headers:
            for name, value in some.items():
                self.send_header(name, value)
        self.end_headers()

    def _drip(self, piece: bytes, pause: float) -> None:
        self.close_connection = True
        self._head(200, {"Connection": "close"})
        while not self.server.closing.wait(pause):
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""
