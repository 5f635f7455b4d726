"""VideoInstruct: VideoInstruct-100K, questions and answers on ActivityNet's videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vidcurate import RowFault, Source, VideoRow, metadata_files, read_rows, url_key

_NAME = re.compile(r"v_([A-Za-z0-9_-]{11})")
_ENDINGS = (".mp4", ".mkv", ".webm")
_PAIR = pa.struct([("q", pa.string()), ("a", pa.string())])


class VideoInstruct(Source):
    """VideoInstruct-100K (Video-ChatGPT, arXiv 2306.05424): 100,000 pairs on 13,303 videos.

    metadata: the published JSON list of `{"q", "a", "video_id"}` (also as JSONL, CSV or Parquet).
    files: a folder of ActivityNet's files, v_<YouTube id>.mp4, .mkv or .webm. Without it the
        videos are YouTube's: `v_` and the 11 characters of the id.

    The dataset names no times: each row is a whole video, with its `video_id` as dataset_id and
    all its pairs, in the file's order, in the column `qa`, a list of {q, a}. A video's pairs may
    stand anywhere: all are held in memory (about 100 MB) and the videos come in the order of
    their first pairs. An item with a bad or missing key goes to the quarantine.
    """

    name: ClassVar[str] = "videoinstruct"
    input_field: ClassVar[str] = "metadata"

    metadata: str
    files: str | None = None

    def dataset_schema(self) -> pa.Schema:
        """`qa`: list of structs of the texts q and a.

        Raises:
            UserError: there is no metadata file of a format that is read.
        """
        metadata_files(self.metadata, "videoinstruct")
        return pa.schema({"qa": pa.list_(_PAIR)})

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in the order of their first pairs; before them the faults.

        Raises:
            UserError: there is no metadata file of a format that is read.
        """
        pairs: dict[str, list[dict[str, str]]] = {}
        for file in metadata_files(self.metadata, "videoinstruct"):
            for row in read_rows(file, "videoinstruct"):
                if isinstance(row, RowFault):
                    yield row
                    continue
                try:
                    name = _text(row.values, "video_id")
                    if not _NAME.fullmatch(name):
                        raise ValueError(f"video_id: {name!r} is not v_ and a YouTube id")
                    pair = {"q": _text(row.values, "q"), "a": _text(row.values, "a")}
                except ValueError as error:
                    yield row.fault(str(error))
                    continue
                pairs.setdefault(name, []).append(pair)
        for name, qa in pairs.items():
            yield self._video(name, {"qa": qa})

    def _video(self, name: str, fields: Mapping[str, Any]) -> VideoRow:
        if self.files is None:
            url = f"https://www.youtube.com/watch?v={name.removeprefix('v_')}"
            return VideoRow(url, key=url_key(url), dataset_id=name, fields=fields)
        folder = Path(self.files).expanduser().absolute()
        found = [folder / f"{name}{ending}" for ending in _ENDINGS]
        # One that is not there is told of when it is opened.
        path = next((p for p in found if p.is_file()), found[0])
        return VideoRow(str(path), relative=path.name, dataset_id=name, fields=fields)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: missing" if value is None else f"{key}: {value!r} is no text")
    return value
