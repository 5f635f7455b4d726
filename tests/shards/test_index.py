"""The index file and what its digest covers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION
from vidcurate.errors import RunDirectoryError
from vidcurate.shards.index import read_index, write_index

ROW: dict[str, Any] = {
    **{"schema_version": INDEX_VERSION, "sample_id": "a", "clip_id": "a", "video_id": "v"},
    **{"bucket": "native", "shard": "native/x-00000.tar", "split": "train", "sha256": "0" * 64},
    "members": [{"name": "mp4", "offset": 512, "size": 10}],
    **{
        "n_frames": 4,
        "preroll_frames": 0,
        "frame_step": 1,
        "fps_num": 25,
        "fps_den": 1,
        "vfr": False,
    },
    **{"duration_s": 0.16, "width": 96, "height": 64, "has_audio": False},
    "captions": [("long", "text")],
    "scores": [("motion", 1.0)],
}
SHARD = {"path": "native/x-00000.tar", "bucket": "native", "rows": 1, "bytes": 9, "sha256": "1"}


def digest(folder: Path, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    part = folder / "part.parquet"
    pq.write_table(pa.Table.from_pylist([ROW | changes], schema=INDEX_SCHEMA), part)
    index = write_index(folder, "x", [part], [SHARD], {"selection": "base"})
    assert read_index(folder) == json.loads((folder / "index.json").read_text()) == index
    return index["digest"]


def test_the_digest_covers_order_and_content_but_no_captions(tmp_path: Path) -> None:
    first = digest(tmp_path)
    assert digest(tmp_path, captions=[("long", "other")], scores=[]) == first
    for change in (
        {"sample_id": "b"},
        {"bucket": "256p_1x1_1f"},
        {"split": "val"},
        {"shard": "native/x-00001.tar"},
        {"members": [{"name": "mp4", "offset": 1024, "size": 10}]},
        {"sha256": "2" * 64},
    ):
        assert digest(tmp_path, **change) != first, change


def test_index_json(tmp_path: Path) -> None:
    assert read_index(tmp_path) is None
    digest(tmp_path)
    index = read_index(tmp_path)
    assert index is not None
    assert (index["rows"], index["buckets"], index["index"]) == (
        1,
        {"native": 1},
        ["index/x.parquet"],
    )
    assert pq.read_schema(tmp_path / "index/x.parquet").equals(INDEX_SCHEMA)
    (tmp_path / "index.json").write_text('{"schema_version": 99}')
    with pytest.raises(RunDirectoryError, match="another version"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"index": ["../victim.parquet"]}, r"index.0: .*'../victim.parquet' leads out"),
        ({"index": ["/etc/passwd"]}, "index.0: .*leads out"),
        ({"index": 3}, "index: "),
        ({"shards": [SHARD | {"path": "a/../../b.tar"}]}, "shards.0.path: .*leads out"),
        ({"shards": [SHARD | {"bucket": ".."}]}, "shards.0.bucket: .*leads out"),
        ({"rows": "1"}, "rows: "),
        ({"failures": ["a"]}, "failures.0: "),
    ],
    ids=str,
)
def test_an_index_that_came_with_tars_is_not_trusted(tmp_path: Path, change, reason) -> None:
    digest(tmp_path)
    found = json.loads((tmp_path / "index.json").read_text()) | change
    (tmp_path / "index.json").write_text(json.dumps(found))
    with pytest.raises(RunDirectoryError, match=f"is damaged \\({reason}"):
        read_index(tmp_path)


@pytest.mark.parametrize("found", [[], {"version": 2, "shards": []}])
def test_an_index_of_another_tool_is_called_that(tmp_path: Path, found) -> None:
    """mosaicml streaming has an index.json, too: nobody is told to remove it."""
    (tmp_path / "index.json").write_text(json.dumps(found))
    with pytest.raises(RunDirectoryError, match=r"another tool's$"):
        read_index(tmp_path)


def test_rows_of_small_shards_share_row_groups(tmp_path: Path) -> None:
    """A reader of ten million rows must not open a group for each tar."""
    small = pa.Table.from_pylist([ROW] * 50, schema=INDEX_SCHEMA)
    shards = [SHARD | {"rows": 50}] * 400
    index = write_index(tmp_path, "x", (small for _ in shards), shards, {})
    with pq.ParquetFile(tmp_path / index["index"][0]) as file:
        assert file.metadata.num_rows == index["rows"] == 20_000
        assert file.num_row_groups == 3
