"""The benchmark of shards runs on few small samples and reports as it says; no timing is tested."""

from __future__ import annotations

import tarfile

import benchmark_large_index
import benchmark_shards as benchmark
import benchmark_shards_work as work
import pytest
import shard_samples
from benchmark_turns import Row, Taken, compare

from vidcurate.shards import ShardDataset

# webdataset leaves the shards that it reads open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TINY = benchmark.Effort(
    samples=24,
    size=4000,
    written=8,
    rounds=1,
    clip_rounds=1,
    clips=3,
    clip_size=(512, 288),
    frames=9,
    rows=20_000,
    few_rows=500,
    at=(10_000,),
    workers=1,
)


@pytest.fixture(scope="module")
def made():
    return list(shard_samples.made(TINY.samples, TINY.size))


@pytest.fixture(scope="module")
def video(bbb, tmp_path_factory):
    """The folder of the video that clips are cut from."""
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def rows(video, tmp_path_factory):
    return list(benchmark.rows(TINY, tmp_path_factory.mktemp("measured"), None, video))


def test_every_figure_is_measured(rows):
    assert [(row.name.split(": ")[0], row.unit) for row in rows] == [
        *[("read in order", "x webdataset")] * 5,
        ("read in order", ""),  # mosaicml, without its environment
        *[("shuffled, by bucket", "x webdataset")] * 4,
        ("shuffled, by bucket", ""),
        *[("write", "x webdataset")] * 3,
        ("write", ""),
        *[("9 frames of 288p to 480x272", "of the floor")] * 3,
        ("9 frames of 288p to 480x272", "x workers=0"),
        ("first batch of an index of 20,000 rows that is new to this machine", "s"),
        ("first batch at sample 10,000 of an index of 20,000 rows", "s"),
        ("memory of a worker of 1, 500 rows", "MiB"),
        ("memory of a worker of 1, 20,000 rows", "MiB"),
        ("memory of all processes, 20,000 rows", "x 500 rows"),
    ]
    measured = [row for row in rows if row.unit]
    assert all(0 < row.low <= row.value <= row.high for row in measured)
    assert {row.note for row in rows if not row.unit} == {"not measured (needs --peers)"}


def test_what_is_to_be_reached_is_stated(rows):
    assert {row.name.rpartition(": ")[2]: row.limits for row in rows if row.limits} == {
        "vidcurate, verify=False": next(r.limits for r in rows if r.least == 5.0),
        "vidcurate, av": next(r.limits for r in rows if r.least == 0.95),
        "first batch at sample 10,000 of an index of 20,000 rows": " (at most 1)",
        "memory of all processes, 20,000 rows": next(r.limits for r in rows if r.most == 1.1),
    }


def test_all_ways_read_the_same_bytes(made, tmp_path):
    shard_samples.write_plain(made, tmp_path / "plain")
    shard_samples.write_shards(made, tmp_path / "shards")
    tars = sorted((tmp_path / "shards").glob("*/*.tar"))
    expected = (TINY.samples, sum(len(sample.members["mp4"]) for sample in made))
    assert work.plain(sorted((tmp_path / "plain").glob("*.mp4"))) == expected
    assert work.tar(tars) == expected
    for shuffle in (False, True):
        assert work.webdataset(tars, shuffle=shuffle) == expected
        for verify in (False, True):
            found = work.ours(
                tmp_path / "shards", tmp_path / "tables", shuffle=shuffle, verify=verify
            )
            assert found == expected


def test_shards_are_of_one_bucket_and_of_a_size(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_samples, "SHARD", 10_000)
    rows = list(shard_samples.write_tars(made, tmp_path))
    assert {row["shard"].split("/")[0] for row in rows} == {b.name for b in shard_samples.BUCKETS}
    assert all(row["shard"].split("/")[0] == row["bucket"] for row in rows)
    assert len({row["shard"] for row in rows}) > 6  # of about 100 kB in all
    for row, sample in zip(rows, made, strict=True):
        place = row["members"][0]
        data = (tmp_path / row["shard"]).read_bytes()
        start = place["offset"]
        assert data[start : start + place["size"]] == sample.members["mp4"]


