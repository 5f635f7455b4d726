"""yt-dlp's real code, through its generic extractor, against a server on localhost.

A child process costs a second: what needs no fresh one shares the process `workshop`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from vidcurate.acquire import pages
from vidcurate.acquire.limits import HostLimits, Stopped
from vidcurate.acquire.page_errors import Reply
from vidcurate.acquire.pages import fetch_page, is_page
from vidcurate.errors import (
    AcquireError,
    StorageError,
    ThrottledError,
    TransferError,
    UserError,
    VideoGoneError,
    VideoPrivateError,
    VideoRegionError,
)
from vidcurate.media.open import open_video
from vidcurate.recipe.model import Acquire

Answer = tuple[int, dict[str, str], bytes]


class Handler(BaseHTTPRequestHandler):
    """Answers by path from `server.files`; `server.seen` holds path and headers of each request."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        answer = self.server.files.get(self.path.partition("?")[0])
        if isinstance(answer, list):  # one after the other, the last stays
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            answer = (404, {}, b"")
        if callable(answer):
            with suppress(OSError):
                answer(self)
            self.close_connection = True
            return
        if isinstance(answer, bytes):
            kind = {"m3u8": "application/vnd.apple.mpegurl", "mpd": "application/dash+xml",
                    "html": "text/html"}  # fmt: skip
            answer = (200, {"Content-Type": kind.get(self.path.rsplit(".")[-1], "video/mp4")},
                      answer)  # fmt: skip
        status, headers, body = answer
        begin = self.headers.get("Range", "")
        if status == 200 and begin:
            start = int(begin.removeprefix("bytes=").partition("-")[0])
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            status, body = 206, body[start:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.files: dict[str, Any] = {}

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is part of the tests

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def count(self, path: str) -> int:
        return sum(seen == path for seen, _ in self.seen)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_cookies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDCURATE_COOKIES", raising=False)
    monkeypatch.setenv("YTDLP_NO_PLUGINS", "1")


WORKSHOP = """
import json, os, socket, subprocess, sys
from dataclasses import asdict
from vidcurate.acquire.page_child import Page, Request, guard
from vidcurate.acquire.page_errors import classify
bounds = json.loads(sys.stdin.readline())
if bounds:
    guard(bounds["allow_hosts"], proxies=bounds["proxies"])
for line in sys.stdin:
    page = Page(Request(**json.loads(line)))
    try:
        answer = page.fetch()
    except Exception as error:
        answer = classify(error, page.failure)
    print(json.dumps(asdict(answer)), flush=True)
for attempt in (
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),
    lambda: os.fork(),
    lambda: socket.create_connection(("localhost", 1)),
    lambda: socket.socket().connect(("127.0.0.1", 1)),
    lambda: __import__("ftplib").FTP().connect("ftp.example"),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(type(error).__name__)
"""


def request(server: Server, url: str, folder: Path, **more: Any) -> str:
    """A line for the child or the workshop. url: a path is one of the server."""
    told = {
        "url": url if "://" in url else f"http://{server.host}{url}",
        "is_known": False,
        "tracks": str(folder / "track-"),
        "max_height": None,
        "max_size": 10**9,
        "allow_hosts": [server.host],
        "proxies": False,
        "cookies": None,
        "respect_opt_out": True,
    }
    return json.dumps({**told, **more}) + "\n"


@pytest.fixture(scope="module")
def workshop() -> Iterator[subprocess.Popen[str]]:
    """Does what a child does, without its bounds, for one request after the other."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKSHOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "YTDLP_NO_PLUGINS": "1"},
    ) as process:
        assert process.stdin
        process.stdin.write("null\n")
        yield process
        process.kill()


@pytest.fixture
def reply(server: Server, workshop: subprocess.Popen[str], tmp_path: Path) -> Callable[..., Reply]:
    """reply("/path", max_height=...): what a child answers; its files are in tmp_path."""

    def ask(url: str, **more: Any) -> Reply:
        assert workshop.stdin
        assert workshop.stdout
        workshop.stdin.write(request(server, url, tmp_path, **more))
        workshop.stdin.flush()
        return Reply(**json.loads(workshop.stdout.readline()))

    return ask


def bounded(server: Server, folder: Path, urls: Sequence[str], **more: Any) -> tuple[Any, Any]:
    """Replies to the URLs in a bounded process, then what comes of the attempts of WORKSHOP."""
    told = {"allow_hosts": [server.host], "proxies": False, **more}
    lines = [json.dumps(told) + "\n"] + [request(server, url, folder, **told) for url in urls]
    done = subprocess.run(
        [sys.executable, "-c", WORKSHOP],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = done.stdout.splitlines()
    return [Reply(**json.loads(line)) for line in answers[: len(urls)]], answers[len(urls) :]


def config(server: Server, download: dict[str, Any] | None = None, **sections: Any) -> Acquire:
    options = {"videos_per_hour": 1e6, "tries": 1, **(download or {})}
    return Acquire.model_validate(
        {"allow_hosts": (server.host,), "min_free": 0, "download": options, **sections}
    )


def get(
    server: Server, path: str, folder: Path, download: dict[str, Any] | None = None, **sections: Any
) -> tuple[Path, dict[str, str]]:
    part = folder / "h720.part"
    cfg = config(server, download, **sections)
    rights = fetch_page(f"http://{server.host}{path}", cfg, part, HostLimits(), threading.Event())
    assert list(folder.iterdir()) == [part]
    return part, rights


def failure(
    server: Server, path: str, folder: Path, download: dict[str, Any] | None = None, **sections: Any
) -> AcquireError:
    folder.mkdir(exist_ok=True)
    with pytest.raises(AcquireError) as caught:
        get(server, path, folder, download, **sections)
    assert list(folder.iterdir()) == []  # nothing half done remains
    return caught.value


def page(*bodies: str) -> bytes:
    return f"<html><title>A film</title><body>{''.join(bodies)}</body></html>".encode()


def remux(
    source: Path, to: Path, kind: str, options: dict[str, str], streams: Sequence[str] = ("video",)
) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as reader, av.open(str(to), "w", kind, options=options) as writer:
        taken = [s for s in reader.streams if s.type in streams]
        tracks = {s.index: writer.add_stream_from_template(s, opaque=True) for s in taken}
        for packet in reader.demux(taken):
            if packet.size:
                packet.stream = tracks[packet.stream.index]
                writer.mux(packet)
    return to


@pytest.fixture(scope="module")
def segments(footage: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders hls/ (4 segments with sound) and dash/ (sound apart) of the video cuts_sound."""
    folder = tmp_path_factory.mktemp("segments")
    source, both = footage("cuts_sound"), ("video", "audio")
    remux(source, folder / "hls/a.m3u8", "hls", {"hls_time": "1", "hls_playlist_type": "vod"}, both)
    remux(source, folder / "dash/a.mpd", "dash", {"seg_duration": "2"}, both)
    return folder


def serve(server: Server, folder: Path) -> None:
    for path in folder.iterdir():
        server.files[f"/{folder.name}/{path.name}"] = path.read_bytes()


def times(path: Path, kind: str) -> list[Fraction]:
    with open_video(path) as container:
        stream = getattr(container.streams, kind)[0]
        return [frame.pts * frame.time_base for frame in container.decode(stream)]


def pictures(path: Path) -> list[bytes]:
    with open_video(path) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


# ---------------------------------------------------------------------------- which URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.youtube.com/watch?v=-abcdefghij", True),
        ("https://youtu.be/abcdefghijk", True),
        ("https://vimeo.com/76979871", True),
        ("https://www.bilibili.com/video/BV1xx411c7mD", True),
        ("https://www.youtube.com/watch/film.mp4", False),
        ("https://ak.picdn.net/shutterstock/videos/1066/preview/stock-footage-a.MP4?x=1", False),
        ("https://example.com/a/page", False),
        ("http://127.0.0.1:80/x", False),
    ],
)  # fmt: skip
def test_pages_are_those_of_hosts_that_yt_dlp_knows(url: str, expected: bool) -> None:
    assert is_page(url) is expected


