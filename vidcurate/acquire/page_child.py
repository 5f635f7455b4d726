"""The process in which yt-dlp downloads one video page; `acquire.pages` starts and watches it.

It reads one line of JSON from its standard input, a `Request`, and answers with one line of JSON
on its standard output, a `Reply`. It ends when its standard input closes: with its parent.

What a page may bring about here is bounded. Connections go to public addresses and the recipe's
`allow_hosts` only, by http(s), redirects and segments included: names are checked as they are
resolved, and nothing is connected to that was not. No other program is run (no ffmpeg, no
JavaScript engine), no plugin, configuration file or cache of yt-dlp is used, and nothing is
written but the tracks of the video. Through a proxy names are resolved by the proxy: `localhost`
and private addresses written as such are refused here, also in redirects.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from yt_dlp import YoutubeDL
from yt_dlp.networking.exceptions import HTTPError, TransportError

from vidcurate.acquire.addresses import check_proxied, is_public
from vidcurate.acquire.page_errors import RefusedError, Reply, classify
from vidcurate.errors import AcquireError

_AGENT = "vidcurate"  # a robot of this name may be spoken to
_STALL = 30.0  # seconds without a connection or a byte
_NATIVE = frozenset(("http", "https", "m3u8_native", "m3u8", "http_dash_segments"))
# What an entry of a list takes over from it.
_OF_LIST = ("extractor", "extractor_key", "webpage_url", "original_url")
_LIVE = {
    "is_live": "a live stream, which is not downloaded",
    "is_upcoming": "a live stream that has not begun",
    "post_live": "a live stream that its host still works on",
}
_PROGRAMS = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
     "os.forkpty", "pty.spawn")
)  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080,
                  "socks5h": 1080}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What to download, and within which bounds.

    tracks: path that the names of all files begin with; nothing else is written.
    is_known: an extractor of yt-dlp knows the URL; else they are not asked once more.
    max_size: bytes of all tracks together. cookies: the text of a file in Netscape's format.
    proxies: take those of the environment. respect_opt_out: heed X-Robots-Tag.
    """

    url: str
    is_known: bool
    tracks: str
    max_height: int | None
    max_size: int
    allow_hosts: Sequence[str]
    proxies: bool
    cookies: str | None
    respect_opt_out: bool


