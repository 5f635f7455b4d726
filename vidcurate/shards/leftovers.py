"""What lies beside the shards of a selection that no index names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidcurate.durable import TEMP

WORK = ".work"
"""The folder of an unfinished append."""


def tidy(folder: Path, index: Mapping[str, Any] | None, keep: str | None = None) -> None:
    """Remove shards of older states, unfinished files and work folders.

    Args:
        folder: of the selection's shards. index: what index.json says.
        keep: name of an append to go on with: its shards and the work folder stay.
    """
    named = {s["path"] for s in index["shards"]} | set(index["index"]) if index else set()
    work = folder / WORK
    if keep is None and work.exists():
        shutil.rmtree(work)
    for path in [*folder.glob("*/*.tar"), *folder.glob("index/*.parquet")]:
        is_ours = keep is not None and path.name.startswith(f"{keep}-")
        if path.relative_to(folder).as_posix() not in named and not is_ours:
            path.unlink()
    for path in [*folder.glob(f"{TEMP}*"), *folder.glob(f"*/{TEMP}*")]:
        path.unlink()
    for path in folder.iterdir():
        if path.is_dir() and path != work and not any(path.iterdir()):
            path.rmdir()