def test_a_file_is_told_without_loading_yt_dlp() -> None:
    code = (
        "import sys; from vidcurate.acquire.pages import is_page;"
        "assert not is_page('https://a.com/b.mp4?c'); assert 'yt_dlp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------- what is fetched


def test_the_video_of_a_page(
    server: Server, footage: Callable[[str], Path], tmp_path: Path
) -> None:
    body = footage("cuts").read_bytes()
    html = page('<video src="/film.mp4" title="x"></video>')
    server.files["/watch"] = (200, {"Content-Type": "text/html"}, html)
    server.files["/film.mp4"] = body
    (tmp_path / "h720.part-0123").write_bytes(b"of a run that was killed")
    path, rights = get(server, "/watch?id=7", tmp_path)
    assert path.read_bytes() == body
    assert rights == {}  # a page says nothing of license and channel


@pytest.mark.parametrize(
    ("height", "taken"), [(None, "1080"), (720, "720"), (719, "360"), (100, "360")]
)
def test_the_best_height_within_the_limit_else_the_smallest(
    server: Server, reply: Callable[..., Reply], height: int | None, taken: str
) -> None:
    lines = ["#EXTM3U"]
    for size in ("360", "1080", "720"):
        lines += [f"#EXT-X-STREAM-INF:BANDWIDTH={size}000,RESOLUTION={int(size) * 16 // 9}x{size}",
                  f"{size}.m3u8"]  # fmt: skip
        server.files[f"/{size}.m3u8"] = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{size}.ts\n#EXT-X-ENDLIST\n".encode()
        )
        server.files[f"/{size}.ts"] = size.encode()
    server.files["/master.m3u8"] = "\n".join(lines).encode()
    answer = reply("/master.m3u8", max_height=height)
    assert Path(answer.file).read_bytes() == taken.encode()


