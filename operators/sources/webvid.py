"""WebVid: captioned stock videos, whole, from a CSV and files of the user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
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
    read_rows,
    url_key,
)

_COLUMNS = ("videoid", "name", "page_idx", "page_dir", "duration", "contentUrl")
_OWN = {name.lower(): name for name in _COLUMNS}
_ENDINGS = (".mp4", ".webm", ".mkv", ".mov", ".m4v", ".avi", ".flv", ".wmv", ".mpg", ".ts")
_NOTHING = ("", "null", "none", "nan")  # how converters write a cell without a value
_DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?", re.IGNORECASE)


class WebVid(Source):
    """The videos of WebVid-2M or WebVid-10M; each is one clip.

    The owner of the videos withdrew their URLs in February 2024: bring the CSV and a folder of
    files of your own.

    metadata: a CSV file (packed with gzip or not), a folder of them, or a pattern. Parquet and
        JSONL with the same columns are read, too.
    files: the folder that holds the videos as the authors' downloader wrote them,
        <page_dir>/<videoid>.mp4; where that file is missing, one of another usual ending is
        taken. A video without a file goes to the quarantine when its bytes are asked for, unless
        a mirror has it. Without `files` the location is contentUrl.

    Columns: page_idx, page_dir, duration (as the dataset writes it, PT00H00M17S), duration_s (in
    seconds; null where it is of another form) and contentUrl, those that the file has; further
    ones are kept as text. The caption (name) is caption_source, videoid the dataset_id. A video
    with a URL has its id from the URL, wherever the bytes come from. Columns go by their names,
    in any case and order.

    Format: Bain et al., Frozen in Time, arXiv 2104.00650; github.com/m-bain/webvid.
    """

    name: ClassVar[str] = "webvid"
    input_field: ClassVar[str] = "metadata"

    metadata: str
    files: str | None = None

    def dataset_schema(self) -> pa.Schema:
        """The columns that the files have, without videoid and name.

        Raises:
            UserError: a file cannot be used, or lacks a column that is needed.
        """
        found: dict[str, pa.DataType] = {}
        for file in metadata_files(self.metadata, "webvid"):
            names = [_OWN.get(name.lower(), name) for name in header(file, "webvid")]
            for name in ("videoid", *(["contentUrl"] if self.files is None else [])):
                if names and name not in names:
                    raise UserError(
                        f"webvid: {file} has no column {name!r}; it has: {', '.join(names)}"
                    )
            for name in names:
                if name and name not in ("videoid", "name"):
                    found[name] = pa.string()
                if name == "duration":
                    found["duration_s"] = pa.float64()
        return pa.schema(list(found.items()))

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in the order of the files, sorted by name, and their rows.

        Raises:
            UserError: a file cannot be used, lacks a column that is needed, or `files` is no
                folder.
        """
        schema = self.dataset_schema()
        base = None if self.files is None else Path(self.files).expanduser().resolve()
        if base is not None and not base.is_dir():
            raise UserError(f"webvid: {base} is not a folder; `files` names that of the videos")
        for file in metadata_files(self.metadata, "webvid"):
            for row in read_rows(file, "webvid"):
                yield row if isinstance(row, RowFault) else _video(row, schema.names, base)


def _video(row: MetadataRow, names: list[str], base: Path | None) -> VideoRow | RowFault:
    values = {_OWN.get(name.lower(), name): _text(value) for name, value in row.values.items()}
    identity, url = values.get("videoid"), values.get("contentUrl")
    try:
        if identity is None:
            raise ValueError("videoid: the row has none")
        key = None if url is None else _key(url)
        relative = None
        if base is not None:
            relative = _file(base, values.get("page_dir"), identity)
            location = str(base / relative)
        elif url is not None:
            location = url
        else:
            raise ValueError("contentUrl: the row has none; `files` names a folder of videos")
    except ValueError as error:
        return row.fault(str(error))
    fields: dict[str, Any] = {name: values.get(name) for name in names}
    if "duration_s" in fields:
        fields["duration_s"] = _seconds(values.get("duration"))
    return VideoRow(
        location,
        key=key,
        relative=relative,
        dataset_id=identity,
        clips=(ClipRow(caption=values.get("name"), fields=fields),),
        fields=fields,
    )


def _file(base: Path, folder: str | None, identity: str) -> str:
    """Path below `base` of the file that is there, else of the .mp4 that should be."""
    stem = identity if folder is None else f"{folder}/{identity}"
    if stem.startswith("/") or ".." in stem.split("/") or "\0" in stem:
        raise ValueError(f"page_dir and videoid: {repr(stem)[:80]} leads out of the folder")
    try:
        found = (stem + ending for ending in _ENDINGS if (base / (stem + ending)).is_file())
        return next(found, f"{stem}.mp4")
    except OSError as error:
        raise ValueError(f"page_dir and videoid: {repr(stem)[:80]}: {error.strerror}") from error


def _key(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"contentUrl: {repr(url)[:80]} is not an http(s) URL")
    try:
        return url_key(url)
    except ValueError as error:
        raise ValueError(f"contentUrl: {repr(url)[:80]} is not a URL: {error}") from error


def _seconds(duration: str | None) -> float | None:
    match = _DURATION.fullmatch(duration or "")
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return round(hours * 3600 + minutes * 60 + seconds, 6)


def _text(value: Any) -> str | None:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return None if text.strip().lower() in _NOTHING else text.strip()
