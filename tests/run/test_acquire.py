import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vidcurate.errors import AcquireError
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire
from vidcurate.run.acquire import _is_public, acquire

BODY = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `server.seen` holds (path, Host) of each request."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))
        path = self.path.partition("?")[0]
        if path == "/film.mp4":
            self._send(200, BODY)
        elif path.startswith("/status/"):
            self._send(int(path.rpartition("/")[2]), b"<html>no</html>")
        elif path == "/empty.mp4":
            self._send(200, b"")
        elif path == "/to":
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
        elif path == "/cut.mp4":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:1000])
        elif path == "/endless.mp4":
            self.send_response(200)
            self.end_headers()
            self._drip(BODY, 0)
        elif path == "/slow.mp4":
            self.send_response(200)
            self.end_headers()
            self._drip(b"x", 0.05)
        else:
            self._send(404, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, piece: bytes, pause: float) -> None:
        try:
            while True:
                self.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is part of the tests

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, path: str, cache: Path, **limits: object) -> Path:
    cfg = Acquire.model_validate({"allow_hosts": (server.host,), **limits})
    return acquire(VideoRow(f"http://{server.host}{path}"), cfg, cache)


def failure(server: Server, path: str, cache: Path, **limits: object) -> AcquireError:
    with pytest.raises(AcquireError) as caught:
        get(server, path, cache, **limits)
    assert list(cache.iterdir()) == []  # nothing half done remains
    return caught.value


def test_a_download_is_whole_and_done_once(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    path = get(server, "/film.mp4", cache)
    assert path.read_bytes() == BODY
    assert list(cache.iterdir()) == [path]
    assert get(server, "/film.mp4#fragment", cache) == path
    assert len(server.seen) == 1
    assert get(server, "/film.mp4?v=2", cache) != path


@pytest.mark.parametrize(
    ("status", "transient"),
    [(403, False), (404, False), (410, False), (204, False), (408, True), (429, True), (500, True),
     (503, True)],
)  # fmt: skip
def test_a_refusal_says_whether_to_retry(
    server: Server, tmp_path: Path, status: int, transient: bool
) -> None:
    error = failure(server, f"/status/{status}?token=secret", tmp_path)
    assert f"http://127.0.0.1/status/{status}: HTTP {status}" in str(error)
    assert "secret" not in str(error)
    assert error.is_transient is transient


def test_an_empty_answer_is_a_failure(server: Server, tmp_path: Path) -> None:
    error = failure(server, "/empty.mp4", tmp_path)
    assert "the answer is empty" in str(error)
    assert not error.is_transient


def test_a_cut_connection_is_transient(server: Server, tmp_path: Path) -> None:
    error = failure(server, "/cut.mp4", tmp_path)
    assert "the connection failed" in str(error)
    assert error.is_transient


def test_a_closed_port_is_transient(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(AcquireError, match="the connection failed") as caught:
        acquire(VideoRow(f"http://{host}/x"), Acquire(allow_hosts=(host,)), tmp_path)
    assert caught.value.is_transient


def test_an_endless_body_ends_at_max_size(server: Server, tmp_path: Path) -> None:
    error = failure(server, "/endless.mp4", tmp_path, max_size=3_000_000)
    assert "larger than acquire.max_size (3000000 bytes)" in str(error)
    assert not error.is_transient


def test_a_stated_size_is_refused_before_the_body(server: Server, tmp_path: Path) -> None:
    error = failure(server, "/film.mp4", tmp_path, max_size=len(BODY) - 1)
    assert "larger than acquire.max_size" in str(error)
    assert get(server, "/film.mp4", tmp_path, max_size=len(BODY)).stat().st_size == len(BODY)


def test_a_slow_body_ends_at_the_timeout(server: Server, tmp_path: Path) -> None:
    error = failure(server, "/slow.mp4", tmp_path, timeout=0.3)
    assert "took longer than acquire.timeout (0.3 s)" in str(error)
    assert error.is_transient


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    assert get(server, "/to?/to?/film.mp4", tmp_path).read_bytes() == BODY
    assert [path for path, _ in server.seen] == ["/to?/to?/film.mp4", "/to?/film.mp4", "/film.mp4"]


def test_too_many_redirects_end(server: Server, tmp_path: Path) -> None:
    path = "/to?" * 13 + "/film.mp4"
    assert "more than 10 redirects" in str(failure(server, path, tmp_path))
    assert len(server.seen) == 11


def test_a_redirect_to_a_private_address_is_refused(server: Server, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        host = f"127.0.0.1:{other.getsockname()[1]}"
        error = failure(server, f"/to?http://{host}/film.mp4", tmp_path)
        other.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has knocked
            other.accept()
    assert "127.0.0.1 is not a public address" in str(error)
    assert f"add {host} to acquire.allow_hosts" in str(error)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_a_redirect_to_another_protocol_is_refused(
    server: Server, tmp_path: Path, target: str
) -> None:
    assert "only http and https" in str(failure(server, f"/to?{target}", tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0.0.0.0", "[::1]"])
def test_private_hosts_are_refused_by_any_name(server: Server, tmp_path: Path, host: str) -> None:
    url = f"http://{host}:{server.server_port}/film.mp4"
    with pytest.raises(AcquireError, match="not a public address") as caught:
        acquire(VideoRow(url), Acquire(), tmp_path)
    assert not caught.value.is_transient
    assert server.seen == []


def test_an_allowed_host_is_host_and_port_by_name(server: Server, tmp_path: Path) -> None:
    name = f"localhost:{server.server_port}"
    row = VideoRow(f"http://user:secret@{name}/film.mp4")
    path = acquire(row, Acquire(allow_hosts=(name.upper(),)), tmp_path)
    assert path.read_bytes() == BODY
    assert server.seen == [("/film.mp4", name)]
    with pytest.raises(AcquireError, match="not a public address"):
        acquire(row, Acquire(allow_hosts=("localhost:1",)), tmp_path / "other")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # cloud metadata
        ("100.64.0.1", False),
        ("127.8.8.8", False),
        ("224.0.0.1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:0a00:0001::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert _is_public(address) is public


def test_local_files_are_returned_as_they_are(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(film)
    for path in (film, tmp_path / "link.mp4"):
        assert acquire(VideoRow(str(path)), Acquire(), tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()


def test_local_paths_that_are_no_readable_file(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in {
        "gone.mp4": "no such file",
        "broken.mp4": "a symbolic link to a missing file",
        "": "a folder, not a file",
        "pipe.mp4": "a device or pipe, not a file",
        "a\0b": "no such file",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(AcquireError, match=reason) as caught:
            acquire(VideoRow(str(tmp_path / name)), Acquire(), tmp_path)
        assert not caught.value.is_transient


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/film.mp4", "s3:// is not handled: give a local path or an http"),
        ("file:///etc/passwd", "file:// is not handled"),
        ("http:///film.mp4", "only http and https"),
        ("http://[::1/film.mp4", "not a valid URL"),
        ("http://x:99999/film.mp4", "not a valid URL"),
        ("http://x\x01y/film.mp4", "not a valid URL"),
        ("http://name.invalid/film.mp4", "the host is not found"),
    ],
)
def test_other_urls_are_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(AcquireError, match=message):
        acquire(VideoRow(url), Acquire(), tmp_path)