def test_hls_segments_are_one_file(
    server: Server, reply: Callable[..., Reply], segments: Path, footage: Callable[[str], Path]
) -> None:
    serve(server, segments / "hls")
    path = Path(reply("/hls/a.m3u8").file)
    assert pictures(path) == pictures(footage("cuts_sound"))
    assert len(times(path, "audio")) > 0


def test_dash_with_sound_apart_is_joined(
    server: Server, reply: Callable[..., Reply], segments: Path, footage: Callable[[str], Path]
) -> None:
    serve(server, segments / "dash")
    path = Path(reply("/dash/a.mpd").file)
    assert pictures(path) == pictures(footage("cuts_sound"))
    assert times(path, "video") == times(footage("cuts_sound"), "video")
    assert abs(times(path, "audio")[-1] - times(footage("cuts_sound"), "audio")[-1]) < 0.05


def test_cookies_go_to_their_host_and_the_file_stays_as_it_is(
    server: Server, footage: Callable[[str], Path], tmp_path: Path
) -> None:
    jar = tmp_path / "cookies.txt"
    jar.write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tsecret\n"
        "other.example\tFALSE\t/\tFALSE\t0\tother\tsecret2\n"
    )
    before = jar.read_bytes()
    (tmp_path / "out").mkdir()
    answer = {"Content-Type": "video/mp4", "Set-Cookie": "tracking=1"}
    server.files["/get"] = (200, answer, footage("cuts").read_bytes())
    get(server, "/get", tmp_path / "out", {"cookies": str(jar)})
    assert {headers.get("Cookie") for _, headers in server.seen[:1]} == {"session=secret"}
    assert not any("secret2" in str(headers) for _, headers in server.seen)
    assert jar.read_bytes() == before
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        get(server, "/get", tmp_path / "out", {"cookies": str(tmp_path / "nowhere.txt")})


def test_a_list_of_one_video_is_that_video(server: Server, reply: Callable[..., Reply]) -> None:
    item = "<item><title>a</title><enclosure url='http://{}/{}.mp4'/></item>"
    feed = "<?xml version='1.0'?><rss version='2.0'><channel><title>f</title>{}</channel></rss>"
    one, two = (item.format(server.host, n) for n in (1, 2))
    server.files["/feed"] = (200, {"Content-Type": "text/xml"}, feed.format(one).encode())
    server.files["/1.mp4"] = b"x" * 5000
    assert Path(reply("/feed").file).stat().st_size == 5000
    server.files["/feed"] = (200, {"Content-Type": "text/xml"}, feed.format(one + two).encode())
    assert reply("/feed").message == "a page of several videos"
    server.files["/feed"] = (200, {"Content-Type": "text/xml"}, feed.format("").encode())
    assert reply("/feed").message == "no video on it"


# ---------------------------------------------------------------------------- what fails, and how


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, VideoGoneError), (410, VideoGoneError), (401, VideoPrivateError),
     (403, ThrottledError), (451, VideoRegionError), (503, TransferError), (400, AcquireError)],
)  # fmt: skip
def test_the_status_of_a_page_says_what_is_wrong(
    server: Server, reply: Callable[..., Reply], status: int, kind: type[AcquireError]
) -> None:
    server.files["/watch"] = (status, {"Content-Type": "text/html"}, b"<html>no</html>")
    answer = reply("/watch")
    assert answer.kind == kind.__name__
    assert f"HTTP Error {status}" in answer.message
    server.files["/watch.html"] = page('<video src="/watch"></video>')  # the same of its file
    answer = reply("/watch.html")
    assert answer.kind == kind.__name__
    assert f"HTTP Error {status}" in answer.message


