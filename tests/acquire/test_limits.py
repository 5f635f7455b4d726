import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from vidcurate.acquire import limits
from vidcurate.acquire.limits import (
    HostLimits,
    Stopped,
    abandonable,
    backoff,
    host_of,
    pause,
    rate,
    retry_after,
    wait_turn,
)
from vidcurate.errors import TransferError
from vidcurate.recipe.model import Download


def near(seconds: float) -> object:
    """Waits shrink while a test runs."""
    return pytest.approx(seconds, abs=2)


def test_slots_of_a_rate_lie_evenly_apart() -> None:
    hosts = HostLimits()
    waits = [hosts.reserve("a.example", 36) for _ in range(3)]
    assert waits == [0, near(100), near(200)]
    assert hosts.reserve("b.example", 36) == 0


def test_no_slot_is_given_twice() -> None:
    hosts = HostLimits()
    with ThreadPoolExecutor(16) as pool:
        waits = sorted(pool.map(lambda _: hosts.reserve("a", 36), range(50)))
    assert waits == [near(100 * i) for i in range(50)]


def test_without_a_rate_only_a_hold_is_waited_for() -> None:
    hosts = HostLimits()
    assert [hosts.reserve("a", None) for _ in range(3)] == [0, 0, 0]
    hosts.hold("a", 50)
    hosts.hold("a", 10)  # a shorter one ends nothing
    assert [hosts.reserve("a", None) for _ in range(2)] == [near(50), near(50)]
    assert hosts.reserve("b", None) == 0


def test_slots_begin_behind_a_hold() -> None:
    hosts = HostLimits()
    hosts.hold("a", 50)
    assert [hosts.reserve("a", 360) for _ in range(2)] == [near(50), near(60)]


def test_a_hold_has_an_end() -> None:
    hosts = HostLimits()
    hosts.hold("a", 1e9)
    assert hosts.reserve("a", None) == near(3600)


def test_a_hold_that_comes_while_one_waits_is_waited_for() -> None:
    hosts, began = HostLimits(), time.monotonic()
    hosts.reserve("a", 36000)  # the next slot is in 0.1 s
    timer = threading.Timer(0.02, hosts.hold, ("a", 0.3))
    timer.start()
    wait_turn(hosts, "a", 36000, threading.Event())
    assert time.monotonic() - began >= 0.3
    timer.join()


def test_a_stop_ends_every_wait() -> None:
    stop, hosts = threading.Event(), HostLimits()
    hosts.hold("a", 3000)
    threading.Timer(0.02, stop.set).start()
    with pytest.raises(Stopped):
        wait_turn(hosts, "a", None, stop)
    with pytest.raises(Stopped):
        pause(3000, stop)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.YouTube.com/watch?v=x", "youtube.com"),
        ("https://m.youtube.com/watch?v=x", "youtube.com"),
        ("https://youtu.be/x", "youtube.com"),
        ("http://user:secret@cdn.films.example.:8080/a.mp4", "cdn.films.example"),
        ("http://[::1]:80/", "::1"),
    ],
)
def test_hosts_of_limits(url: str, host: str) -> None:
    assert host_of(url) == host


def test_rates_from_the_recipe_go_before_our_own() -> None:
    assert rate(Download(), "a.example", is_page=True) == 300
    assert rate(Download(), "a.example", is_page=False) is None
    some = Download(videos_per_hour=60, hosts={"WWW.Films.example": 5})
    assert rate(some, "a.example", is_page=True) == 60
    assert rate(some, "a.example", is_page=False) == 60
    assert rate(some, "films.example", is_page=False) == 5


def test_backoff_doubles_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_PAUSE", 1.0)
    for attempt, mean in ((1, 1), (2, 2), (3, 4), (7, 60), (500, 60)):
        pauses = [backoff(attempt) for _ in range(50)]
        assert 0.5 * mean <= min(pauses) < mean < max(pauses) <= 1.5 * mean


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (" 0 ", 0.0), (None, None), ("", None), ("soon", None), ("-5", None)],
)  # fmt: skip
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after(formatdate(time.time() + 100, usegmt=True)) == near(100)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 99 Oct 2015 07:28:00 GMT") is None


def test_abandonable_work_ends_as_it_ends_or_with_the_stop() -> None:
    stop, never = threading.Event(), threading.Event()
    assert abandonable(lambda: 7, stop) == 7
    with pytest.raises(TransferError, match="lost"):
        abandonable(fail, stop)
    with pytest.raises(KeyError, match="a mistake of a library"):
        abandonable(mistake, stop)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Stopped):
        abandonable(never.wait, stop)
    never.set()


def mistake() -> None:
    raise KeyError("a mistake of a library")


def fail() -> None:
    raise TransferError("lost")
