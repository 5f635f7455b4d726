"""Verification finds what is wrong with shards, and where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from vidcurate.errors import RunDirectoryError
from vidcurate.recipe.model import Limits, Pack
from vidcurate.shards.foreign import index_tars
from vidcurate.shards.pack import pack_selection
from vidcurate.shards.verify import Problem, verify, verify_tar

from .conftest import SPANS, as_table, clip_row, film
from .test_tar_samples import write


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of two films in two shards or more."""
    root = tmp_path_factory.mktemp("verify")
    films = [film(root / f"film{i}.mp4", i) for i in range(2)]
    rows = [clip_row(path, *span) for path in films for span in SPANS]
    how = Pack(shard_size=60_000)
    pack_selection(as_table(rows), how, root / "base", workers=2, limits=Limits())
    return root / "base"


@pytest.fixture
def base(packed: Path, tmp_path: Path) -> Path:
    """A copy of these shards."""
    folder = tmp_path / "shards" / "base"
    shutil.copytree(packed, folder)
    assert list(verify(folder)) == []
    return folder


def index_of(folder: Path) -> dict:
    return json.loads((folder / "index.json").read_text())


def table_of(folder: Path) -> pa.Table:
    (name,) = index_of(folder)["index"]
    return pq.read_table(folder / name)


def place(folder: Path, suffix: str, number: int = 0) -> tuple[dict, int]:
    """A row, and where one of its members begins."""
    row = table_of(folder).to_pylist()[number]
    return row, next(m["offset"] for m in row["members"] if m["name"] == suffix)


