"""Shot2Story: short stories of several shots, each shot with captions of picture and narration."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

_STORY = re.compile(r"([A-Za-z0-9_-]{11})\.[0-9]+")
_SHOT = re.compile(r"(.+)_([0-9]{1,9})_([0-9]{1,9})\.mp4")
_LISTS = ("captions", "audio_captions", "ASR")
_SCHEMA = pa.schema(
    {
        "story_id": pa.string(),
        "id": pa.string(),
        "image_id": pa.string(),
        "nvid": pa.string(),
        "caption_whole": pa.string(),
        "whole_asr": pa.string(),
        "n_shots": pa.int32(),
        "story_start": pa.float64(),
        "story_end": pa.float64(),
        "categories": pa.list_(pa.string()),
        "shot_index": pa.int32(),
        "shot_name": pa.string(),
        "first_frame": pa.int64(),
        "end_frame": pa.int64(),
        "caption_audio": pa.string(),
        "asr": pa.string(),
    }
)


class Shot2Story(Source):
    """Shot2Story (arXiv 2312.10300): parts of 10 to 40 s of HD-VILA's videos, shot by shot.

    metadata: one JSON list of the release: 20k_{train,val,test}.json, 43k_human_train.json,
        90k_gptv_train.json or 134k_full_train.json. Its pickle of shots is never opened: the
        frame numbers also stand in the shots' names (`video_names`, `<story>_<first>_<end>.mp4`).
    meta: 20k_meta.csv or 134k_meta.csv: where in YouTube's video a story begins and ends.
    files: a folder of the release's files, one a story (W26nTWGbf3g.8.mp4); frames count from the
        file's first. Without it the videos are YouTube's, frames count from the first one at or
        after the story's start, and `meta` is needed.

    Each shot is one clip; the splitter `timestamps` cuts them. The caption is the shot's of
    `captions`. The story's columns (story_id, id, image_id, nvid, whole_asr, n_shots,
    caption_whole, and of the meta file story_start, story_end in seconds, categories) stand on
    each of its shots, beside the shot's own: shot_index from 0, shot_name, first_frame, end_frame
    (half-open), caption_audio (what is said), asr. So the shots can be put together again.
    caption_whole and caption_audio are whole_caption and audio_captions of the release, named so
    that pack takes them into the shards.

    A name's last number is the shot's last frame where the next shot begins right after it.
    Elsewhere it is left out: it may lie in a transition, and the authors' script cuts before it.

    Frame numbers hold for the file that the authors made: a YouTube video of at most 360 lines,
    which has at most 30 frames a second. The same video in more lines can have 50 or 60, and the
    shots would then end half way: download with `max_height: 360`, or use the release's files.

    A story without names of shots or with a bad one, with lists of unequal length, or (without
    `files`) not in the meta file goes to the quarantine. A list that is missing or empty is null
    in all shots. The meta file is held in memory.
    """

    name: ClassVar[str] = "shot2story"
    input_field: ClassVar[str] = "metadata"
    is_grouped: ClassVar[bool] = False  # about 600 of 20,000 stories share a YouTube video

    metadata: str
    meta: str | None = None
    files: str | None = None

    def dataset_schema(self) -> pa.Schema:
        """The story's columns, then the shot's; null where the files do not say.

        Raises:
            UserError: a file is missing or a pickle, or neither `meta` nor `files` is given.
        """
        self._given()
        return _SCHEMA

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """One row a story, with its shots, in the order of the file.

        Raises:
            UserError: a file is missing or a pickle, or neither `meta` nor `files` is given.
        """
        stories, metas = self._given()
        meta: dict[str, _Meta] = {}
        for file in metas:
            for row in read_rows(file, "shot2story"):
                if isinstance(row, RowFault):
                    yield row
                    continue
                try:
                    story = _story(row.values.get("clip_id"))
                    meta[story] = _meta(row.values)
                except ValueError as error:
                    yield row.fault(str(error))
        for file in stories:
            for row in read_rows(file, "shot2story"):
                if isinstance(row, RowFault):
                    yield row
                    continue
                try:
                    video = self._video(row.values, meta)
                except ValueError as error:
                    yield row.fault(str(error))
                else:
                    yield video

    def _given(self) -> tuple[list[Path], list[Path]]:
        """The files of stories, and those of their times."""
        for name in (self.metadata, self.meta or ""):
            if name.lower().endswith((".pkl", ".pickle")):
                raise UserError(
                    f"shot2story: {name} is a pickle, and reading one can run any code that it "
                    "holds; give the JSON list, whose `video_names` hold the same frame numbers"
                )
        if self.files is None and self.meta is None:
            raise UserError(
                "shot2story: name the folder of the release's files with `files`, or, to take the "
                "videos from YouTube, its 20k_meta.csv or 134k_meta.csv with `meta`"
            )
        metas = [] if self.meta is None else metadata_files(self.meta, "shot2story")
        return metadata_files(self.metadata, "shot2story"), metas

    def _video(self, row: Mapping[str, Any], metas: Mapping[str, _Meta]) -> VideoRow:
        name = row.get("video") or row.get("nvid") or row.get("image_id")
        story = _story(name.removesuffix(".mp4") if isinstance(name, str) else name)
        shots = _shots(row, story)
        lists = _lists(row, len(shots))
        meta = metas.get(story)
        if meta is None and self.files is None:
            raise ValueError(f"the meta file has no row of {story}")
        whole: dict[str, Any] = {
            "story_id": story,
            "id": _text(row, "id"),
            "image_id": _text(row, "image_id"),
            "nvid": _text(row, "nvid"),
            "caption_whole": _text(row, "whole_caption"),
            "whole_asr": _text(row, "whole_ASR"),
            "n_shots": len(shots),
            "story_start": meta.start if meta else None,
            "story_end": meta.end if meta else None,
            "categories": meta.categories if meta else None,
        }
        start = meta.start if meta and self.files is None else None
        clips = tuple(
            ClipRow(
                start,
                None,
                lists["captions"][index] or None,
                {
                    **whole,
                    "shot_index": index,
                    "shot_name": shot.name,
                    "first_frame": shot.first,
                    "end_frame": shot.end,
                    "caption_audio": lists["audio_captions"][index],
                    "asr": lists["ASR"][index],
                },
                frames=(shot.first, shot.end),
                dataset_id=shot.name.removesuffix(".mp4"),
            )
            for index, shot in enumerate(shots)
        )
        if self.files is not None:
            # One that is not there is told of when it is opened.
            path = Path(self.files).expanduser().absolute() / f"{story}.mp4"
            return VideoRow(
                str(path), relative=path.name, dataset_id=story, clips=clips, fields=whole
            )
        youtube = story.rpartition(".")[0]
        url = f"https://www.youtube.com/watch?v={youtube}"
        return VideoRow(url, key=url_key(url), dataset_id=youtube, clips=clips)


@dataclass(frozen=True)
class _Meta:
    """A row of the meta file: seconds in YouTube's video."""

    start: float
    end: float
    categories: list[str]


