"""Exclude lists: what a run never takes, by id, URL or another dataset's rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidcurate.clip import is_url, url_key, video_id
from vidcurate.errors import UserError
from vidcurate.intake.names import keyed, name_of
from vidcurate.intake.where import passes
from vidcurate.operator import registry
from vidcurate.operator.base import ClipRow, RowFault, Source, VideoRow

_OUR_ID = re.compile(r"[0-9a-f]{32}")


class Excluded:
    """The union of exclude lists.

    Args:
        lists: text files (one id, URL or vidcurate id a line; # begins a comment), or sources as
            `{name: parameters}`, all of whose videos are excluded.
        banned: vidcurate's ids of videos and clips besides.

    Raises:
        UserError: a list cannot be read, or names no source.
    """

    def __init__(
        self, lists: Iterable[str | Mapping[str, Mapping[str, Any]]], banned: Iterable[str] = ()
    ) -> None:
        self.names: set[str] = set()
        """Datasets' own ids, source keys and places in the lists."""
        self.faults: list[RowFault] = []
        """Rows of sources in the lists that could not be read: what they name is not excluded."""
        ids = set(banned)
        for given in lists:
            if isinstance(given, str):
                for token in _tokens(Path(given).expanduser()):
                    self.names.add(token)
                    if _OUR_ID.fullmatch(token):
                        ids.add(token)
                    if is_url(token):
                        self.names.add(_key(token, given))
            else:
                self._add(given)
        self.ids = frozenset(ids)
        """vidcurate's own ids in the lists, of videos and of clips."""

    def _add(self, given: Mapping[str, Mapping[str, Any]]) -> None:
        """All videos of a source."""
        source = _source_of(given)
        for found in source.videos():
            row = found if isinstance(found, RowFault) else keyed(found)
            if isinstance(row, RowFault):
                message = f"in an exclude list, so what it names is not excluded: {row.message}"
                self.faults.append(replace(row, message=message))
                continue
            clips = row.clips or (ClipRow(),)
            if any(passes(source.where, row.fields, clip.fields) for clip in clips):
                self.names.add(name_of(row))

    def has_video(self, row: VideoRow) -> bool:
        """True where the video is in a list: by its id, its key, its place or its URL."""
        if not self.names and not self.ids:
            return False
        named = {row.location, row.dataset_id, row.key}
        if row.key is not None:
            named.add(row.key.removeprefix("youtube:"))
        if named & self.names:
            return True
        return row.key is not None and video_id(row.key) in self.ids

    def has_clip(self, clip: ClipRow) -> bool:
        """True where the dataset's own id of the clip is in a list."""
        return clip.dataset_id is not None and clip.dataset_id in self.names


def _tokens(file: Path) -> set[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"exclude: {file} cannot be read: {reason}") from error
    # A URL may hold a #, so a comment begins a line or stands after a blank.
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return {line for line in lines if line}


def _key(url: str, given: str) -> str:
    try:
        return url_key(url)
    except ValueError as error:
        raise UserError(f"exclude: {given}: {url!r} is not a valid URL: {error}") from error


def _source_of(given: Mapping[str, Mapping[str, Any]]) -> Source:
    if len(given) != 1:
        raise UserError(f"exclude: a source is written as {{name: {{...}}}}, not {dict(given)}")
    name, parameters = next(iter(given.items()))
    operator = registry.get(name, "source")
    try:
        source = operator.model_validate(dict(parameters or {}), context={"recipe": True})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"exclude: {name}: {where}: {problem['msg']}") from error
    assert isinstance(source, Source)
    return source
