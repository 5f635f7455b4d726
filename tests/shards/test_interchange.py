"""Our shards in the hands of other libraries, and theirs in ours."""

from __future__ import annotations

import copy
import gc
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import duckdb
import pyarrow.parquet as pq
import pytest
import webdataset

from vidcurate.recipe.model import Limits, Pack
from vidcurate.shards import ShardDataset
from vidcurate.shards.foreign import index_tars
from vidcurate.shards.pack import pack_selection
from vidcurate.shards.verify import verify

from .conftest import SPANS, as_table, clip_row, film


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Four clips of each of two films."""
    root = tmp_path_factory.mktemp("films")
    films = [film(root / f"film{i}.mp4", i) for i in range(2)]
    return [clip_row(path, *span) for path in films for span in SPANS]


@pytest.fixture(scope="module")
def base(rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples in two shards or more; as in data sets, one has no caption, one a crop."""
    rows = copy.deepcopy(rows)
    rows[3]["caption_source"] = None
    rows[4]["crop"] = {"x": 16, "y": 0, "width": 64, "height": 64}
    rows[4] |= {"width": 64, "height": 64}
    folder = tmp_path_factory.mktemp("shards") / "base"
    how = Pack(shard_size=60_000)
    pack_selection(as_table(rows), how, folder, workers=1, limits=Limits())
    return folder


