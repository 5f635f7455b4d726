import hashlib
import os
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fault_server import FaultServer

from vidcurate.acquire import http
from vidcurate.acquire.fetch import Fetched, Fetcher, Stopped, cache_key
from vidcurate.acquire.limits import HostLimits
from vidcurate.errors import (
    AcquireError,
    StorageError,
    TransferError,
    UserError,
    VideoGoneError,
)
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire

Fetch = Callable[..., Fetched]


@pytest.fixture
def film(fault_server: FaultServer) -> Path:
    return fault_server.files["film.mp4"]


def held(tmp_path: Path) -> list[str]:
    """Names of the files in the cache."""
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())


# ------------------------------------------------------------------ local files


def test_local_files_are_taken_as_they_are(tmp_path: Path, fetch: Fetch) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(film)
    for path in (film, tmp_path / "link.mp4"):
        assert fetch(VideoRow(str(path)), mirror=f"{tmp_path}/*") == Fetched(path)
    assert not (tmp_path / "cache").exists()


def test_local_paths_that_are_no_readable_file(tmp_path: Path, fetch: Fetch) -> None:
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
            fetch(VideoRow(str(tmp_path / name)))
        assert not caught.value.is_transient


def test_a_member_of_a_tar_is_copied_once(tmp_path: Path, film: Path, fetch: Fetch) -> None:
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(film, "one.mp4")
    row = VideoRow(f"{tar}#one.mp4")
    found = fetch(row)
    assert found.is_download
    assert found.path.read_bytes() == film.read_bytes()
    assert fetch(row) == found
    inode = found.path.stat().st_ino
    assert fetch(row).path.stat().st_ino == inode
    # Another tar under the same name serves its own bytes.
    with tarfile.open(tar, "w") as archive:
        archive.add(__file__, "one.mp4")
    assert fetch(row).path.read_bytes() == Path(__file__).read_bytes()
    with pytest.raises(AcquireError, match=r"no member 'two\.mp4'"):
        fetch(VideoRow(f"{tar}#two.mp4"))


# ------------------------------------------------------------------ downloads


def test_a_download_is_done_once(
    tmp_path: Path, film: Path, fetch: Fetch, fault_server: FaultServer
) -> None:
    found = fetch("/ok/film.mp4?token=1#part")
    assert found.path.read_bytes() == film.read_bytes()
    assert found.is_download
    assert found.rights["sha256"] == hashlib.sha256(film.read_bytes()).hexdigest()
    assert found.rights["retrieved_at"].endswith("+00:00")
    assert fetch("/ok/film.mp4?token=1") == found
    assert len(fault_server.seen) == 1
    assert fetch("/ok/film.mp4?token=2").path != found.path
    # A row's key, not its URL, is what the cache knows it by.
    row = VideoRow(fault_server.url("/ok/film.mp4?token=3"), key="mine:1")
    assert fetch(row).path == fetch(VideoRow("http://x.invalid/", key="mine:1")).path
    assert len(fault_server.seen) == 3
    sha = found.rights["sha256"]
    assert held(tmp_path) == sorted([sha, *["file", "file.json"] * 3])


def test_threads_and_processes_share_one_download(
    tmp_path: Path, fault_server: FaultServer, config: Callable[..., Acquire]
) -> None:
    row = VideoRow(fault_server.url("/ok/film.mp4"))

    def get(_: int) -> Path:
        # A Fetcher of its own, as a process has: only the lock on disk is between them.
        limits, stop = HostLimits(), threading.Event()
        return Fetcher(config(), tmp_path / "cache", limits, stop).fetch(row).path

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(get, range(8)))) == 1
    assert len(fault_server.seen) == 1


def test_a_failure_leaves_nothing_and_a_broken_transfer_its_part(
    tmp_path: Path, fetch: Fetch, fault_server: FaultServer, film: Path
) -> None:
    with pytest.raises(VideoGoneError):
        fetch("/status/404/film.mp4")
    with pytest.raises(AcquireError, match="larger than"):
        fetch("/endless/film.mp4", max_size=10**6)
    assert held(tmp_path) == []
    assert list((tmp_path / "cache" / "videos").iterdir()) == []
    with pytest.raises(TransferError):
        fetch("/cut/1/film.mp4", download={"tries": 1})
    assert held(tmp_path) == ["file.part", "file.part.json"]
    # A later run goes on with it.
    assert fetch("/cut/1/film.mp4").path.read_bytes() == film.read_bytes()
    assert fault_server.seen[-1][1]["Range"].startswith("bytes=")
    assert "file.part" not in held(tmp_path)
    assert "file.part.json" not in held(tmp_path)