def test_too_many_requests_hold_the_host_as_long_as_it_asks(server: Server, tmp_path: Path) -> None:
    server.files["/get"] = [(429, {"Retry-After": "1"}, b""), (429, {"Retry-After": "60"}, b"")]
    limits = HostLimits()
    url = f"http://{server.host}/get?token=secret"
    began = time.monotonic()
    with pytest.raises(ThrottledError) as caught:
        fetch_page(url, config(server, {"tries": 2}), tmp_path / "p", limits, threading.Event())
    assert time.monotonic() - began >= 1
    assert server.count("/get?token=secret") == 2
    assert 55 < limits.reserve("127.0.0.1", None) <= 60
    assert str(caught.value).startswith(f"http://{server.host}/get: ")
    assert "secret" not in str(caught.value)


def cut(body: bytes) -> Callable[[Handler], None]:
    """States the whole length and sends a half."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Content-Type", "video/mp4")
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])

    return answer


def endless(piece: bytes, pause: float, kind: str) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        while True:
            handler.wfile.write(piece)
            time.sleep(pause)

    return answer


def test_a_cut_connection_is_gone_on_with(server: Server, reply: Callable[..., Reply]) -> None:
    body = os.urandom(300_000)
    server.files["/watch.html"] = page('<video src="/film.mp4"></video>')
    server.files["/film.mp4"] = [cut(body), body]
    assert reply("/watch.html").kind == "TransferError"
    answer = reply("/watch.html")  # the next try of the same call
    assert Path(answer.file).read_bytes() == body
    assert server.seen[-1][1]["Range"] == "bytes=150000-"


def test_a_lost_segment_is_fetched_again_and_never_left_out(
    server: Server,
    reply: Callable[..., Reply],
    segments: Path,
    footage: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    serve(server, segments / "hls")
    whole = server.files["/hls/a2.ts"]
    server.files["/hls/a2.ts"] = [(500, {}, b""), whole]
    path, _ = get(server, "/hls/a.m3u8", tmp_path, {"tries": 2})
    assert pictures(path) == pictures(footage("cuts_sound"))
    assert [server.count(f"/hls/a{n}.ts") for n in range(4)] == [1, 1, 2, 1]
    server.files["/hls/a2.ts"] = (404, {}, b"")
    assert reply("/hls/a.m3u8").kind == "VideoGoneError"


def test_a_body_without_end_stops_at_the_size_limit(
    server: Server, reply: Callable[..., Reply], tmp_path: Path
) -> None:
    server.files["/watch.html"] = page('<video src="/film.mp4"></video>')
    server.files["/film.mp4"] = endless(bytes(100_000), 0, "video/mp4")
    answer = reply("/watch.html", max_size=10**6)
    assert answer.kind == "AcquireError"
    assert answer.message == "larger than acquire.max_size (1000000 bytes)"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4 * 10**6


def test_a_page_without_end_stops_at_the_memory_limit(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MEMORY", 250 * 2**20)
    server.files["/watch"] = endless(b"<html>" + bytes(2**20), 0, "text/html")
    assert "took more than 250 MiB of memory" in str(failure(server, "/watch", tmp_path))


def test_a_slow_drip_stops_at_the_time_limit(server: Server, tmp_path: Path) -> None:
    server.files["/get"] = endless(b"x", 0.05, "video/mp4")
    error = failure(server, "/get", tmp_path, {"tries": 3}, timeout=2.0)
    assert type(error) is TransferError
    assert "took longer than acquire.timeout (2 s)" in str(error)


def test_a_run_that_stops_gives_up(server: Server, tmp_path: Path) -> None:
    server.files["/get"] = endless(b"x", 0.05, "video/mp4")
    stop = threading.Event()
    timer = threading.Timer(1, stop.set)
    timer.start()
    with pytest.raises(Stopped):
        fetch_page(
            f"http://{server.host}/get", config(server), tmp_path / "part", HostLimits(), stop
        )
    timer.join()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_video(server: Server, tmp_path: Path) -> None:
    server.files["/get"] = endless(b"x", 0.05, "video/mp4")
    with pytest.raises(StorageError, match="min_free"):
        get(server, "/get", tmp_path, min_free=10**18)


@pytest.mark.parametrize(
    ("files", "path", "reason"),
    [
        ({"/w.html": page("nothing")}, "/w.html", "Unsupported URL"),
        ({"/w.html": page('<video src="/1.mp4"></video><video src="/2.mp4"></video>')}, "/w.html",
         "several videos"),
        ({"/a.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n1.ts\n"}, "/a.m3u8",
         "live stream"),
        ({"/a.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"k\"\n"
                     b"#EXTINF:1,\n1.ts\n#EXT-X-ENDLIST\n"}, "/a.m3u8",
         "leaves to ffmpeg"),
        ({"/a.mp3": (200, {"Content-Type": "audio/mpeg"}, b"ID3" + bytes(9999))}, "/a.mp3",
         "no format with pictures"),
    ],
)  # fmt: skip
def test_what_is_no_single_whole_video_is_refused(
    server: Server, reply: Callable[..., Reply], files: dict[str, Any], path: str, reason: str
) -> None:
    server.files.update(files)
    answer = reply(path)
    assert answer.kind == "AcquireError"
    assert reason in answer.message


@pytest.mark.parametrize("place", ["/watch.html", "/film.mp4"])
def test_opt_out_of_the_page_or_of_its_file(
    server: Server, reply: Callable[..., Reply], place: str
) -> None:
    server.files["/watch.html"] = page('<video src="/film.mp4"></video>')
    server.files["/film.mp4"] = b"x" * 5000
    tag = {"X-Robots-Tag": "noai", "Content-Type": "text/html" if "html" in place else "video/mp4"}
    server.files[place] = (200, tag, server.files[place])
    answer = reply("/watch.html")
    assert answer.kind == "OptOutError"
    assert "X-Robots-Tag: noai" in answer.message
    assert reply("/watch.html", respect_opt_out=False).file


# ---------------------------------------------------------------------------- what is not reached


def test_private_addresses_are_refused_wherever_they_are_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # not used unless the recipe says so
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.1)
        host = f"127.0.0.1:{other.getsockname()[1]}"
        there = f"http://{host}/film.mp4"
        server.files["/to.mp4"] = (302, {"Location": there}, b"")
        server.files["/watch.html"] = page(f'<video src="{there}"></video>')
        server.files["/a.m3u8"] = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{there}\n#EXT-X-ENDLIST\n".encode()
        )
        server.files["/good.mp4"] = b"x" * 5000
        base = f"http://{server.host}"
        urls = [there, f"{base}/to.mp4", f"{base}/watch.html", f"{base}/a.m3u8",
                there.replace("127.0.0.1", "0x7f000001"), f"{base}/good.mp4"]  # fmt: skip
        answers, attempts = bounded(server, tmp_path, urls)
        with pytest.raises(TimeoutError):
            other.accept()  # nobody came
    for answer in answers[:5]:
        assert answer.kind == "AcquireError"
        assert "127.0.0.1 is not a public address" in answer.message
    for answer in answers[:4]:
        assert f"add {host} to acquire.allow_hosts" in answer.message
    assert answers[5].file
    assert attempts == ["PermissionError"] * 3 + ["RefusedError"] * 3


def test_through_a_proxy_addresses_are_checked_as_they_are_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server plays the proxy: it is asked for whole URLs.
    for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", f"::1,10.0.0.2,127.0.0.3:{server.server_port}")
    monkeypatch.setenv("HTTP_PROXY", f"http://{server.host}")
    video = (200, {"Content-Type": "video/mp4"}, b"x" * 5000)
    server.files["http://films.example/get"] = server.files["/get"] = video
    server.files["http://films.example/to"] = (302, {"Location": "http://10.0.0.1/get"}, b"")
    server.files["http://10.0.0.1/get"] = video
    urls = ["http://films.example/get", "http://films.example/to", "http://localhost/get",
            "http://0x7f.1/get", "http://10.0.0.2/get"]  # fmt: skip
    answers, _ = bounded(server, tmp_path, urls, proxies=True, allow_hosts=[])
    assert answers[0].file
    for answer in answers[1:]:
        assert answer.kind == "AcquireError"
        assert "not a public address" in answer.message
    assert {path for path, _ in server.seen} == set(urls[:2])


def test_a_child_ends_with_its_parent(server: Server, tmp_path: Path) -> None:
    asked = threading.Event()

    def slow(handler: Handler) -> None:
        asked.set()
        endless(b"x", 0.05, "video/mp4")(handler)

    server.files["/get"] = slow
    child = subprocess.Popen(
        [sys.executable, "-m", "vidcurate.acquire.page_child"], stdin=subprocess.PIPE
    )
    assert child.stdin
    child.stdin.write(request(server, "/get", tmp_path).encode())
    child.stdin.flush()
    assert asked.wait(30)
    child.stdin.close()
    assert child.wait(10) == 1


def test_a_child_that_crashes_is_told_as_such(server: Server, tmp_path: Path) -> None:
    def crash(handler: Handler) -> None:
        (child,) = (
            p for p in psutil.Process().children() if "vidcurate.acquire.page_child" in p.cmdline()
        )
        child.send_signal(signal.SIGSEGV)

    server.files["/get"] = crash
    error = failure(server, "/get", tmp_path)
    assert "the download process died of SIGSEGV" in str(error)
    assert not error.is_transient
