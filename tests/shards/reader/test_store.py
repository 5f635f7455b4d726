"""Stores are read by exact ranges; what fails is told by its kind, and nothing ever hangs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fault_server import FaultServer

from vidcurate.errors import (
    MissingExtraError,
    ShardMissingError,
    ShardTruncatedError,
    StoreError,
    StoreFailedError,
    StoreRefusedError,
    StoreStalledError,
    UserError,
)
from vidcurate.shards.reader.cache import Cache
from vidcurate.shards.reader.store import Store, check_path

CONTENT = bytes(range(256)) * 800  # 204,800 bytes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultServer]:
    """Serves CONTENT as a.tar and plays faults by its paths."""
    (tmp_path / "served").write_bytes(CONTENT)
    with FaultServer({"a.tar": tmp_path / "served"}) as running:
        yield running


@pytest.fixture
def local(tmp_path: Path) -> Store:
    folder = tmp_path / "shards" / "b"
    folder.mkdir(parents=True)
    (folder / "a.tar").write_bytes(CONTENT)
    return Store(tmp_path / "shards")


@pytest.fixture
def memory() -> Iterator[Store]:
    system = fsspec.filesystem("memory")
    root = f"memory://shards-{os.getpid()}"
    system.pipe_file(f"{root}/b/a.tar", CONTENT)
    yield Store(root)
    system.rm(root, recursive=True)


def of(server: FaultServer, fault: str, **options) -> Store:
    return Store(f"http://127.0.0.1:{server.server_port}/{fault}", **options)


# ---------------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_ranges_are_exact(kind: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kind)
    assert store.read("b/a.tar", 0, 5) == CONTENT[:5]
    assert store.read("b/a.tar", 204_000, 800) == CONTENT[204_000:]
    assert store.read("b/a.tar", 7, 0) == b""
    assert store.read_all("b/a.tar") == CONTENT
    assert store.size("b/a.tar") == len(CONTENT)
    assert store.exists("b/a.tar")
    assert not store.exists("b/c.tar")


def test_a_server_sends_the_range_alone(server: FaultServer) -> None:
    assert of(server, "ok").read("a.tar", 1000, 50) == CONTENT[1000:1050]
    assert server.sent["/ok/a.tar"] == 50


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_several_ranges_come_in_the_order_asked(kind: str, request) -> None:
    store: Store = request.getfixturevalue(kind)
    ranges = [("b/a.tar", 200_000, 10), ("b/gone.tar", 0, 9), ("b/a.tar", 5, 20), ("b/a.tar", 0, 8)]
    found = store.read_many([*ranges, ("b/a.tar", 204_795, 10), ("b/a.tar", 204_700, 10)])
    assert found[0] == CONTENT[200_000:200_010]
    assert isinstance(found[1], ShardMissingError)
    assert found[2] == CONTENT[5:25]
    assert found[3] == CONTENT[:8]
    assert isinstance(found[4], ShardTruncatedError), "it ends past the file"
    assert found[5] == CONTENT[204_700:204_710], "its neighbour is whole all the same"


def test_neighbours_are_one_request(server: FaultServer) -> None:
    found = of(server, "ok").read_many(
        [("a.tar", 0, 100), ("a.tar", 612, 50), ("a.tar", 190_000, 9)]
    )
    assert found == [CONTENT[:100], CONTENT[612:662], CONTENT[190_000:190_009]]
    ranges = sorted(headers["Range"] for _, headers in server.seen)
    assert ranges == ["bytes=0-661", "bytes=190000-190008"]


def test_neighbours_that_fail_cost_no_more_than_one(server: FaultServer) -> None:
    for fault, kind in (("status/500", StoreFailedError), ("silent", StoreStalledError)):
        store = of(server, fault, timeout=0.2, attempts=1)
        found = store.read_many([("a.tar", at, 50) for at in (0, 100, 200, 300)])
        assert [type(error) for error in found] == [kind] * 4
        assert server.counts[f"/{fault}/a.tar"] == 1


def test_a_pickle_reads_the_same_and_holds_arguments_only(local: Store, memory: Store) -> None:
    for store in (local, memory):
        store.version = "v"
        store.read("b/a.tar", 0, 1)
        copied = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own)
        assert len(pickle.dumps(store)) < 500
        assert copied.read("b/a.tar", 3, 4) == CONTENT[3:7]
        assert copied.version == "v"


def test_many_files_are_read_with_few_handles(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"{i}.tar").write_bytes(b"%d" % i)
    store = Store(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    assert all(store.read(f"{i}.tar", 0, len(str(i))) == b"%d" % i for i in range(300))
    assert len(os.listdir("/proc/self/fd")) - before <= 64


def test_threads_share_a_store_while_handles_come_and_go(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.tar").write_bytes(b"%03d" % i)
    store = Store(tmp_path)
    wrong: list[int] = []

    def read(start: int) -> None:
        for k in range(1000):
            i = (start * 37 + k * 7) % 200
            if store.read(f"{i}.tar", 0, 3) != b"%03d" % i:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_is_copied_in_blocks(memory: Store, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vidcurate.shards.reader.store._BLOCK", 50_000)
    memory.copy("b/a.tar", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == CONTENT


# ---------------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../a.tar", "b/../../a", "b\\..\\a", "s3://x/a", "a\nb", "zip::a", "a\0b"],
)
def test_paths_that_leave_the_folder_are_refused(local: Store, path: str) -> None:
    with pytest.raises(StoreError, match="no path below its folder"):
        local.read(path, 0, 1)


def test_names_that_only_look_odd_are_read(tmp_path: Path) -> None:
    for name in ("a..b.tar", "ä #1%?.tar", "x*[y].tar"):
        check_path(name)
        (tmp_path / name).write_bytes(b"ok")
        assert Store(tmp_path).read(name, 0, 2) == b"ok"


def test_a_local_shard_that_is_short_missing_or_not_ours(local: Store, tmp_path: Path) -> None:
    with pytest.raises(ShardTruncatedError, match=r"b/a\.tar has 204800 bytes and ends before"):
        local.read("b/a.tar", 204_000, 801)
    with pytest.raises(ShardTruncatedError, match="copy it again"):
        local.read("b/a.tar", 0, 10**15)  # no memory is asked for
    with pytest.raises(ShardMissingError, match=r"gone\.tar is not there") as caught:
        local.read("gone.tar", 0, 1)
    assert not caught.value.is_transient
    with pytest.raises(StoreError, match="cannot be"):
        local.read("b/a.tar", -1, 5)
    with pytest.raises(StoreRefusedError, match="a folder"):
        local.read("b", 0, 5)


def test_a_remote_shard_that_is_short_or_missing(memory: Store, server: FaultServer) -> None:
    for store, name in ((memory, "b/a.tar"), (of(server, "ok"), "a.tar")):
        with pytest.raises(ShardTruncatedError, match="bytes 204700 to 204900") as caught:
            store.read(name, 204_700, 200)
        assert not caught.value.is_transient
        with pytest.raises(ShardTruncatedError):
            store.read(name, 300_000, 200)
    with pytest.raises(ShardMissingError):
        memory.read("b/c.tar", 0, 1)
    with pytest.raises(ShardMissingError):
        of(server, "none").read("a.tar", 0, 1)
    assert server.counts["/none/a.tar"] == 1, "what is not there is asked for once"


def test_what_may_pass_is_tried_again(server: FaultServer) -> None:
    assert of(server, "fail/2/503").read("a.tar", 10, 20) == CONTENT[10:30]
    assert server.counts["/fail/2/503/a.tar"] == 3
    assert of(server, "cut/1").read("a.tar", 10, 20) == CONTENT[10:30]


def test_a_store_that_keeps_failing_is_transient(server: FaultServer) -> None:
    with pytest.raises(StoreFailedError, match=r"2 time.*HTTP status 500") as caught:
        of(server, "status/500", attempts=2).read("a.tar", 0, 5)
    assert caught.value.is_transient


def test_a_refusal_is_not_tried_again(server: FaultServer) -> None:
    with pytest.raises(StoreRefusedError, match=r"HTTP status 403.*credentials") as caught:
        of(server, "status/403").read("a.tar", 0, 5)
    assert not caught.value.is_transient
    assert server.counts["/status/403/a.tar"] == 1


def test_a_server_without_ranges_is_refused(server: FaultServer) -> None:
    with pytest.raises(StoreRefusedError, match=r"ignores byte ranges.*sent 204800\)"):
        of(server, "plain").read("a.tar", 0, 5)


def test_a_silent_server_costs_its_deadline(server: FaultServer) -> None:
    began = time.monotonic()
    with pytest.raises(StoreStalledError, match=r"no answer within 0\.2 s, 2 time") as caught:
        of(server, "silent", timeout=0.2, attempts=2).read("a.tar", 0, 5)
    assert caught.value.is_transient
    assert time.monotonic() - began < 30, "the server would never have answered"


def test_a_silent_server_does_not_hold_up_the_end_of_the_process(server: FaultServer) -> None:
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
import test_store
from vidcurate.errors import StoreStalledError
try:
    url = "http://127.0.0.1:{server.server_port}/silent"
    test_store.Store(url, timeout=0.2).read("a.tar", 0, 5)
except StoreStalledError:
    print("stalled")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "stalled\n"


def test_messages_hold_no_secrets(server: FaultServer) -> None:
    root = f"http://me:secret@127.0.0.1:{server.server_port}/status/403"
    with pytest.raises(StoreError) as caught:
        Store(root).read("a.tar", 0, 5)
    assert "secret" not in str(caught.value)
    assert f"127.0.0.1:{server.server_port}/status/403/a.tar" in str(caught.value)


def test_mistakes_in_the_url_are_the_users() -> None:
    with pytest.raises(UserError, match="nosuch"):
        Store("nosuch://bucket/shards")
    with pytest.raises(MissingExtraError, match="pip install smbprotocol"):
        Store("smb://host/shards")


# ---------------------------------------------------------------------- forks and the cache


def test_a_forked_process_reads_on(local: Store, memory: Store) -> None:
    for store in (local, memory):
        store.read("b/a.tar", 0, 1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if store.read("b/a.tar", 100, 20) == CONTENT[100:120] else 1
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_what_the_cache_has_is_not_asked_for_again(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10**7)
    store = of(server, "ok", cache=cache)
    store.read("a.tar", 0, 10)
    assert not (tmp_path / "cache").exists(), "without a version nothing is kept"
    store.version = "one"
    assert [store.read("a.tar", 0, 10) for _ in range(3)] == [CONTENT[:10]] * 3
    assert server.counts["/ok/a.tar"] == 2
    store.version = "two"  # another index: nothing of the old one is believed
    store.read("a.tar", 0, 10)
    assert server.counts["/ok/a.tar"] == 3


def test_the_cache_knows_a_range_whatever_its_neighbours(
    server: FaultServer, tmp_path: Path
) -> None:
    store = of(server, "ok", cache=Cache(tmp_path / "cache", 10**7))
    store.version = "one"
    ranges = [("a.tar", at, 40) for at in (0, 100, 200, 100_000)]
    wanted = [CONTENT[at:][:40] for _, at, _ in ranges]
    assert store.read_many(ranges) == wanted
    assert server.counts["/ok/a.tar"] == 2
    assert store.read_many(ranges[::-2]) == wanted[::-2]
    assert store.read("a.tar", 100, 40) == wanted[1]
    found = store.read_many([*ranges, ("a.tar", 300, 40), ("../a", 0, 1)])
    assert found[:5] == [*wanted, CONTENT[300:340]]
    assert isinstance(found[5], StoreError)
    assert server.counts["/ok/a.tar"] == 3, "only what is new was asked for"


def test_the_cache_is_not_for_local_files(local: Store, tmp_path: Path) -> None:
    local.cache, local.version = Cache(tmp_path / "cache", 10**7), "v"
    local.read("b/a.tar", 0, 10)
    assert not (tmp_path / "cache").exists()