def test_bytes_must_be_those_that_the_dataset_names(
    tmp_path: Path, fetch: Fetch, fault_server: FaultServer, film: Path
) -> None:
    sha = hashlib.sha256(film.read_bytes()).hexdigest()
    url = fault_server.url("/ok/film.mp4")
    with pytest.raises(AcquireError, match=f"their sha256 is {sha}, not {'0' * 64}") as caught:
        fetch(VideoRow(url, rights={"sha256": "0" * 64}))
    assert not caught.value.is_transient
    assert held(tmp_path) == []
    for rights in ({"sha256": sha.upper()}, {"sha256": "unknown"}, {}):
        assert fetch(VideoRow(url, rights=rights)).rights["sha256"] == sha


def test_an_html_answer_is_fetched_as_a_page(
    tmp_path: Path, fetch: Fetch, film: Path, fault_server: FaultServer
) -> None:
    found = fetch("/page/film.mp4", download={"max_height": 720})
    assert found.path.name == "h720"
    assert found.path.read_bytes() == film.read_bytes()
    asked = len(fault_server.seen)
    assert fetch("/page/film.mp4", download={"max_height": 720}) == found
    assert len(fault_server.seen) == asked


def test_downloads_may_be_switched_off(fetch: Fetch, fault_server: FaultServer) -> None:
    with pytest.raises(AcquireError, match=r"acquire\.download is false"):
        fetch("/ok/film.mp4", download=False)
    assert fault_server.seen == []
    found = fetch("/ok/film.mp4")
    assert fetch("/ok/film.mp4", download=False) == found
    # Of a page, too, whatever its size was.
    found.path.rename(found.path.with_name("h720"))
    told = found.path.with_name("file.json")
    told.rename(told.with_name("h720.json"))
    assert fetch("/ok/film.mp4", download=False).path.name == "h720"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/film.mp4", "s3:// is not handled: give a local path or an http"),
        ("file:///etc/passwd", "file:// is not handled"),
        ("http://[::1/film.mp4", "not a valid URL"),
        ("http://x:99999/film.mp4", "not a valid URL"),
        ("http:///film.mp4", "only http and https"),
    ],
)
def test_other_urls_are_refused(fetch: Fetch, url: str, message: str) -> None:
    with pytest.raises(AcquireError, match=message):
        fetch(VideoRow(url))


def test_a_private_address_is_refused(fetch: Fetch, fault_server: FaultServer) -> None:
    with pytest.raises(AcquireError, match="not a public address"):
        fetch("/ok/film.mp4", allow_hosts=())
    assert fault_server.seen == []


# ------------------------------------------------------------------ mirrors


def test_mirrors_are_asked_in_order_before_the_host(
    tmp_path: Path, fetch: Fetch, fault_server: FaultServer, film: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    mirror = [f"{tmp_path}/{name}/{{video_id}}.*" for name in ("one", "two")]
    row = VideoRow(fault_server.url("/ok/film.mp4"), dataset_id="v1")
    downloaded = fetch(row, mirror=mirror)
    assert downloaded.path.read_bytes() == film.read_bytes()
    (tmp_path / "two" / "v1.mp4").write_bytes(b"two")
    assert fetch(row, mirror=mirror) == Fetched(tmp_path / "two" / "v1.mp4")
    (tmp_path / "one" / "v1.webm").write_bytes(b"one")
    assert fetch(row, mirror=mirror, download=False) == Fetched(tmp_path / "one" / "v1.webm")
    assert len(fault_server.seen) == 1


def test_a_missing_file_is_looked_for_in_the_mirrors(tmp_path: Path, fetch: Fetch) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "v1.mkv").write_bytes(b"film")
    mirror = [f"{tmp_path}/mirror/{{video_id}}.*"]
    row = VideoRow(str(tmp_path / "v1.mp4"), dataset_id="v1")
    assert fetch(row, mirror=mirror).path == tmp_path / "mirror" / "v1.mkv"
    with pytest.raises(AcquireError, match=r"v1\.mp4: no such file"):
        fetch(row)
    (tmp_path / "v1.mp4").write_bytes(b"mine")
    assert fetch(row, mirror=mirror).path == tmp_path / "v1.mp4"