def change(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_changed_byte_of_a_video(base: Path, workers: int) -> None:
    row, offset = place(base, "mp4", 2)
    change(base / row["shard"], offset + 100)
    reason = "its .mp4 has another sha256 than the index says: its bytes have changed"
    assert list(verify(base, workers=workers)) == [
        Problem(row["shard"], row["sample_id"], offset, reason)
    ]
    other = next(s["path"] for s in index_of(base)["shards"] if s["path"] != row["shard"])
    assert list(verify(base, only=other)) == []
    assert len(list(verify(base, only=row["shard"]))) == 1


def test_a_changed_byte_of_a_text(base: Path) -> None:
    row, offset = place(base, "json")
    change(base / row["shard"], offset)
    (problem,) = verify(base)
    assert (problem.shard, problem.sample_id) == (row["shard"], "")
    assert "another sha256" in problem.reason


def test_a_changed_header(base: Path) -> None:
    row, offset = place(base, "txt")
    data = bytearray((base / row["shard"]).read_bytes())
    header = offset - 512
    other = data[header : header + 512].replace(row["sample_id"].encode(), b"f" * 32)
    other[148:156] = b"%06o\0 " % (sum(other[:148]) + sum(other[156:]) + 8 * 32)
    data[header : header + 512] = other
    (base / row["shard"]).write_bytes(data)
    (problem,) = verify(base)
    assert (problem.sample_id, problem.offset) == (row["sample_id"], offset)
    assert problem.reason == f"the tar has '{'f' * 32}.txt' where the index has its .txt"


def test_a_tar_cut_short(base: Path) -> None:
    rows = [r for r in table_of(base).to_pylist() if r["shard"] == place(base, "mp4")[0]["shard"]]
    tar = base / rows[-1]["shard"]
    (mp4, *_) = [m for m in rows[-1]["members"] if m["name"] == "mp4"]
    tar.write_bytes(tar.read_bytes()[: mp4["offset"] + 10])
    problems = list(verify(base))
    of_sample = [p for p in problems if p.sample_id]
    assert {p.sample_id for p in of_sample} == {rows[-1]["sample_id"]}
    assert len(of_sample) == 3
    assert of_sample[0].offset == mp4["offset"]
    assert "cut short" in of_sample[0].reason
    assert any("the tar has" in p.reason and "index.json says" in p.reason for p in problems)
    assert any("cut short in" in p.reason for p in problems)


def test_missing_and_stray_tars(base: Path) -> None:
    first, *_ = index_of(base)["shards"]
    (base / first["path"]).rename(base / "native" / "copy.tar")
    by_shard = {p.shard: p.reason for p in verify(base)}
    assert by_shard == {
        first["path"]: f"the tar cannot be read, and with it {first['rows']} samples: "
        "No such file or directory",
        "native/copy.tar": "the index does not name this tar: pack again, or remove it",
    }


def test_an_index_that_lacks_a_sample(base: Path) -> None:
    row = place(base, "mp4")[0]
    (name,) = index_of(base)["index"]
    table = table_of(base)
    pq.write_table(table.filter(pc.not_equal(table["sample_id"], row["sample_id"])), base / name)
    reasons = [p.reason for p in verify(base)]
    assert "the index has 7 samples, index.json says 8" in reasons
    assert any("another digest" in reason for reason in reasons)
    for suffix in ("mp4", "json", "txt"):
        lost = f"the tar holds '{row['sample_id']}.{suffix}', which the index does not name"
        assert lost in reasons


def test_an_index_with_a_sample_twice_and_other_sums(base: Path) -> None:
    (name,) = index_of(base)["index"]
    rows = table_of(base).to_pylist()
    rows[1]["sha256"] = "0" * 64
    rows.append(rows[0] | {"bucket": "other"})
    pq.write_table(pa.Table.from_pylist(rows, schema=table_of(base).schema), base / name)
    found = {(p.sample_id, p.reason) for p in verify(base)}
    assert (rows[0]["sample_id"], "the index has this sample 2 times") in found
    assert (rows[0]["sample_id"], "it is of bucket 'other', its shard of 'native'") in found
    sums = "its .mp4 has another sha256 than the index says: its bytes have changed"
    assert (rows[1]["sample_id"], sums) in found


def test_damaged_index_files(base: Path) -> None:
    (name,) = index_of(base)["index"]
    data = (base / name).read_bytes()
    (base / name).write_bytes(data[:-20])
    (problem,) = verify(base)
    assert problem.shard == name
    assert "cannot be read" in problem.reason
    pq.write_table(pa.table({"a": [1]}), base / name)
    assert [p.reason for p in verify(base)] == ["the index file has other columns than it should"]
    (base / name).unlink()
    assert "cannot be read" in next(verify(base)).reason
    (base / "index.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"no index\.json"):
        next(verify(base))


def test_a_foreign_index(films, tmp_path: Path) -> None:
    """What the index says is left out is no problem; a tar that came later is one."""
    mp4 = films[0].read_bytes()
    write(
        tmp_path / "a.tar",
        [("a.mp4", mp4), ("readme", b""), ("b.mp4", b"none"), ("b.txt", b""), ("c.mp4", mp4)],
    )
    write(tmp_path / "b.tar", [("a.mp4", mp4), ("a.m4a", b"sound")])
    index_tars(tmp_path)
    assert list(verify(tmp_path)) == []
    change(tmp_path / "b.tar", (tmp_path / "b.tar").read_bytes().index(b"sound"))
    (problem,) = verify(tmp_path)
    assert (problem.shard, problem.sample_id) == ("b.tar", "b.tar#a")
    assert problem.reason.startswith("its .m4a has another sha256")
    write(tmp_path / "c.tar", [("d.mp4", mp4)])
    assert [p.reason for p in verify(tmp_path) if p.shard == "c.tar"] == [
        "the index does not name this tar: index again, or remove it"
    ]


def test_a_tar_without_an_index(films, tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", [("a.mp4", films[0].read_bytes()), ("b.mp4", bytes(5000))])
    assert list(verify_tar(tar)) == []
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(b"b.mp4") + 512 + 700])
    found = list(verify_tar(tar))
    assert [p.sample_id for p in found] == ["b", ""]
    assert "cut short in 'b.mp4'" in found[0].reason


def test_progress(base: Path) -> None:
    told: list[tuple[int, int]] = []
    list(verify(base, progress=lambda *now: told.append(now)))
    size = sum(p.stat().st_size for p in base.glob("*/*.tar"))
    assert told[-1] == (size, size)
