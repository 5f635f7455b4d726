"""Panda-70M: videos of a video site, with several captioned clips each."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pyarrow as pa

from vidcurate import (
    ClipRow,
    MetadataRow,
    RowFault,
    Source,
    UserError,
    VideoRow,
    header,
    metadata_files,
    parse_time,
    read_rows,
    url_key,
)

_SHOTS = "shot_boundary_detection"
_CLIP_COLUMNS = {
    "matching_score": pa.float64(),
    "desirable_filtering": pa.string(),
    _SHOTS: pa.list_(pa.list_(pa.float64())),
}
_OWN = {n.lower(): n for n in ("videoID", "url", "timestamp", "caption", *_CLIP_COLUMNS)}
_LISTS = ("timestamp", "caption", *_CLIP_COLUMNS)  # a cell holds one value for each clip
_LONGEST_CELL = 2**20  # characters; a literal needs up to 500 times that in memory
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")

_REMEDY = {
    "videoID": "it must have that or the column url",
    "timestamp": "is it a file of Panda-70M?",
    _SHOTS: "take the files from October 2024 on, or set shots: ignore and let `scenes` cut",
}

Times = tuple[float, float]


class Panda70m(Source):
    """The clips of Panda-70M, from its published CSV files.

    metadata: a CSV file (packed with gzip or not), a folder of them, or a pattern. Parquet and
        JSONL with the same columns are read, too. The training sets are published as zip files,
        to be unpacked; name one of them: that of 2M is part of that of 10M, and this of the full.
    shots: what to do with clips that hold cuts, which about half of them do. The dataset tells
        the shots of each clip (found by TransNetV2; in files from October 2024 on).
        "ignore": the clips as they are; the splitter `scenes` may cut inside them.
        "longest": the longest shot of each clip. "all": each shot is a clip. Both keep the
        caption of the whole clip, which may tell of something that is in another shot.

    Columns: videoID, url, matching_score, desirable_filtering ("desirable" or why not) and
    shot_boundary_detection (start and end of each shot in seconds from the start of the dataset's
    clip, also of clips that were cut again); what the file lacks is not there. Further columns of
    the file are kept as text. The caption is caption_source. The dataset_id of a clip is
    <videoID>_<its place in the row, from 0>, with the shot's place behind it where there are
    several.

    A published shot ends with the time of its last frame: a clip that is cut to a shot goes
    without that frame, and a shot of one frame makes no clip. A clip that is one shot stays as it
    is, with the same id in every mode.

    A row whose lists differ in length, or cannot be read, goes to the quarantine; where a single
    clip is wrong (it starts after its end, it stands there twice), that clip alone.

    Format: Chen et al., Panda-70M, arXiv 2402.19479; github.com/snap-research/Panda-70M.
    """

    name: ClassVar[str] = "panda70m"
    input_field: ClassVar[str] = "metadata"

    metadata: str
    shots: Literal["ignore", "longest", "all"] = "ignore"

    def dataset_schema(self) -> pa.Schema:
        """The columns that the files have, without timestamp and caption.

        Raises:
            UserError: a file cannot be used, or lacks a column that is needed.
        """
        found: dict[str, pa.DataType] = {}
        for file in metadata_files(self.metadata, "panda70m"):
            names = [_OWN.get(name.lower(), name) for name in header(file, "panda70m")]
            needed = ["timestamp", *([_SHOTS] if self.shots != "ignore" else [])]
            if not {"videoID", "url"} & set(names):
                needed.insert(0, "videoID")
            for name in needed:
                if names and name not in names:
                    raise UserError(f"panda70m: {file} has no column {name!r}; {_REMEDY[name]}")
            found.update((n, _CLIP_COLUMNS.get(n, pa.string())) for n in names if n)
        return pa.schema([(n, t) for n, t in found.items() if n not in ("timestamp", "caption")])

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in the order of the files, sorted by name, and their rows.

        Raises:
            UserError: a file cannot be used, or lacks a column that is needed.
        """
        self.dataset_schema()
        for file in metadata_files(self.metadata, "panda70m"):
            for row in read_rows(file, "panda70m"):
                if isinstance(row, RowFault):
                    yield row
                else:
                    yield from self._video(row)

    def _video(self, row: MetadataRow) -> Iterator[VideoRow | RowFault]:
        values = {_OWN.get(name.lower(), name): value for name, value in row.values.items()}
        try:
            location, key, video_id = _location(values)
            lists = _lists(values)
        except ValueError as error:
            yield row.fault(str(error))
            return
        clips: list[ClipRow] = []
        places: dict[Times, int] = {}
        for place, given in enumerate(lists["timestamp"]):
            wrong = RowFault(
                f"{row.where} clip {place}", "", {"videoID": video_id, "times": _shown(given)}
            )
            try:
                caption, fields = _columns(lists, place)
                cut = self._cut(_interval(given), fields.get(_SHOTS))
            except ValueError as error:
                yield replace(wrong, message=str(error))
                continue
            for shot, times in enumerate(cut):
                if times in places:
                    message = f"repeats the times of clip {places[times]} of this row"
                    yield replace(wrong, message=message)
                    continue
                places[times] = place
                number = f"{video_id}_{place}" + (f"_{shot}" if len(cut) > 1 else "")
                clips.append(ClipRow(*times, caption, fields, dataset_id=number))
        if clips:
            fields = {name: _text(v) for name, v in values.items() if name not in _LISTS}
            yield VideoRow(
                location, key=key, dataset_id=video_id, clips=tuple(clips), fields=fields
            )

    def _cut(self, clip: Times, shots: Sequence[Sequence[float]] | None) -> list[Times]:
        """What becomes of a clip, in seconds of the video."""
        if self.shots == "ignore" or not shots or len(shots) == 1:
            return [clip]
        start, end = clip
        times = [(round(start + a, 6), min(round(start + b, 6), end)) for a, b in shots]
        found = [(a, b) for a, b in times if a < b]
        if not found:
            raise ValueError(f"{_SHOTS}: none of its shots has two frames inside the clip")
        if self.shots == "all":
            return found
        return [max(found, key=lambda shot: round(shot[1] - shot[0], 6))]