def test_a_store_is_copied_to_the_cache_once(tmp_path: Path, fetch: Fetch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/fetch/v1.mp4", b"film of the store")
    row = VideoRow("http://x.invalid/v1", dataset_id="v1")
    found = fetch(row, mirror="memory://fetch/{video_id}.*")
    assert found.path.read_bytes() == b"film of the store"
    assert found.is_download
    assert set(found.rights) == {"retrieved_at", "sha256"}
    memory.rm("/fetch/v1.mp4")
    assert fetch(row, mirror="memory://fetch/{video_id}.*") == found
    other = VideoRow("http://x.invalid/v2", dataset_id="v2")
    with pytest.raises(AcquireError, match="no mirror has it"):
        fetch(other, mirror="memory://fetch/{video_id}.*", download=False)


def test_a_wrong_pattern_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a pattern"):
        Fetcher(Acquire(mirror=("/m/{a",)), tmp_path, HostLimits(), threading.Event())


# ------------------------------------------------------------------ the cache and its disk


def test_what_is_forgotten_is_fetched_again(
    tmp_path: Path, fault_server: FaultServer, config: Callable[..., Acquire], film: Path
) -> None:
    fetcher = Fetcher(config(), tmp_path / "cache", HostLimits(), threading.Event())
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(film, "one.mp4")
    for row, key in (
        (VideoRow(fault_server.url("/ok/film.mp4")), fault_server.url("/ok/film.mp4")),
        (VideoRow(fault_server.url("/ok/film.mp4?2"), key="youtube:x"), "youtube:x"),
        (VideoRow(f"{tar}#one.mp4"), f"{tar}#one.mp4"),
    ):
        path = fetcher.fetch(row).path
        assert cache_key(row) == key
        assert fetcher.forget(key) is True
        assert not path.exists()
        assert fetcher.forget(key) is False
        assert held(tmp_path) == []
        assert fetcher.fetch(row).path.read_bytes() == film.read_bytes()
        fetcher.forget(key)
    assert len(fault_server.seen) == 4


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, fault_server: FaultServer, config: Callable[..., Acquire]
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    fetcher = Fetcher(config(), tmp_path / "file", HostLimits(), threading.Event())
    with pytest.raises(StorageError, match=r"cannot be written: .*VIDCURATE_CACHE"):
        fetcher.fetch(VideoRow(fault_server.url("/ok/film.mp4")))


def test_a_disk_without_space_stops_the_run(fetch: Fetch, fault_server: FaultServer) -> None:
    with pytest.raises(StorageError, match=r"acquire\.min_free"):
        fetch("/ok/film.mp4", min_free=10**18)


# ------------------------------------------------------------------ hosts


def test_one_host_bears_few_transfers_at_a_time(
    tmp_path: Path,
    fault_server: FaultServer,
    config: Callable[..., Acquire],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_STALL", 0.5)
    cfg = config(download={"per_host": 1, "tries": 2})
    fetcher = Fetcher(cfg, tmp_path / "cache", HostLimits(), threading.Event())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetcher.fetch, VideoRow(fault_server.url("/stall/film.mp4")))
        while not fault_server.seen:
            time.sleep(0.01)
        second = pool.submit(fetcher.fetch, VideoRow(fault_server.url("/ok/film.mp4")))
        with pytest.raises(TransferError, match="no answer in time"):
            first.result()
        assert second.result().is_download
    asked = [path for path, _ in fault_server.seen]
    assert asked[:3] == ["/stall/film.mp4", "/stall/film.mp4", "/ok/film.mp4"]


@pytest.mark.parametrize("path", ["/stall/film.mp4", "/silent/film.mp4"])
def test_a_stop_does_not_wait_for_a_host_that_says_nothing(
    tmp_path: Path, fault_server: FaultServer, config: Callable[..., Acquire], path: str
) -> None:
    stop = threading.Event()
    fetcher = Fetcher(config(), tmp_path / "cache", HostLimits(), stop)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetcher.fetch, VideoRow(fault_server.url(path)))
        while not fault_server.seen:
            time.sleep(0.01)
        stop.set()
        with pytest.raises(Stopped):
            waiting.result(timeout=5)  # a stalled read itself takes 30 s
    fault_server.closing.set()


def test_a_stop_ends_what_waits(
    tmp_path: Path, fault_server: FaultServer, config: Callable[..., Acquire]
) -> None:
    limits, stop = HostLimits(), threading.Event()
    limits.hold("127.0.0.1", 1000)
    cfg = config(download={"per_host": 1})
    fetcher = Fetcher(cfg, tmp_path / "cache", limits, stop)
    rows = [VideoRow(fault_server.url(f"/ok/film.mp4?{i}")) for i in (1, 2, 2)]
    with ThreadPoolExecutor(3) as pool:
        # One waits for the host, one for the transfer, one for the other's lock.
        waiting = [pool.submit(fetcher.fetch, row) for row in rows]
        threading.Timer(0.3, stop.set).start()
        for each in waiting:
            with pytest.raises(Stopped):
                each.result()
    assert fault_server.seen == []
