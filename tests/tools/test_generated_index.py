"""A generated index has the rows of a small one over and over, each with ids of its own."""

from __future__ import annotations

import json

import generated_index
import pyarrow as pa
import pyarrow.parquet as pq

from vidcurate.clip import INDEX_SCHEMA


def test_rows_repeat_with_ids_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(generated_index, "ROWS", 300)  # several row groups, none a multiple of 70
    like = generated_index.made_rows(70)
    said = generated_index.write(tmp_path, 1000, like=like, parts=2)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index == said
    found = pa.concat_tables(pq.read_table(tmp_path / name) for name in index["index"])
    assert found.schema == INDEX_SCHEMA
    assert len(set(found.column("sample_id").to_pylist())) == 1000 == index["rows"]
    assert len(set(found.column("sha256").to_pylist())) == 1000
    for name in ("shard", "members", "captions", "split"):
        repeated = (like.column(name).to_pylist() * 15)[:1000]
        assert found.column(name).to_pylist() == repeated
    # 14 rows of each of the five buckets in 70, 14 times; then 20 rows: 14 of the first, 6 more.
    assert index["buckets"] == {
        "256p_16x9_49f": 210,
        "256p_9x16_49f": 202,
        "480p_16x9_97f": 196,
        "720p_16x9_121f": 196,
        "native": 196,
    }


def test_checksums_of_real_shards_are_kept(tmp_path):
    like = generated_index.made_rows(5)
    place = INDEX_SCHEMA.get_field_index("sha256")
    real = pa.array([f"{i:064x}" for i in range(5)])
    generated_index.write(tmp_path, 12, like=like.set_column(place, "sha256", real))
    found = pq.read_table(tmp_path / "index")
    assert found.column("sha256").to_pylist() == (real.to_pylist() * 3)[:12]
