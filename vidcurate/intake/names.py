"""What tells videos apart before their bytes are at hand."""

from __future__ import annotations

from dataclasses import replace

from vidcurate.clip import is_url, url_key
from vidcurate.operator.base import RowFault, VideoRow


def name_of(row: VideoRow) -> str:
    """What tells videos apart before their bytes are at hand: the source key, else the place."""
    if row.key is not None and not row.key.startswith("file:"):
        return row.key
    return row.location


def keyed(row: VideoRow) -> VideoRow | RowFault:
    """The row with its source key, where its location tells that."""
    if row.key is not None or not is_url(row.location):
        return row
    try:
        return replace(row, key=url_key(row.location))
    except ValueError as error:
        return RowFault(row.location, f"not a valid URL: {error}", {"location": row.location})
