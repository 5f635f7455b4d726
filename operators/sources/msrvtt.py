"""MSR-VTT: 10,000 clips of YouTube videos with 20 sentences each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vidcurate import (
    ClipRow,
    RowFault,
    Source,
    UserError,
    VideoRow,
    metadata_files,
    parse_time,
    read_rows,
    url_key,
)

_NAME = re.compile(r"(video[0-9]+)(?:\.[A-Za-z0-9]+)?")
_NAMES = ("video_id", "clip_name", "video")
_CAPTIONS = ("caption", "sentence")
_ENDINGS = (".mp4", ".mkv", ".webm", ".avi")
_SCHEMA = pa.schema(
    {
        "captions": pa.list_(pa.string()),
        "sen_ids": pa.list_(pa.int64()),
        "split": pa.string(),
        "category": pa.int64(),
        "id": pa.int64(),
        "url": pa.string(),
        "start_time": pa.float64(),
        "end_time": pa.float64(),
    }
)


class MsrVtt(Source):
    """MSR-VTT (Xu et al., CVPR 2016): clips of 10 to 30 s of YouTube videos.

    metadata: the JSON of the challenge (`videos` and `sentences`; train_val_videodatainfo.json,
        test_videodatainfo.json), a JSON list with one item a clip (`video` or `video_id`, with
        `caption` as one sentence or a list), or a line a sentence as JSONL or CSV (`clip_name` or
        `video_id`, `caption` or `sentence`, `sen_id`).
    files: a folder of the published clips, video0.mp4 and so on. They are cut already: each row
        is a whole file. Without it the rows are intervals of YouTube's videos, by the items' url
        and times, and the splitter `timestamps` cuts them.

    The clip's name (video0) is its dataset_id; its first sentence is the caption. All sentences
    are in the column `captions`, in the order of their numbers (`sen_ids`; the file's order where
    it has none). split, category, id, url, start_time and end_time (seconds in YouTube's video)
    are kept where the file has them. A clip that has no sentence has no caption; sentences of
    clips that `videos` does not list are left out. A file's clips and sentences are held in
    memory (about 50 MB for all of MSR-VTT).

    The test split is a benchmark. Keep it out of what you train on, here and in every other
    source:

        source:
          panda70m: {metadata: panda.csv, exclude: [{msrvtt: {metadata: test_videodatainfo.json}}]}
        source:
          msrvtt: {metadata: MSRVTT_data.json, where: {split: [train, validate]}}
    """

    name: ClassVar[str] = "msrvtt"
    input_field: ClassVar[str] = "metadata"
    is_grouped: ClassVar[bool] = False

    metadata: str
    files: str | None = None

    def dataset_schema(self) -> pa.Schema:
        """captions, sen_ids, split, category, id, url, start_time, end_time; null where unknown.

        Raises:
            UserError: there is no metadata file of a format that is read.
        """
        metadata_files(self.metadata, "msrvtt")
        return _SCHEMA

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """One row a clip, in the order of each file; faults of a file come before its clips.

        Raises:
            UserError: there is no metadata file of a format that is read, one lists no clips, or
                its clips have no URL and `files` is not given.
        """
        for file in metadata_files(self.metadata, "msrvtt"):
            clips: dict[str, _Clip] = {}
            is_broken = False
            for fault in _read(file, clips):
                is_broken = True
                yield fault
            if not clips and not is_broken:
                raise UserError(
                    f"msrvtt: {file} lists no clips: neither under `videos` nor as a list"
                )
            if self.files is None and clips and all(c.url is None for c in clips.values()):
                raise UserError(
                    f"msrvtt: {file} holds no URLs; name the folder of the clips with `files`"
                )
            for name, clip in clips.items():
                if self.files is not None:
                    yield self._file(name, clip, Path(self.files))
                elif clip.url is None:
                    yield RowFault(clip.where, f"{name}: no url", {"video_id": name})
                else:
                    yield _interval(name, clip, clip.url)

    def _file(self, name: str, clip: _Clip, files: Path) -> VideoRow:
        folder = files.expanduser().absolute()
        found = [folder / f"{name}{ending}" for ending in _ENDINGS]
        # One that is not there is told of when it is opened.
        path = next((p for p in found if p.is_file()), found[0])
        fields = clip.fields()
        return VideoRow(
            str(path),
            relative=path.name,
            dataset_id=name,
            clips=(ClipRow(caption=clip.caption(), fields=fields),),
            fields=fields,
        )


@dataclass
class _Clip:
    """What the file says of one clip; its sentences come from rows of their own."""

    where: str
    url: str | None
    start: float | None
    end: float | None
    split: str | None
    category: int | None
    id: int | None
    sentences: list[tuple[int | None, str]] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """The dataset's columns of the clip."""
        found = self.ordered()
        return {
            "captions": [text for _, text in found],
            "sen_ids": [number for number, _ in found if number is not None],
            "split": self.split,
            "category": self.category,
            "id": self.id,
            "url": self.url,
            "start_time": self.start,
            "end_time": self.end,
        }

    def caption(self) -> str | None:
        """The first sentence."""
        found = self.ordered()
        return found[0][1] if found else None

    def ordered(self) -> list[tuple[int | None, str]]:
        """Number and text of the sentences: by number, then those that have none."""
        return sorted(self.sentences, key=lambda s: (s[0] is None, s[0] or 0))


def _read(file: Path, clips: dict[str, _Clip]) -> Iterator[RowFault]:
    """Fill `clips` from a file and yield its faults."""
    is_json = file.name.lower().endswith((".json", ".json.gz"))
    for items in ("videos.item", "sentences.item", "item") if is_json else ("item",):
        if items == "item" and clips:
            return  # `videos` and `sentences` have been read
        for row in read_rows(file, "msrvtt", items=items):
            if isinstance(row, RowFault):
                yield row
                continue
            try:
                name = _name(row.values)
                if items == "videos.item" and name in clips:
                    raise ValueError(f"{name} is listed twice")
                if name not in clips:
                    if items == "sentences.item":
                        continue
                    clips[name] = _clip(row.where, row.values)
                clips[name].sentences += _sentences(row.values)
            except ValueError as error:
                yield row.fault(f"sentences: {error}" if items == "sentences.item" else str(error))


def _interval(name: str, clip: _Clip, url: str) -> VideoRow:
    key = url_key(url)
    youtube = key.removeprefix("youtube:") if key.startswith("youtube:") else None
    row = ClipRow(clip.start, clip.end, clip.caption(), clip.fields(), dataset_id=name)
    return VideoRow(url, key=key, dataset_id=youtube, clips=(row,))


def _name(row: Mapping[str, Any]) -> str:
    given: Any = next((row[key] for key in _NAMES if row.get(key)), None)
    match = _NAME.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise ValueError(f"{given!r} is no name of a clip: `video` and a number")
    return match[1]


def _clip(where: str, row: Mapping[str, Any]) -> _Clip:
    url, split = _text(row, "url"), _text(row, "split")
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: {url!r} is no http address")
        url_key(url)  # a ValueError where it is malformed
    start, end = _time(row, "start time"), _time(row, "end time")
    if end is not None and (start or 0.0) >= end:
        raise ValueError(f"start time ({start or 0:g} s) is not before end time ({end:g} s)")
    return _Clip(where, url, start, end, split, _whole(row, "category"), _whole(row, "id"))


def _sentences(row: Mapping[str, Any]) -> list[tuple[int | None, str]]:
    given: Any = next((row[key] for key in _CAPTIONS if row.get(key) is not None), [])
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"caption: {given!r} is neither a text nor a list of texts")
    number = _whole(row, "sen_id")
    return [(number, text) for text in texts if text.strip()]


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key}: {value!r} is no text")
    return value or None


def _whole(row: Mapping[str, Any], key: str) -> int | None:
    value = row.get(key)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value in (None, ""):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{key}: {value!r} is no whole number")
    return value


def _time(row: Mapping[str, Any], key: str) -> float | None:
    try:
        return parse_time(row.get(key))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