class Page(YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp as it is used here: one video, its tracks apart, nothing but http(s)."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.chosen: list[dict[str, Any]] = []
        self.failure: Exception | None = None  # of the last request that failed
        self._heeds_opt_out = request.respect_opt_out
        self._finished = 0  # bytes of the tracks that are whole
        options: dict[str, Any] = {
            "quiet": True,
            "noprogress": True,
            "color": "never",
            "logger": _Silence(),
            "noplaylist": True,
            "format": self._choose,
            "cachedir": False,
            "js_runtimes": {},
            "external_downloader": {"default": "native"},
            "hls_prefer_native": True,
            "geo_bypass": False,
            "updatetime": False,
            "skip_unavailable_fragments": False,
            # Its own tries would not heed the pauses that a host asks of the whole cluster.
            "retries": 0,
            "fragment_retries": 0,
            "extractor_retries": 0,
            "file_access_retries": 0,
            "socket_timeout": _STALL,
            "progress_hooks": [self._check_size],
        }
        if request.max_height is not None:
            options["format_sort"] = [f"height:{request.max_height}"]
        if not request.proxies:
            options["proxy"] = ""
        if request.cookies is not None:
            options["cookiefile"] = io.StringIO(request.cookies)
        super().__init__(options)

    def build_request_director(self, handlers: Iterable[Any], preferences: Any = None) -> Any:
        """With the handler alone whose connections are Python's own, and so are checked."""
        ours = [handler for handler in handlers if handler.RH_KEY == "Urllib"]
        return super().build_request_director(ours, preferences)

    def urlopen(self, req: Any) -> Any:
        """As yt-dlp's; remembers the failure, which some of its downloaders tell as text only.

        Raises:
            OptOutError: the page itself, or a file of the video, is marked as not to be used. What
                else an extractor asks for (scripts, its host's own interfaces) is not judged.
        """
        try:
            answer = super().urlopen(req)
        except (HTTPError, TransportError) as error:
            self.failure = error
            raise
        tags = answer.headers.get_all("X-Robots-Tag")
        if self._heeds_opt_out and tags:
            from vidcurate.acquire.answers import check_opt_out

            check_opt_out(tags, _AGENT, str(urlsplit(answer.url).hostname))
        self._heeds_opt_out = False  # until the files of the video are asked for
        return answer

    def report_error(self, message: Any, *args: Any, **kwargs: Any) -> None:
        """As yt-dlp's, without its advice to install what is not used here.

        Raises:
            AcquireError: the stream is left to ffmpeg by yt-dlp.
        """
        if "ffmpeg could not be found" in str(message):
            raise AcquireError(
                "a stream that yt-dlp leaves to ffmpeg, which is not used: live, or encrypted in a "
                "way of its own"
            )
        super().report_error(message, *args, **kwargs)

    def process_ie_result(
        self, ie_result: dict[str, Any], download: bool = True, extra_info: Any = None
    ) -> Any:
        """As yt-dlp's, but of a list the only entry.

        Raises:
            AcquireError: a list of several videos, or of none.
        """
        while ie_result.get("_type") in ("playlist", "multi_video", "compat_list"):
            entries = [entry for _, entry in zip(range(2), ie_result["entries"], strict=False)]
            if len(entries) != 1:
                raise AcquireError("a page of several videos" if entries else "no video on it")
            told = {name: ie_result[name] for name in _OF_LIST if name in ie_result}
            ie_result = {**told, **entries[0]}
        return super().process_ie_result(ie_result, download, extra_info)

    def fetch(self) -> Reply:
        """Download the video of the page.

        Raises:
            AcquireError: no single video that is whole and not live.
            Exception: those of yt-dlp and of its extractors.
        """
        extractor = None if self.request.is_known else "Generic"
        info = self.extract_info(self.request.url, download=False, ie_key=extractor)
        if not info or not self.chosen:
            raise AcquireError("no video on it")
        live = "is_live" if info.get("is_live") else info.get("live_status")
        if live in _LIVE:
            raise AcquireError(_LIVE[live])
        self._heeds_opt_out = self.request.respect_opt_out
        tracks = []
        for chosen in self.chosen:
            path = Path(self.request.tracks + _name(chosen))
            done, _ = self.dl(str(path), {**info, **chosen})
            if not done or not path.exists():
                raise AcquireError("yt-dlp could not download it")
            self._heeds_opt_out = self.request.respect_opt_out
            self._finished += path.stat().st_size
            tracks.append(path)
        if len(tracks) == 2:
            from vidcurate.media.join import join  # not for every child: it loads a decoder

            joined = Path(f"{self.request.tracks}joined")
            join(tracks[0], tracks[1], joined)
            tracks = [joined]
        rights = {"license": info.get("license"),
                  "channel": info.get("channel") or info.get("uploader")}  # fmt: skip
        known = {name: value for name, value in rights.items() if value and isinstance(value, str)}
        return Reply(file=str(tracks[0]), rights=known)

    def _choose(self, ctx: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The best format with pictures and, where it has no sound, the best of sound alone.

        ctx: `formats`, the worst first, sorted with those first that are larger than max_height.
        """
        native = [f for f in ctx["formats"] if f.get("protocol") in _NATIVE]
        shown = [f for f in native if f.get("vcodec") != "none"]
        if not shown:
            kinds = sorted({str(f.get("protocol")) for f in ctx["formats"]} - _NATIVE)
            reason = f" (it is served by {', '.join(kinds)})" if kinds else ""
            raise AcquireError(f"no format with pictures that can be downloaded{reason}")
        self.chosen = [shown[-1]]
        heard = [f for f in native if f.get("vcodec") == "none" and f.get("acodec") != "none"]
        if shown[-1].get("acodec") == "none" and heard:
            self.chosen.append(heard[-1])
        yield from self.chosen

    def _check_size(self, progress: Mapping[str, Any]) -> None:
        size = max(progress.get("total_bytes") or 0, progress.get("downloaded_bytes") or 0)
        if self._finished + size > self.request.max_size:
            raise AcquireError(f"larger than acquire.max_size ({self.request.max_size} bytes)")


class _Silence:
    """A logger that drops everything: failures come as exceptions."""

    def debug(self, message: str) -> None:
        pass

    warning = error = debug


def _name(chosen: Mapping[str, Any]) -> str:
    """A file name for a track. It holds what the host tells of the format, so that another
    encode under the same id never continues the file of an earlier try."""
    told = ("format_id", "filesize", "tbr", "width", "height", "fps", "vcodec", "acodec")
    values = json.dumps([str(chosen.get(name)) for name in told])
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def guard(allow_hosts: Sequence[str], *, proxies: bool) -> None:
    """Bound this process for good: addresses, protocols, programs."""
    allowed = {host.lower() for host in allow_hosts}
    if proxies:
        allowed.update(_proxy_hosts())
        _check_proxied_requests(allow_hosts)
    resolved: set[tuple[str, int]] = set()
    getaddrinfo = socket.getaddrinfo

    def checked(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        found = getaddrinfo(host, port, *args, **kwargs)
        name = host.decode("ascii") if isinstance(host, bytes) else str(host)
        name = name.strip("[]").lower()
        for *_, address in found:
            ip, number = str(address[0]), int(address[1])
            if f"{name}:{number}" not in allowed and not is_public(ip):
                raise RefusedError(
                    f"{ip} is not a public address, which is refused; if it is meant, add "
                    f"{name}:{number} to acquire.allow_hosts"
                )
            resolved.add((ip, number))
        return found

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and tuple(args[1][:2]) not in resolved:
            raise RefusedError(f"{args[1]} is not a public address: it was not looked up")
        if event == "ftplib.connect":
            raise RefusedError("only http and https are downloaded")
        if event in _PROGRAMS:
            raise PermissionError("no other program is run")

    socket.getaddrinfo = checked
    sys.addaudithook(audit)


def _proxy_hosts() -> Iterator[str]:
    for scheme, url in urllib.request.getproxies().items():
        if scheme == "no":  # hosts that are reached without one
            continue
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower(), 80)
        yield f"{(parts.hostname or '').lower()}:{port}"


def _check_proxied_requests(allow_hosts: Sequence[str]) -> None:
    """Check the URL of each request, redirects included: its name is resolved elsewhere."""
    open_url = urllib.request.OpenerDirector.open

    def checked(opener: Any, fullurl: Any, *args: Any, **kwargs: Any) -> Any:
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
        try:
            check_proxied(parts.hostname or "", port, allow_hosts, "its proxy's target")
        except AcquireError as error:
            raise RefusedError(str(error)) from error
        return open_url(opener, fullurl, *args, **kwargs)

    urllib.request.OpenerDirector.open = checked  # type: ignore[method-assign,assignment]


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Serve the one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not be taken for the answer
    request = Request(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    guard(request.allow_hosts, proxies=request.proxies)
    page = Page(request)
    try:
        reply = page.fetch()
    except Exception as error:  # noqa: BLE001 (extractors raise what they like; all are answers)
        reply = classify(error, page.failure)
    answers.write(json.dumps(asdict(reply)))
    answers.close()
    # Not through threads of libraries that may hang.
    os._exit(0)


if __name__ == "__main__":
    main()
