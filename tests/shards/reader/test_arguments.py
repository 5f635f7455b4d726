"""What would make the reader wait for ever, or mean something else than it says, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vidcurate.errors import UserError
from vidcurate.shards import Captions, Decode, ShardDataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -1}, "workers is -1; give a whole number of at least 0"),
        ({"ahead": 0}, "ahead is 0; give a whole number of at least 1"),
        ({"worker_memory": 0}, "worker_memory is 0"),
        ({"timeout": 0}, "timeout is 0; give a number of seconds above 0"),
        ({"stall": float("inf")}, "stall is inf"),
        ({"on_error": "raise"}, 'on_error is \'raise\'; choose "skip" or "stop"'),
        ({"seed": None}, "seed is None; give a whole number"),
        ({"batch": {"*": 2}}, r"give a number, BucketBatches\("),
        ({"decode": True}, r"decode is True; give Decode\("),
        ({"decode": None, "transform": abs}, "decode is None: leave one out"),
        ({"members": "json"}, r"give a list: \['json'\]"),
        ({"buckets": "native"}, r"give a list: \['native'\]"),
        ({"members": ["jsn"]}, r"no sample has a file \.jsn; did you mean 'json'"),
        ({"captions": "lang"}, "no sample has a caption 'lang'; did you mean 'long'"),
        ({"captions": "{long}: {motion}"}, "it is a score: write"),
        ({"captions": Captions({"{motoin:.1f}": 1})}, "did you mean 'motion'"),
        ({"rank": 1}, "rank 1 of None"),
        ({"path": {}}, "name at least one"),
    ],
)
def test_it_is_refused(packed: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments = {"path": packed, "index_folder": tmp_path, **changes}
    with pytest.raises(UserError, match=message):
        ShardDataset(**arguments)


@pytest.mark.parametrize(
    "wrong",
    [{"backend": "pyav"}, {"window": "midle"}, {"crop": "centre"}, {"audio_rate": 0}],
)
def test_a_decode_that_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"Decode: {next(iter(wrong))} is"):
        Decode(**wrong)


def test_a_name_that_one_of_the_mixed_sets_has_is_enough(packed: Path, tmp_path: Path) -> None:
    data = ShardDataset(packed, index_folder=tmp_path, members=["video", "txt", "json"])
    assert data.samples == 46
    assert ShardDataset({packed: 2}, index_folder=tmp_path).samples == 46
    with pytest.raises(UserError, match=r"weights are \[-1\]"):
        ShardDataset({packed: -1}, index_folder=tmp_path)
