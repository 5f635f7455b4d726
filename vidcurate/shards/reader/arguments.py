"""What `ShardDataset` refuses before it reads a byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vidcurate.errors import UserError
from vidcurate.nearest import suggest
from vidcurate.shards.reader.captions import Captions
from vidcurate.shards.reader.reading import VIDEO, Decode
from vidcurate.shards.reader.table import IndexTable

_KINDS = {
    "batch": "a number, BucketBatches({bucket: number}) or TokenPacks(...)",
    "decode": "Decode(...), or None for bytes",
    "seed": "a whole number",
}


def check_numbers(
    counts: Mapping[str, int], positives: Mapping[str, int], seconds: Mapping[str, float]
) -> None:
    """Refuse numbers that would make the reader wait for ever.

    counts: whole numbers from 0. positives: from 1. seconds: above 0.

    Raises:
        UserError: names the first.
    """
    for numbers, least in ((counts, 0), (positives, 1)):
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} is {value!r}; give a whole number of at least {least}")
    for name, time in seconds.items():
        if not isinstance(time, int | float) or not math.isfinite(time) or time <= 0:
            raise UserError(f"{name} is {time!r}; give a number of seconds above 0")


def check_kinds(values: Mapping[str, Any], lists: Mapping[str, Any]) -> None:
    """Refuse values of another kind than `batch`, `decode` and `seed` take, and text for a list.

    Raises:
        UserError: names the first.
    """
    fits = {
        "batch": lambda v: isinstance(v, int) or hasattr(v, "batches"),
        "decode": lambda v: v is None or isinstance(v, Decode),
        "seed": lambda v: isinstance(v, int) and not isinstance(v, bool),
    }
    for name, value in values.items():
        if not fits[name](value):
            raise UserError(f"{name} is {value!r}; give {_KINDS[name]}")
    for name, value in lists.items():
        if isinstance(value, str):
            raise UserError(f"{name} is {value!r}; give a list: [{value!r}]")


def check_names(
    tables: Sequence[IndexTable], members: Sequence[str], captions: Captions | None
) -> None:
    """Refuse files and names in caption templates that no sample of any data set has.

    Raises:
        UserError: names the first, and the nearest that there is.
    """
    there = {name for table in tables for name in table.members}
    for member in members:
        if member != VIDEO and member not in there:
            raise UserError(
                f"members: no sample has a file .{member}{suggest(member, [VIDEO, *sorted(there)])}"
            )
    if captions is None:
        return
    captions.check(
        {name for table in tables for name in table.captions},
        {name for table in tables for name in table.scores},
    )
