"""A dataset's rows all the way to shards."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidcurate.recipe.load import from_raw
from vidcurate.run import passes


@pytest.fixture
def packed() -> Callable[[dict[str, Any], Path], list[dict[str, Any]]]:
    """packed(source, folder): the samples' records after score, select and pack, with the
    dataset's own intervals, in the order of their starts."""

    def run(source: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
        recipe = from_raw(
            {"source": source, "split": ["timestamps"], "pack": {}, "output": str(folder / "out")}
        )
        with passes.session(recipe, recipe.output) as work:
            passes.run_score(work)
            passes.run_select(work)
            passes.run_pack(work)
        found = []
        for shard in (folder / "out" / "shards").rglob("*.tar"):
            with tarfile.open(shard) as tar:
                members = [tar.extractfile(m) for m in tar if m.name.endswith(".json")]
                found += [json.load(member) for member in members if member is not None]
        return sorted(found, key=lambda sample: sample["start"])

    return run
