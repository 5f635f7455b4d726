"""How often a host is asked: slots of an hourly rate, pauses that it wishes for, back-off."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

from vidcurate.recipe.model import Download

PAGES_PER_HOUR = 300.0
"""Video pages an hour that a large host bears from one address, where the recipe says nothing."""

FIRST_PAUSE = 1.0
"""Seconds of the pause after a first failed try, before its jitter."""

_LONGEST_PAUSE = 60.0
_LONGEST_HOLD = 3600.0  # a Retry-After of days would stop a run for good
_POLL = 0.1
_MOMENT = 0.01  # waits below this are noise of the clock
_SAME_HOST = {"youtu.be": "youtube.com"}


_T = TypeVar("_T")


class Stopped(Exception):  # noqa: N818 - no error, and nothing may take it for one
    """The run stops: what was waited for or downloaded is given up. No failure of the video."""


class HostLimits:
    """Who may ask which host when. Thread-safe; one for a process, or as a Ray actor for all.

    Arguments and results are plain values, waits are relative: clocks of machines may differ.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}  # when the next slot of a host's rate begins
        self._held: dict[str, float] = {}  # until when nobody asks

    def reserve(self, host: str, per_hour: float | None) -> float:
        """Book the next slot of a host; seconds to wait for it.

        Slots lie 3600 / per_hour seconds apart. None: no rate, only holds are waited for, and
        nothing is booked.
        """
        with self._lock:
            now = time.monotonic()
            start = max(now, self._held.get(host, now))
            if per_hour is not None:
                start = max(start, self._next.get(host, now))
                self._next[host] = start + 3600 / per_hour
            return start - now

    def hold(self, host: str, seconds: float) -> None:
        """Nobody asks the host for that long (its Retry-After; at most an hour counts)."""
        with self._lock:
            until = time.monotonic() + min(seconds, _LONGEST_HOLD)
            self._held[host] = max(until, self._held.get(host, until))


def host_of(url: str) -> str:
    """The host that limits go by: in lower case, without port and a leading `www.` or `m.`.

    Raises:
        ValueError: not a valid URL.
    """
    return _plain(urlsplit(url).hostname or "")


def rate(download: Download, host: str, *, is_page: bool) -> float | None:
    """Videos an hour that may be asked of a host (of `host_of`); None is without limit.

    `hosts` of the recipe goes before its `videos_per_hour`, that before our own default: 300 for
    video pages, no limit for direct files.
    """
    for name, per_hour in download.hosts.items():
        if _plain(name) == host:
            return per_hour
    if download.videos_per_hour is not None:
        return download.videos_per_hour
    return PAGES_PER_HOUR if is_page else None


def wait_turn(limits: HostLimits, host: str, per_hour: float | None, stop: threading.Event) -> None:
    """Wait until the host may be asked.

    Raises:
        Stopped: `stop` was set before.
    """
    wait = limits.reserve(host, per_hour)
    while wait > _MOMENT:
        pause(wait, stop)
        # A hold that came meanwhile delays those who waited for their slots, too: they take new
        # ones behind it, and do not all ask in the moment when it ends.
        if limits.reserve(host, None) <= _MOMENT:
            return
        wait = limits.reserve(host, per_hour)


def pause(seconds: float, stop: threading.Event) -> None:
    """Sleep that long.

    Raises:
        Stopped: `stop` was set.
    """
    if stop.wait(seconds):
        raise Stopped


def abandonable(work: Callable[[], _T], stop: threading.Event) -> _T:
    """What `work` returns or raises; it runs in a thread of its own.

    A read from a network that says nothing cannot be ended from outside, so on a stop the thread
    is left behind: `work` must look at `stop` whenever it goes on, before it touches the disk.

    Raises:
        Stopped: `stop` was set before its end.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (raised again by the caller's thread)
            errors.append(error)
        finally:
            done.set()

    # A daemon: the process may end without it.
    threading.Thread(target=run, name="transfer", daemon=True).start()
    while not done.wait(_POLL):
        if stop.is_set():
            raise Stopped
    if errors:
        raise errors[0]
    return results[0]


def backoff(attempt: int) -> float:
    """Seconds to wait after the failed try number `attempt` (from 1): doubling, with jitter.

    The jitter of half to one and a half keeps many workers from trying again together.
    """
    return min(FIRST_PAUSE * 2.0 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.5)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given in seconds or as an HTTP date.

    None where there is no header or it is neither (RFC 9110, section 10.2.3).
    """
    text = (value or "").strip()
    if text.isdecimal() and text.isascii():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _plain(host: str) -> str:
    name = host.strip().rstrip(".").lower()
    name = name.removeprefix("www.").removeprefix("m.")
    return _SAME_HOST.get(name, name)