@pytest.mark.parametrize("way", ["plain files", "vidcurate", "webdataset"])
def test_writers_write_all_members(made, tmp_path, way):
    folder = tmp_path / "written"
    work.writers(made)[way](folder)
    found = {}
    for path in folder.rglob("*"):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                found |= {m.name: tar.extractfile(m).read() for m in tar}
        elif path.is_file():
            found[path.name] = path.read_bytes()
    assert found == {
        f"{sample.sample_id}.{suffix}": data
        for sample in made
        for suffix, data in sample.members.items()
    }


def test_clips_of_real_footage_have_their_frames_and_some_before(video, tmp_path):
    shards = shard_samples.packed_clips(3, (512, 288), 9, tmp_path / "clips", video)
    tars = sorted(shards.glob("*/*.tar"))
    clips = work.clip_bytes(tars)
    assert len(clips) == 3
    assert work.floor(clips, benchmark.SIZE, 9) == (3, sum(map(len, clips)))
    with pytest.raises(SystemExit, match="a clip has 9 frames and not 10"):
        work.floor(clips, benchmark.SIZE, 10)
    dataset = ShardDataset(shards, batch=3, index_folder=tmp_path / "tables")
    (batch,) = dataset
    assert batch.video.shape == (3, 9, 3, 272, 480)
    # They start at frame 0, 61 and 122 of a video with a key frame at every 50th.
    assert {sample.row["preroll_frames"] for sample in batch.samples} == {0, 11, 22}


def test_a_state_is_that_of_a_run_that_came_so_far(made, tmp_path):
    shard_samples.write_shards(made, tmp_path / "shards")
    large = benchmark.generated(tmp_path / "large", 20_000, tmp_path / "shards")
    tables = tmp_path / "tables"
    (at,) = benchmark_large_index.state_at(large, tables, 10_000)["sources"]
    # 8,192 samples of the first window, and 226 batches of 8 of the second.
    assert (at["epoch"], at["window"], at["batch"]) == (0, 1, 226)
    dataset = benchmark_large_index.dataset(large, tables)
    dataset.load_state_dict(benchmark_large_index.state_at(large, tables, 10_000))
    assert next(iter(dataset)).state["sources"][0]["batch"] == 227


def test_ways_take_turns_and_are_compared_in_each():
    done = []

    def way(name, seconds):
        def run():
            done.append(name)
            return Taken(seconds, seconds / 2, samples=4, bytes=4_000_000)

        return run

    ways = {"slow": way("a", 2.0), "quick": way("b", 0.5)}
    slow, quick = compare("x", ways, base="slow", unit="x slow", also="quick", rounds=2)
    assert done == list("ababab")  # the first turn warms up
    assert (slow.value, quick.value) == (1.0, 4.0)
    assert slow.note == "0.25 x quick, 2 MB/s, 500.00 ms a sample; by CPU time 1.00"
    assert quick.note == "1.00 x quick, 8 MB/s, 125.00 ms a sample; by CPU time 4.00"
    slow, _ = compare("x", ways, base="slow", unit="x slow", also="slow", rounds=1)
    assert slow.note == "2 MB/s, 500.00 ms a sample; by CPU time 1.00"


def test_ways_that_read_something_else_are_no_comparison():
    ways = {"a": lambda: Taken(1, 1, 4, 40), "b": lambda: Taken(1, 1, 4, 39)}
    with pytest.raises(SystemExit, match=r"x: b went through 4 samples \(39 bytes\), a through 4"):
        list(compare("x", ways, base="a", unit="", also="a", rounds=1))


FACTS = {"cpu": "A CPU, 2 cores", "load": "0.5", "versions": "Python 3"}


def test_the_table_says_what_was_missed():
    found = [
        Row("read", 4.0, "x webdataset", 3.5, 4.5, least=5, note="n"),
        Row("first", 0.5, "s", 0.5, 0.5, most=1),
        Row("peer", None, "", note="not measured"),
    ]
    lines = benchmark.table(found, FACTS, "tools/x.py").splitlines()
    assert lines[2:5] == [
        "| read | 4.00 x webdataset (at least 5: missed) | 3.50 to 4.50 | n |",
        "| first | 0.50 s (at most 1) |  |  |",
        "| peer |  |  | not measured |",
    ]
    assert lines[-1].startswith("`tools/x.py` on A CPU, 2 cores (load 0.5 at the start), Python 3.")
    assert [row.missed for row in found] == [True, False, False]