@dataclass(frozen=True)
class _Shot:
    """A shot's file name and frames: the first, and the one after the last."""

    name: str
    first: int
    end: int


def _story(value: Any) -> str:
    if not isinstance(value, str) or not _STORY.fullmatch(value):
        raise ValueError(f"{value!r} is no name of a story: a YouTube id, a dot and a number")
    return value


def _meta(row: Mapping[str, Any]) -> _Meta:
    times = _literal(row, "duration")
    if len(times) != 2:
        raise ValueError(f"duration: {len(times)} times where two are meant")
    start, end = parse_time(times[0]), parse_time(times[1])
    if start is None or end is None or start >= end:
        raise ValueError(f"duration: {times[0]!r} is not before {times[1]!r}")
    return _Meta(start, end, _literal(row, "categories") if row.get("categories") else [])


def _literal(row: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts, written as Python writes it."""
    cell = row.get(key)
    try:
        value = ast.literal_eval(cell) if isinstance(cell, str) else cell
        # Half a character (\ud800) fits no table: a UnicodeEncodeError is a ValueError.
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: deep nesting
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key}: {cell!r} is no list of texts")
    return value


def _shots(row: Mapping[str, Any], story: str) -> list[_Shot]:
    names = row.get("video_names")
    if not isinstance(names, list) or not names:
        raise ValueError(f"video_names: {story} has no shots")
    found = []
    for name in names:
        match = _SHOT.fullmatch(name) if isinstance(name, str) else None
        if match is None or match[1] != story:
            raise ValueError(f"video_names: {name!r} is not {story}_<first>_<end>.mp4")
        first, end = int(match[2]), int(match[3])
        found.append((name, first, end))
    if len(set(names)) < len(names):
        raise ValueError(f"video_names: {story} names a shot twice")
    starts = {first for _, first, _ in found}
    shots = [_Shot(name, first, end + (end + 1 in starts)) for name, first, end in found]
    for shot in shots:
        if shot.first >= shot.end:
            raise ValueError(f"video_names: {shot.name!r} holds no frame")
    return shots


def _lists(row: Mapping[str, Any], count: int) -> dict[str, list[str | None]]:
    """The lists that have one text a shot; a missing or empty one is all null."""
    lists = {key: row.get(key) or [None] * count for key in _LISTS}
    if any(not isinstance(texts, list) or len(texts) != count for texts in lists.values()):
        told = ", ".join(
            f"{len(t) if isinstance(t, list) else 'no list of'} {key}" for key, t in lists.items()
        )
        raise ValueError(f"{count} video_names, but {told}")
    for key, texts in lists.items():
        for text in texts:
            if text is not None and not isinstance(text, str):
                raise ValueError(f"{key}: {text!r} is no text")
    return lists


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else str(value)