def _location(values: Mapping[str, Any]) -> tuple[str, str, str]:
    """Where the video is, its source key and the dataset's id of it."""
    video_id, url = _text(values.get("videoID")), _text(values.get("url"))
    if url is None:
        if video_id is None or not _VIDEO_ID.fullmatch(video_id):
            raise ValueError(f"no url, and videoID {_shown(video_id)} is not a video's id")
        url = f"https://www.youtube.com/watch?v={video_id}"
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"url: {_shown(url)} is not an http(s) URL")
    try:
        key = url_key(url)
    except ValueError as error:
        raise ValueError(f"url: {_shown(url)} is not a URL: {error}") from error
    return url, key, video_id or key.removeprefix("youtube:")


def _lists(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Column -> its value for each clip; columns without a value are not there."""
    lists = {name: _list(name, values.get(name)) for name in _LISTS}
    found = {name: value for name, value in lists.items() if value is not None}
    if not found.get("timestamp"):
        raise ValueError("timestamp: it names no clips")
    if _is_pair(found["timestamp"]):
        found["timestamp"] = [found["timestamp"]]
    if _is_pair(found.get(_SHOTS)):
        found[_SHOTS] = [found[_SHOTS]]
    if len({len(value) for value in found.values()}) > 1:
        counts = ", ".join(f"{name} {len(value)}" for name, value in found.items())
        raise ValueError(f"the lists differ in length: {counts}")
    return found


def _list(name: str, cell: Any) -> list[Any] | None:
    """A cell as a list: the text of a Python literal, or a list of Parquet or JSON."""
    if cell is None or cell == "":
        return None
    value = _literal(name, cell) if isinstance(cell, str) else cell
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: {_shown(cell)} is not a list")
    return list(value)


def _literal(name: str, text: str) -> Any:
    if len(text) > _LONGEST_CELL:
        raise ValueError(f"{name}: {len(text)} characters, more than {_LONGEST_CELL} are not read")
    try:
        if '"' not in text and "\\" not in text:
            # Then every ' is a string's edge, and with " in its place the text is JSON: the same
            # value, read many times as fast.
            with suppress(ValueError):
                return json.loads(text.replace("'", '"'))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as \d
            value = ast.literal_eval(text)
        # Half a character (\ud800) fits no table: a UnicodeEncodeError is a ValueError.
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
        return value
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{name}: {_shown(text)} is not a list as Python writes it") from error


def _columns(lists: Mapping[str, list[Any]], place: int) -> tuple[str | None, dict[str, Any]]:
    """Caption and columns of one clip."""
    values = {name: value[place] for name, value in lists.items() if name != "timestamp"}
    for name in ("caption", "desirable_filtering"):
        if not isinstance(values.get(name), str | None):
            raise ValueError(f"{name}: {_shown(values[name])} is not a text")
    score = values.get("matching_score")
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise ValueError(f"matching_score: {_shown(score)} is not a number")
    shots = values.get(_SHOTS)
    if shots is not None:
        values[_SHOTS] = [list(shot) for shot in _shots(shots)]
    caption = values.pop("caption", None)
    return caption or None, values


def _shots(given: Any) -> list[Times]:
    """The shots of a clip; some rows have a bare [start, end] where there is one."""
    shots = [given] if _is_pair(given) else given
    if not isinstance(shots, list | tuple):
        raise ValueError(f"{_SHOTS}: {_shown(given)} is not a list of shots")
    found = [_times(_SHOTS, shot) for shot in shots]
    for start, end in found:
        if start > end:
            raise ValueError(f"{_SHOTS}: start ({start:g} s) is after end ({end:g} s)")
    return found


def _interval(given: Any) -> Times:
    start, end = _times("timestamp", given)
    if start >= end:
        raise ValueError(f"start ({start:g} s) is not before end ({end:g} s)")
    return start, end


def _times(name: str, given: Any) -> Times:
    """Start and end in seconds."""
    if not _is_pair(given):
        raise ValueError(f"{name}: {_shown(given)} is not a start and an end")
    try:
        start, end = parse_time(given[0]), parse_time(given[1])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if start is None or end is None:
        raise ValueError(f"{name}: {_shown(given)} is not a start and an end")
    return start, end


def _is_pair(value: Any) -> bool:
    """True for [start, end]."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(time, str | int | float) for time in value)
    )


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _shown(value: Any) -> str:
    return repr(value)[:80]
