"""Shards over http: no more is asked for than is read, and no fault of the server hangs a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import FaultServer

from vidcurate.errors import RunDirectoryError
from vidcurate.shards import Cache, ShardDataset


@pytest.fixture
def server(packed: Path) -> Iterator[FaultServer]:
    """Serves the packed clips."""
    files = {p.relative_to(packed).as_posix(): p for p in packed.rglob("*") if p.is_file()}
    with FaultServer(files) as running:
        yield running


@pytest.fixture
def dataset(server: FaultServer, tmp_path: Path):
    """dataset(...) opens the served clips, as raw bytes unless it is told otherwise."""

    def opened(**changes) -> ShardDataset:
        changes = {"decode": None, "batch": 4, "index_folder": tmp_path / "index", **changes}
        return ShardDataset(server.url("/ok"), **changes)

    return opened


def content(batches) -> dict[str, bytes]:
    """The bytes of each sample that counts."""
    return {
        i: s.members["mp4"]
        for b in batches
        for i, s, w in zip(b.sample_ids, b.samples, b.weight, strict=True)
        if w
    }


def shards_of(dataset) -> Counter[str]:
    """How many samples each shard holds."""
    return Counter(s.row["shard"] for b in dataset() for s in b.samples)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_epoch_asks_for_nothing(
    dataset, server: FaultServer, packed: Path, tmp_path: Path, workers: int
) -> None:
    local = ShardDataset(packed, decode=None, index_folder=tmp_path / "index")
    wanted = content(local)
    data = dataset(cache=Cache(tmp_path / "cache", 10**8), workers=workers)
    assert content(data) == wanted
    sent = sum(n for path, n in server.sent.items() if path.endswith(".tar"))
    assert sent <= 3 * sum(map(len, wanted.values())), "no whole shards"
    requests = len(server.seen)
    assert content(data) == wanted
    assert len(server.seen) == requests


@pytest.mark.parametrize("fault", ["status/403", "status/500", "stall", "none"])
def test_a_shard_that_fails_or_stalls_costs_its_samples(
    dataset, server: FaultServer, fault: str
) -> None:
    of = shards_of(dataset)
    bad = sorted(of)[1]
    server.faults[bad] = fault
    data = dataset(timeout=0.3, workers=2 if fault == "stall" else 0)
    batches = list(data)
    kind = {
        "status/403": "StoreRefusedError",
        "status/500": "StoreFailedError",
        "stall": "StoreStalledError",
        "none": "ShardMissingError",
    }[fault]
    assert data.skipped == {kind: of[bad]}
    assert len(content(batches)) == data.samples - of[bad]
    for fault_ in (f for b in batches for f in b.faults):
        assert fault_.shard == bad
        assert server.url(f"/ok/{bad}") in fault_.message


def test_what_may_pass_is_read_after_all(dataset, server: FaultServer) -> None:
    bad = sorted(shards_of(dataset))[0]
    server.faults[bad] = "fail/1/503"
    data = dataset(buckets=[bad.partition("/")[0]])
    assert len(content(data)) == data.samples
    assert not data.skipped


def test_a_folder_without_an_index(server: FaultServer, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no index\.json in http://127.*vidcurate pack"):
        ShardDataset(server.url("/none"), index_folder=tmp_path)
