"""InternVid: captioned clips of videos of a video site, one row a clip."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

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
)

_SCORES = ("UMT_Score", "Aesthetic_Score")
# Spellings in lower case, as they are found, of the columns as they are published.
_OWN = {
    "youtubeid": "YoutubeID",
    "youtube_id": "YoutubeID",
    "videoid": "YoutubeID",
    "video_id": "YoutubeID",
    "start_timestamp": "Start_timestamp",
    "start_time": "Start_timestamp",
    "start": "Start_timestamp",
    "end_timestamp": "End_timestamp",
    "end_time": "End_timestamp",
    "end": "End_timestamp",
    "caption": "Caption",
    "umt_score": "UMT_Score",
    "umt_sim": "UMT_Score",
    "umt-sim": "UMT_Score",
    "aesthetic_score": "Aesthetic_Score",
    "aes_score": "Aesthetic_Score",
}
_NEEDED = ("YoutubeID", "Start_timestamp", "End_timestamp")
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")


class InternVid(Source):
    """The clips of InternVid, from its published JSONL files.

    metadata: a JSONL file (packed with gzip or not), a folder of them, or a pattern. CSV and
        Parquet with the same columns are read, too.
    sorted: the rows of a video stand together, so that they are read as they come. Else they may
        stand anywhere, and are brought together on disk first, which takes hours for the full
        set, again at each start. A video that comes up again goes to the quarantine.

    Columns: UMT_Score (how well caption and clip agree) and Aesthetic_Score, null where the file
    or the row has none. Further columns of the first 1,000 rows are kept as text. The caption is
    caption_source, YoutubeID the video's dataset_id. Names are read in any case.

    One row is one clip. The file (45.6 GB for the full set) is streamed: memory does not grow
    with it.

    Format: Wang et al., InternVid, arXiv 2307.06942; github.com/OpenGVLab/InternVideo.
    """

    name: ClassVar[str] = "internvid"
    input_field: ClassVar[str] = "metadata"

    metadata: str
    sorted: bool = False

    @property
    def is_grouped(self) -> bool:  # type: ignore[override]
        """Whether each video comes with all its rows."""
        return self.sorted

    def dataset_schema(self) -> pa.Schema:
        """Both scores, then the further columns of the files.

        Raises:
            UserError: a file cannot be used, or lacks the id or the times.
        """
        return pa.schema(
            [
                *((name, pa.float64()) for name in _SCORES),
                *((name, pa.string()) for name in self._further()),
            ]
        )

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """A video of one clip for each row, in the order of the files, sorted by name.

        Where the rows are `sorted`, one of all the rows that stand together.

        Raises:
            UserError: a file cannot be used, or lacks the id or the times.
        """
        rows = self._rows()
        yield from _joined(rows) if self.sorted else rows

    def _rows(self) -> Iterator[VideoRow | RowFault]:
        further = self._further()
        for file in metadata_files(self.metadata, "internvid"):
            for row in read_rows(file, "internvid"):
                yield row if isinstance(row, RowFault) else _video(row, further)

    def _further(self) -> list[str]:
        """Columns besides those of the dataset, in the order in which they come up."""
        found: dict[str, None] = {}
        for file in metadata_files(self.metadata, "internvid"):
            names = [_OWN.get(name.lower(), name) for name in header(file, "internvid")]
            for name in _NEEDED:
                if names and name not in names:
                    raise UserError(
                        f"internvid: {file} has no column {name!r}; it has: {', '.join(names)}"
                    )
            found.update((n, None) for n in names if n and n not in _OWN.values())
        return list(found)


def _joined(rows: Iterable[VideoRow | RowFault]) -> Iterator[VideoRow | RowFault]:
    """Neighbours of one video as one row; a clip that stands there twice is a fault."""
    video: VideoRow | None = None
    repeats = 0
    clips: dict[tuple[float | None, float | None], ClipRow] = {}
    for row in rows:
        if isinstance(row, RowFault):
            yield row
            continue
        if video is not None and row.key != video.key:
            yield replace(video, clips=tuple(clips.values()))
            video, clips = None, {}
        video = video or row
        [clip] = row.clips
        if (clip.start, clip.end) in clips:
            repeats += 1
            times = {"start": clip.start, "end": clip.end, "caption": clip.caption}
            # Each has its own place: the quarantine tells faults apart by it.
            where = f"{row.location} {clip.start:g} to {clip.end:g} s, repeat {repeats}"
            yield RowFault(where, "the clip is named twice; the first row is taken", times)
        else:
            clips[clip.start, clip.end] = clip
    if video is not None:
        yield replace(video, clips=tuple(clips.values()))


def _video(row: MetadataRow, further: list[str]) -> VideoRow | RowFault:
    values = {_OWN.get(name.lower(), name): value for name, value in row.values.items()}
    identity = values.get("YoutubeID")
    try:
        if not isinstance(identity, str) or not _VIDEO_ID.fullmatch(identity):
            raise ValueError(f"YoutubeID: {repr(identity)[:80]} is not a video's id")
        start, end = _time(values, "Start_timestamp"), _time(values, "End_timestamp")
        if start >= end:
            raise ValueError(f"start ({start:g} s) is not before end ({end:g} s)")
        caption = _text(values.get("Caption"))
        fields: dict[str, Any] = {name: _score(values, name) for name in _SCORES}
    except ValueError as error:
        return row.fault(str(error))
    fields.update((name, _text(values.get(name))) for name in further)
    return VideoRow(
        f"https://www.youtube.com/watch?v={identity}",
        key=f"youtube:{identity}",
        dataset_id=identity,
        clips=(ClipRow(start, end, caption, fields),),
    )


def _time(values: Mapping[str, Any], name: str) -> float:
    try:
        time = parse_time(values.get(name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if time is None:
        raise ValueError(f"{name}: the row has none")
    return time


def _score(values: Mapping[str, Any], name: str) -> float | None:
    """A number, or the text of one; None where there is none (a NaN is how pandas says so)."""
    value = values.get(name)
    if value is None or value == "":
        return None
    try:
        score = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.inf
    if math.isinf(score):
        raise ValueError(f"{name}: {repr(value)[:80]} is not a number")
    return None if math.isnan(score) else score


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
