"""What `vidcurate train` and `python -m vidcurate.train` do with what they are given."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vidcurate.media.frame_files import save_frames
from vidcurate.train.config import TrainConfig, load

if TYPE_CHECKING:
    from vidcurate.train.loop import Summary


def start(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    output: str | None = None,
    batching: str | None = None,
    fresh: bool = False,
    show: Callable[[str], None],
) -> tuple[TrainConfig, Summary]:
    """Train by a recipe; what is told goes to `show`, warnings and news to stderr.

    Args:
        overrides: `path.to.key=value`. output, batching: replace the recipe's. fresh: remove what
            the output holds of a training, and begin anew.

    Raises:
        as of `load` and `train`.
    """
    given = list(overrides)
    given += [f"output={output}"] if output is not None else []
    given += [f"data.batching={batching}"] if batching is not None else []
    config = load(recipe, overrides=given)
    from vidcurate.train.loop import train  # torch: mistakes in a recipe are told at once

    with _told():
        return config, train(config, show=show, write=save_frames, fresh=fresh)


@contextmanager
def _told() -> Iterator[None]:
    """The trainer's log goes to stderr as plain lines; that of libraries stays as it is."""
    log = logging.getLogger("vidcurate.train")
    handler, level = logging.StreamHandler(sys.stderr), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
