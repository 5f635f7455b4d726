"""Downloading the video of a page, by yt-dlp in a child process.

A page is whatever is no media file itself: a video page that yt-dlp has an extractor for, any
other page with a video in it, or an HLS or DASH manifest (yt-dlp's generic extractor). Each
download has a process of its own (`acquire.page_child`), which is killed at the time limit or when
the run stops: nothing of yt-dlp's state stays.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from glob import escape
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import psutil

from vidcurate.acquire.cache import check_free, shown
from vidcurate.acquire.cookies import load_cookies
from vidcurate.acquire.limits import (
    HostLimits,
    backoff,
    host_of,
    pause,
    rate,
    retry_after,
    wait_turn,
)
from vidcurate.clip import url_key
from vidcurate.errors import (
    AcquireError,
    MissingExtraError,
    OptOutError,
    StorageError,
    ThrottledError,
    TransferError,
    VidcurateError,
    VideoGoneError,
    VideoPrivateError,
    VideoRegionError,
)
from vidcurate.recipe.model import Acquire

_POLL = 0.2  # seconds between looks at a child
_MEMORY = 2 * 1024**3  # resident bytes; a page or manifest without end is read into memory
_FILES = (".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
          ".ogv", ".ts", ".webm", ".wmv")  # fmt: skip
_KINDS: dict[str, type[VidcurateError]] = {
    kind.__name__: kind
    for kind in (
        AcquireError,
        OptOutError,
        StorageError,
        ThrottledError,
        TransferError,
        VideoGoneError,
        VideoPrivateError,
        VideoRegionError,
    )
}


def is_page(url: str) -> bool:
    """Whether a URL is a page of a host that yt-dlp knows, and not of a file.

    A URL whose path ends like a video file is none, without yt-dlp being asked.

    Raises:
        ValueError: not a valid URL.
        MissingExtraError: yt-dlp is not installed.
    """
    if urlsplit(url).path.lower().endswith(_FILES):
        return False
    return _is_known(url)


def fetch_page(
    url: str, cfg: Acquire, part: Path, limits: HostLimits, stop: threading.Event
) -> dict[str, str]:
    """Download the video of a page to the file `part`; its rights as the host tells them.

    The best format with pictures of at most `download.max_height` is taken (the smallest where
    all are larger) and, where it has no sound, the best sound; the two are joined without encoding.
    Transient failures are tried again, `download.tries` times in all, and go on with what is there
    of the same format; cfg.timeout bounds the seconds of all tries together, not the waiting for
    the host's turn. Nothing but `part` is left, and that only when the video is whole.

    Returns:
        license and channel, each where it is known.

    Raises:
        AcquireError: and its classes: gone, private, not shown here, throttled, broken off; a live
            stream, a page of several videos or of none.
        StorageError: less than cfg.min_free would be left.
        UserError: the cookies' file cannot be read.
        MissingExtraError: yt-dlp is not installed.
        Stopped: `stop` was set.
        OSError: `part` cannot be written.
    """
    assert cfg.download
    host = host_of(url)
    per_hour = rate(cfg.download, host, is_page=True)
    tracks = part.with_name(f"{part.name}-")
    jar = load_cookies(cfg.download.cookies)
    request = {
        "url": url,
        "is_known": _is_known(url),
        "tracks": str(tracks),
        "max_height": cfg.download.max_height,
        "max_size": cfg.max_size,
        "allow_hosts": cfg.allow_hosts,
        "proxies": cfg.download.proxies,
        "cookies": Path(str(jar.filename)).read_text(encoding="utf-8") if jar else None,
        "respect_opt_out": cfg.download.opt_out == "respect",
    }
    key = url_key(url)
    name = key if key.startswith("youtube:") else shown(url)
    left = cfg.timeout
    try:
        _remove(tracks)  # of a run that was killed
        for attempt in range(1, cfg.download.tries + 1):
            wait_turn(limits, host, per_hour, stop)
            began = time.monotonic()
            reply = _ask(request, name, cfg, part, left, stop)
            left -= time.monotonic() - began
            if not reply["kind"]:
                Path(reply["file"]).replace(part)
                return dict(reply["rights"])
            error = _KINDS.get(reply["kind"], AcquireError)(f"{name}: {reply['message']}")
            if not isinstance(error, AcquireError) or not error.is_transient:
                raise error
            wish = retry_after(reply["retry_after"])
            if wish is None and isinstance(error, ThrottledError):
                wish = backoff(attempt)
            if wish is not None:
                # After the last try, too: all are asked to wait, not this video alone.
                limits.hold(host, wish)
            if attempt == cfg.download.tries or left <= 0:
                raise error
            if wish is None:
                pause(backoff(attempt), stop)
    finally:
        _remove(tracks)
    raise AssertionError("the last try returns or raises")


def _is_known(url: str) -> bool:
    return any(extractor.suitable(url) for extractor in _extractors())


@cache
def _extractors() -> Sequence[Any]:
    try:
        from yt_dlp.extractor import gen_extractor_classes
    except ImportError as error:
        raise MissingExtraError(
            "downloading from video pages needs yt-dlp: pip install 'vidcurate[download]'"
        ) from error
    return [e for e in gen_extractor_classes() if e.ie_key() != "Generic"]


def _ask(
    request: dict[str, Any], name: str, cfg: Acquire, part: Path, left: float, stop: threading.Event
) -> Any:
    """One try, in a process of its own; its `Reply` as a dict."""
    deadline = time.monotonic() + left
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "vidcurate.acquire.page_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "YTDLP_NO_PLUGINS": "1"},
            # Ctrl-C goes to the parent, which sets `stop`.
            start_new_session=True,
        )
        assert child.stdin
        assert child.stdout
        try:
            with suppress(BrokenPipeError):  # it died at once, which shows below
                # Its input stays open: the child ends when it closes, so also when we die.
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            while not wait([child.stdout.fileno()], _POLL):
                if time.monotonic() > deadline:
                    raise TransferError(
                        f"{name}: took longer than acquire.timeout ({cfg.timeout:g} s)"
                    )
                check_free(part.parent, cfg)
                _check_memory(child.pid, name)
                pause(0, stop)
            answer = child.stdout.read()
            status = child.wait()
            if status != 0 or not answer:
                raise _crash(status, log, name)
            return json.loads(answer)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
            with suppress(BrokenPipeError):
                child.stdin.close()


def _check_memory(pid: int, name: str) -> None:
    with suppress(psutil.NoSuchProcess):
        if psutil.Process(pid).memory_info().rss > _MEMORY:
            raise AcquireError(
                f"{name}: its page or manifest took more than {_MEMORY >> 20} MiB of memory"
            )


def _crash(status: int, log: IO[bytes], name: str) -> AcquireError:
    if status < 0:
        # Nobody kills itself so: it was the kernel, out of memory, or a person.
        outside = -status == signal.SIGKILL
        died = f"died of {signal.Signals(-status).name}"
        return AcquireError(f"{name}: the download process {died}", transient=outside)
    log.seek(0)
    lines = log.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    why = f": {lines[-1]}" if lines else ""
    return AcquireError(f"{name}: the download process ended with status {status}{why}")


def _remove(tracks: Path) -> None:
    for path in tracks.parent.glob(f"{escape(tracks.name)}*"):
        path.unlink(missing_ok=True)
