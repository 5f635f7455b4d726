import hashlib
import shutil
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from fault_server import FaultServer

from vidcurate.acquire import direct, http
from vidcurate.acquire.limits import HostLimits, Stopped
from vidcurate.errors import (
    AcquireError,
    OptOutError,
    StorageError,
    ThrottledError,
    TransferError,
    UserError,
    VideoGoneError,
    VideoPrivateError,
    VideoRegionError,
)
from vidcurate.recipe.model import Acquire


class Hosts(HostLimits):
    """Real limits that remember what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.holds: list[tuple[str, float]] = []

    def hold(self, host: str, seconds: float) -> None:
        self.holds.append((host, seconds))
        super().hold(host, min(seconds, 0.05))


class Downloads:
    """Downloads to one part."""

    def __init__(self, server: FaultServer, config: Callable[..., Acquire], part: Path) -> None:
        self.server, self.config, self.part = server, config, part
        self.hosts = Hosts()
        self.stop = threading.Event()

    @property
    def told(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def get(self, path: str, **more: object) -> str | None:
        """The sha256 that `download` returns for a path of the server or a URL."""
        url = path if path.startswith("http") else self.server.url(path)
        return direct.download(url, self.config(**more), self.part, self.hosts, self.stop)

    def failure(self, path: str, **more: object) -> AcquireError:
        with pytest.raises(AcquireError) as caught:
            self.get(path, **more)
        return caught.value

    def ranges(self) -> list[str | None]:
        """The Range of each request so far."""
        return [headers.get("Range") for _, headers in self.server.seen]


@pytest.fixture
def at(fault_server: FaultServer, config: Callable[..., Acquire], tmp_path: Path) -> Downloads:
    return Downloads(fault_server, config, tmp_path / "file.part")


@pytest.fixture
def film(fault_server: FaultServer) -> bytes:
    return fault_server.files["film.mp4"].read_bytes()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_download_is_whole(at: Downloads, film: bytes) -> None:
    assert at.get("/ok/film.mp4") == sha(film)
    assert at.part.read_bytes() == film
    assert at.get("/plain/other.mp4") == sha(at.server.files["other.mp4"].read_bytes())


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, VideoGoneError), (410, VideoGoneError), (401, VideoPrivateError),
     (451, VideoRegionError), (204, AcquireError), (418, AcquireError)],
)  # fmt: skip
def test_a_permanent_refusal_is_asked_once(
    at: Downloads, status: int, kind: type[AcquireError]
) -> None:
    error = at.failure(f"/status/{status}/film.mp4?token=secret")
    assert type(error) is kind
    assert f"http://{at.server.host}/status/{status}/film.mp4: HTTP {status}" in str(error)
    assert "secret" not in str(error)
    assert not error.is_transient
    assert len(at.server.seen) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, ThrottledError), (429, ThrottledError), (408, TransferError), (500, TransferError),
     (503, TransferError)],
)  # fmt: skip
def test_other_refusals_are_transient_after_all_tries(
    at: Downloads, status: int, kind: type[AcquireError]
) -> None:
    error = at.failure(f"/status/{status}/film.mp4", download={"tries": 3})
    assert type(error) is kind
    assert error.is_transient
    assert len(at.server.seen) == 3


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_refusal_that_ends_is_got_over(at: Downloads, film: bytes, status: int) -> None:
    assert at.get(f"/fail/2/{status}/film.mp4", download={"tries": 3}) == sha(film)
    assert len(at.server.seen) == 3


def test_retry_after_holds_the_host_for_all(at: Downloads, film: bytes) -> None:
    assert at.get("/fail/1/429/film.mp4?7") == sha(film)
    assert at.hosts.holds == [("127.0.0.1", 7.0)]


def test_retry_after_may_be_a_date_and_come_with_other_refusals(at: Downloads) -> None:
    date = formatdate(time.time() + 60, usegmt=True).replace(" ", "%20")
    at.failure(f"/status/503/film.mp4?{date}", download={"tries": 1})
    assert at.hosts.holds == [("127.0.0.1", pytest.approx(60, abs=5))]


def test_429_holds_the_host_without_being_told_how_long(at: Downloads) -> None:
    at.failure("/status/429/film.mp4", download={"tries": 2})
    assert len(at.hosts.holds) == 2
    # One file's failure is no reason to leave the host alone.
    at.failure("/status/500/film.mp4", download={"tries": 2})
    at.failure("/status/403/film.mp4", download={"tries": 2})
    assert len(at.hosts.holds) == 2


def test_an_opt_out_is_respected(at: Downloads, film: bytes) -> None:
    error = at.failure("/robots/film.mp4?nofollow|noai")
    assert isinstance(error, OptOutError)
    assert not at.part.exists()
    assert at.get("/robots/film.mp4?otherbot:%20noai") == sha(film)
    assert at.get("/robots/film.mp4?noai", download={"opt_out": "ignore"}) == sha(film)


# ------------------------------------------------------------------ what comes


def test_a_page_is_handed_on_and_leaves_nothing(at: Downloads) -> None:
    assert at.get("/page/film.mp4") is None
    at.server.answers["/list.m3u8"] = ("application/x-mpegurl", b"#EXTM3U\n")
    assert at.get("/list.m3u8") is None
    assert not at.part.exists()
    assert not at.told.exists()


def test_an_error_page_is_an_error(at: Downloads) -> None:
    assert isinstance(at.failure("/nowhere.mp4"), VideoGoneError)


def test_a_wrong_content_type_does_not_matter(at: Downloads, film: bytes) -> None:
    assert at.get("/type/text/html/film.mp4") == sha(film)
    assert at.get("/type/application/json/film.mp4") == sha(film)


def test_what_is_no_video_is_refused(at: Downloads) -> None:
    assert "the answer is text, no video" in str(at.failure("/json"))
    assert "the answer is empty" in str(at.failure("/empty"))
    assert [e.is_transient for e in (at.failure("/json"), at.failure("/empty"))] == [False, False]
    assert not at.part.exists()


# ------------------------------------------------------------------ resuming


def test_a_cut_connection_is_gone_on_with(at: Downloads, film: bytes) -> None:
    assert at.get("/cut/2/film.mp4") == sha(film)
    half = len(film) // 2
    rest = half + (len(film) - half) // 2
    assert at.ranges() == [None, f"bytes={half}-", f"bytes={rest}-"]
    assert at.part.read_bytes() == film


def test_a_date_validates_where_the_etag_is_weak(at: Downloads, film: bytes) -> None:
    assert at.get("/dated/film.mp4") == sha(film)
    assert at.ranges() == [None, f"bytes={len(film) // 2}-"]
    assert at.server.seen[1][1]["If-Range"] == "Sun, 09 Sep 2001 01:46:40 GMT"


def test_a_part_stays_for_a_later_run(at: Downloads, film: bytes) -> None:
    error = at.failure("/cut/1/film.mp4", download={"tries": 1})
    assert isinstance(error, TransferError)
    assert at.part.read_bytes() == film[: len(film) // 2]
    assert at.get("/cut/1/film.mp4") == sha(film)
    assert at.ranges() == [None, f"bytes={len(film) // 2}-"]


def test_a_file_that_changed_is_begun_anew(at: Downloads, film: bytes) -> None:
    assert at.get("/changed/film.mp4") == sha(film + b"changed")
    assert at.ranges() == [None, f"bytes={len(film) // 2}-"]  # answered 200, from the start


def test_a_host_that_ignores_if_range_is_found_out(at: Downloads, film: bytes) -> None:
    assert at.get("/liar/film.mp4") == sha(film + b"changed")
    assert at.ranges() == [None, f"bytes={len(film) // 2}-", None]


def test_without_validators_nothing_is_gone_on_with(at: Downloads, film: bytes) -> None:
    at.part.write_bytes(b"of an unknown file")
    assert at.get("/plain/film.mp4") == sha(film)
    assert at.ranges() == [None]


def test_a_part_that_is_too_long_is_begun_anew(at: Downloads, film: bytes) -> None:
    at.failure("/cut/1/film.mp4", download={"tries": 1})
    at.part.write_bytes(film)
    assert at.get("/cut/1/film.mp4") == sha(film)
    assert at.ranges() == [None, f"bytes={len(film)}-", None]


def test_a_damaged_memory_of_a_part_is_no_harm(at: Downloads, film: bytes) -> None:
    for text in ("", "{", "[]", "{}"):
        at.part.write_bytes(b"xxx")
        at.told.write_text(text)
        assert at.get("/ok/film.mp4") == sha(film)
    assert at.ranges() == [None] * 4


# ------------------------------------------------------------------ limits


def test_an_endless_body_ends_at_max_size(at: Downloads) -> None:
    error = at.failure("/endless/film.mp4", max_size=3_000_000)
    assert "larger than acquire.max_size (3000000 bytes)" in str(error)
    assert not error.is_transient
    assert not at.part.exists()


def test_a_stated_size_is_refused_before_the_body(at: Downloads, film: bytes) -> None:
    error = at.failure("/ok/film.mp4", max_size=len(film) - 1)
    assert "larger than acquire.max_size" in str(error)
    assert not at.part.exists()
    assert at.get("/ok/film.mp4", max_size=len(film)) == sha(film)


def test_a_slow_body_ends_at_the_timeout_of_all_tries(at: Downloads) -> None:
    error = at.failure("/slow/film.mp4", timeout=0.3)
    assert "took longer than acquire.timeout (0.3 s)" in str(error)
    assert isinstance(error, TransferError)
    assert len(at.server.seen) == 1


def test_a_stalled_body_is_tried_again(at: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_STALL", 0.3)
    error = at.failure("/stall/film.mp4", download={"tries": 2})
    assert "no answer in time" in str(error)
    assert isinstance(error, TransferError)
    assert len(at.server.seen) == 2


def test_a_full_disk_stops_the_run(at: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"acquire\.min_free .* VIDCURATE_CACHE"):
        at.get("/ok/film.mp4", min_free=10**18)
    # It fills up while a file without a stated size comes.
    usage = namedtuple("usage", "total used free")
    frees = iter([10**7, 10**7, 10**5])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, next(frees)))
    monkeypatch.setattr(direct, "_LOOK_AT_DISK", 10**6)
    with pytest.raises(StorageError, match="100000 bytes are free"):
        at.get("/endless/film.mp4", min_free=10**6)
    assert 10**6 < at.part.stat().st_size < 4 * 10**6


def test_a_stop_ends_it_and_keeps_the_part(at: Downloads) -> None:
    threading.Timer(0.3, at.stop.set).start()
    with pytest.raises(Stopped):
        at.get("/slow/film.mp4")
    assert at.part.exists()


def test_a_stop_ends_the_wait_for_the_host(at: Downloads) -> None:
    HostLimits.hold(at.hosts, "127.0.0.1", 1000)
    threading.Timer(0.05, at.stop.set).start()
    with pytest.raises(Stopped):
        at.get("/ok/film.mp4")
    assert at.server.seen == []


# ------------------------------------------------------------------ where it leads


def test_redirects_are_followed(at: Downloads, film: bytes) -> None:
    assert at.get("/to?/to?/ok/film.mp4") == sha(film)
    assert [path for path, _ in at.server.seen] == [
        "/to?/to?/ok/film.mp4",
        "/to?/ok/film.mp4",
        "/ok/film.mp4",
    ]


def test_too_many_redirects_end(at: Downloads) -> None:
    assert "more than 10 redirects" in str(at.failure("/to?" * 13 + "/ok/film.mp4"))
    assert len(at.server.seen) == 11


def test_a_redirect_to_a_private_address_is_refused(at: Downloads) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        host = f"127.0.0.1:{other.getsockname()[1]}"
        error = at.failure(f"/to?http://{host}/film.mp4")
        other.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has knocked
            other.accept()
    assert "127.0.0.1 is not a public address" in str(error)
    assert f"add {host} to acquire.allow_hosts" in str(error)
    assert not error.is_transient


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_a_redirect_to_another_protocol_is_refused(at: Downloads, target: str) -> None:
    assert "only http and https" in str(at.failure(f"/to?{target}"))


def test_a_closed_port_is_transient(at: Downloads) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
    error = at.failure(f"http://{host}/x", allow_hosts=(host,), download={"tries": 2})
    assert "the connection failed" in str(error)
    assert isinstance(error, TransferError)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http:///film.mp4", "only http and https"),
        ("http://x:99999/film.mp4", "not a valid URL"),
        ("http://x\x01y/film.mp4", "not a valid URL"),
        ("http://name.invalid/film.mp4", "the host is not found"),
    ],
)
def test_urls_that_lead_nowhere(at: Downloads, url: str, message: str) -> None:
    assert message in str(at.failure(url))


def test_the_user_of_a_url_is_sent_and_not_shown(at: Downloads) -> None:
    error = at.failure(f"http://me:secret@{at.server.host}/status/404/x")
    assert at.server.seen[0][1]["Authorization"] == "Basic bWU6c2VjcmV0"
    assert "secret" not in str(error)


# ------------------------------------------------------------------ cookies and proxies


def cookies(*lines: str) -> str:
    return "\n".join(["# Netscape HTTP Cookie File", *lines, ""])


def test_cookies_go_to_their_hosts_alone(
    at: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(
        cookies(
            "127.0.0.1\tFALSE\t/ok\tFALSE\t0\tid\tours",
            "films.example\tFALSE\t/\tFALSE\t0\tid\ttheirs",
        )
    )
    at.get("/ok/film.mp4", download={"cookies": str(file)})
    assert at.server.seen[0][1]["Cookie"] == "id=ours"
    at.part.unlink()
    # The same server by another name is another host.
    name = f"localhost:{at.server.server_port}"
    at.get(
        f"/to?http://{name}/ok/film.mp4",
        download={"cookies": str(file)},
        allow_hosts=(at.server.host, name),
    )
    assert [headers.get("Cookie") for _, headers in at.server.seen[1:]] == [None, None]
    monkeypatch.setenv("VIDCURATE_COOKIES", str(file))
    at.get("/ok/other.mp4")
    assert at.server.seen[-1][1]["Cookie"] == "id=ours"


def test_a_proxy_of_the_environment(
    at: Downloads, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("http_proxy", f"http://{at.server.host}")
    url = "http://films.example/ok/film.mp4"
    # The proxy alone can resolve this name.
    assert at.get(url, download={"proxies": True}) == sha(film)
    assert at.server.seen[0][0] == url
    assert at.server.seen[0][1]["Host"] == "films.example"
    for private in ("http://localhost/x", "http://10.0.0.1/x", "http://2130706433/x"):
        error = at.failure(private, download={"proxies": True})
        assert "not a public address" in str(error)
    target = "http://films.example/to?http://169.254.169.254/meta"
    assert "169.254.169.254 is not a public" in str(at.failure(target, download={"proxies": True}))
    assert len(at.server.seen) == 2
    # Without `proxies`, and for what NO_PROXY names, none is used.
    assert "the host is not found" in str(at.failure("http://name.invalid/x"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert at.get("/ok/film.mp4", download={"proxies": True}) == sha(film)
    assert at.server.seen[-1][0] == "/ok/film.mp4"


def test_a_proxy_that_is_none(at: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://me:secret@x")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(UserError, match="a proxy that is no valid URL") as caught:
        at.get("/ok/film.mp4", download={"proxies": True})
    assert "secret" not in str(caught.value)