@pytest.fixture(scope="module")
def uniform(rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, all of the same kind."""
    folder = tmp_path_factory.mktemp("uniform") / "base"
    how = Pack(shard_size=60_000)
    pack_selection(as_table(rows), how, folder, workers=1, limits=Limits())
    return folder


def tars(folder: Path) -> list[str]:
    found = sorted(str(p) for p in folder.rglob("*.tar"))
    assert len(found) > 1
    return found


def rows_of(folder: Path) -> dict[str, dict]:
    (name,) = json.loads((folder / "index.json").read_text())["index"]
    return {row["sample_id"]: row for row in pq.read_table(folder / name).to_pylist()}


def members(folder: Path, row: dict) -> dict[str, bytes]:
    data = (folder / row["shard"]).read_bytes()
    return {m["name"]: data[m["offset"] : m["offset"] + m["size"]] for m in row["members"]}


def read_by_webdataset(folder: Path, *steps: str) -> list:
    """All that a WebDataset gives, further steps being methods of it."""
    with warnings.catch_warnings():
        # webdataset leaves its tars open, and they are closed when they are collected.
        warnings.simplefilter("ignore", ResourceWarning)
        found = webdataset.WebDataset(tars(folder), shardshuffle=False)
        for step in steps:
            found = getattr(found, step)()
        samples = list(found)
        del found
        gc.collect()
    return samples


def n_frames(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_webdataset_reads_our_shards(base: Path) -> None:
    found = {sample["__key__"]: sample for sample in read_by_webdataset(base)}
    rows = rows_of(base)
    assert set(found) == set(rows)
    for key, sample in found.items():
        ours = members(base, rows[key])
        assert {k: v for k, v in sample.items() if k[0] != "_"} == ours
        assert n_frames(sample["mp4"]) == rows[key]["n_frames"]
        assert json.loads(sample["json"])["sample_id"] == key
    # Decoded as trainers have it: text and JSON as values.
    captions = {s["json"]["clip_id"]: s["txt"] for s in read_by_webdataset(base, "decode")}
    assert sorted(captions.values())[0] == ""  # it has none
    assert "frames 5 to 31" in captions.values()


@pytest.fixture
def load(tmp_path: Path, monkeypatch) -> Callable[..., Any]:
    """datasets.load_dataset, offline, with a cache of this test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    def run(folder: Path, **options: Any) -> Any:
        found = datasets.load_dataset(
            "webdataset",
            data_files={"train": tars(folder)},
            split="train",
            cache_dir=str(tmp_path / "cache"),
            **options,
        )
        return found.cast_column("mp4", datasets.Video(decode=False))

    return run


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_our_shards(uniform: Path, load, streaming) -> None:
    _same_samples(uniform, load(uniform, streaming=streaming))


def test_datasets_reads_json_of_several_shapes(base: Path, load) -> None:
    """Of the first samples it tells each column's type: `crop` is null there and an object later,
    and some have keys that those have not. Streamed, nothing is checked; else it must be told."""
    import datasets

    _same_samples(base, load(base, streaming=True))
    text = datasets.Value("string")
    features = {"mp4": datasets.Video(), "json": datasets.Json(), "txt": text}
    features |= {"__key__": text, "__url__": text}
    _same_samples(base, load(base, features=datasets.Features(features)))


def _same_samples(folder: Path, found: Iterable[dict[str, Any]]) -> None:
    rows = rows_of(folder)
    samples = {sample["__key__"]: sample for sample in found}
    assert set(samples) == set(rows)
    for key, sample in samples.items():
        ours = members(folder, rows[key])
        assert sample["mp4"]["bytes"] == ours["mp4"]
        assert sample["txt"] == ours["txt"].decode()
        assert sample["json"]["clip_id"] == key
        assert sample["json"]["captions"] == {"b": "c", "long": "a texture"}


def test_duckdb_finds_bytes_by_the_index(base: Path) -> None:
    """One query joins members and captions; the bytes lie at the offsets that it gives."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT sample_id, shard, m.name, m.\"offset\", m.size, captions['long'], sha256, "
            "n_frames FROM (SELECT *, unnest(members) AS m FROM read_parquet(?)) "
            "WHERE captions['long'] LIKE '%texture%' AND n_frames > 20 ORDER BY sample_id, m.name",
            [str(base / "index" / "*.parquet")],
        ).fetchall()
    assert len(found) == 3 * 4  # of each film, two clips are so long
    for sample, shard, name, offset, size, caption, sha256, frames in found:
        with (base / shard).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        assert caption == "a texture"
        if name == "mp4":
            assert hashlib.sha256(data).hexdigest() == sha256
            assert n_frames(data) == frames
        elif name == "json":
            assert json.loads(data)["sample_id"] == sample
        else:
            assert data.startswith(b"frames ") or data == b""


def written(films: list[Path]) -> list[dict]:
    return [
        {
            "__key__": f"part{i // 4}/{i:06}",
            "mp4": films[i % 2].read_bytes(),
            "txt": f"caption {i}",
            "json": {"clip_score": i / 8, "caption_long": f"long {i}", "url": f"http://h/{i}"},
            "features.npy": bytes(range(i + 1)),
        }
        for i in range(6)
    ]


def test_tars_of_webdatasets_writer(films, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    made = written(films)
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=4, verbose=0) as out:
        for sample in made:
            out.write(sample | {"features.npy": sample["features.npy"]})
    report = index_tars(folder, workers=1)
    assert (report.samples, report.shards, report.failures) == (6, 2, ())
    rows = rows_of(folder)
    for sample, source in zip(read_by_webdataset(folder), made, strict=True):
        row = rows[sample["__key__"]]
        ours = members(folder, row)
        assert ours == {k: v for k, v in sample.items() if k[0] != "_"}
        assert ours["mp4"] == source["mp4"]
        assert dict(row["captions"]) == {
            "source": source["txt"],
            "long": source["json"]["caption_long"],
        }
        assert dict(row["scores"]) == {"clip_score": source["json"]["clip_score"]}
        assert row["n_frames"] == 60
    assert list(verify(folder)) == []


def test_a_compressed_tar_of_webdatasets_writer_is_told(films, tmp_path: Path) -> None:
    (sample, *_) = written(films)
    with webdataset.TarWriter(str(tmp_path / "plain.tar")) as out:
        out.write(sample)
    with webdataset.TarWriter(str(tmp_path / "packed.tar.gz")) as out:
        out.write(sample)
    report = index_tars(tmp_path, workers=1)
    assert list(rows_of(tmp_path)) == [sample["__key__"]]
    (failure,) = report.failures
    assert failure["clip_id"] == "packed.tar.gz"


def test_our_reader_streams_what_was_indexed(films, tmp_path: Path) -> None:
    """Keys with folders, and some that both tars have; frames are those of the file."""
    made = written(films)[:2]
    for name in ("a", "b"):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as out:
            for sample in made:
                out.write(sample)
    index_tars(tmp_path, workers=1)
    options = {"shuffle": False, "index_folder": tmp_path / "cache"}
    data = ShardDataset(tmp_path, decode=None, members=["video", "features.npy", "txt"], **options)
    found = {s.row["sample_id"]: s.members for batch in data for s in batch.samples}
    assert list(found) == [f"{t}.tar#{s['__key__']}" for t in ("a", "b") for s in made]
    for key, source in zip(found, made * 2, strict=True):
        assert found[key]["mp4"] == source["mp4"]
        assert found[key]["txt"] == source["txt"].encode()
        assert found[key]["features.npy"] == source["features.npy"]
    decoded = list(ShardDataset(tmp_path, captions="{long}", **options))
    assert [batch.captions for batch in decoded] == [["long 0"], ["long 1"]] * 2
    assert [tuple(batch.video[0].shape) for batch in decoded] == [(57, 3, 64, 96)] * 4  # 4k + 1
    assert all(batch.faults == [] and batch.weight.tolist() == [1] for batch in decoded)
