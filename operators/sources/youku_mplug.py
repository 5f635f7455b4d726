"""Youku-mPLUG: whole Chinese videos in files, with titles, labels or captions."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Sequence
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
)

_FILES = ("video_id", "clip_name")  # published as video_id:FILE, clip_name:FILE
_TEXTS = ("golden_caption", "caption", "title")
_LONGEST_CELL = 2**20  # characters; a literal needs up to 500 times that in memory


class YoukuMplug(Source):
    """The videos of Youku-mPLUG; each is one clip.

    metadata: a CSV file of any of its four parts (pretraining, classification, retrieval,
        captioning), packed with gzip or not, a folder of them, or a pattern. Parquet and JSONL
        with the same columns are read, too.
    files: the folder that the paths of `video_id:FILE` and `clip_name:FILE` start from, as in
        videos/pretrain/<id>.flv (default: the folder of each metadata file).

    Columns, where a file has them: label (the category), captions (all of golden_caption, a list
    in the validation set); further ones are kept as text. The caption (title, caption, or the
    first of golden_caption) is caption_source, the path the dataset_id.

    A video may stand in several files and rows: each row comes out as a video, and the runner
    brings them together. A path that leads out of the folder goes to the quarantine; a file that
    is missing does so when its bytes are asked for, unless a mirror has it.

    Format: Xu et al., Youku-mPLUG, arXiv 2306.04362; github.com/X-PLUG/Youku-mPLUG.
    """

    name: ClassVar[str] = "youku_mplug"
    input_field: ClassVar[str] = "metadata"
    is_grouped: ClassVar[bool] = False

    metadata: str
    files: str | None = None

    def dataset_schema(self) -> pa.Schema:
        """The columns that the files have, without paths, title and captions of one text.

        Raises:
            UserError: a file cannot be used, or names no files of videos.
        """
        found: dict[str, pa.DataType] = {}
        for file in metadata_files(self.metadata, "youku_mplug"):
            names = [_plain(name) for name in header(file, "youku_mplug")]
            if names and not set(names) & set(_FILES):
                raise UserError(
                    f"youku_mplug: {file} has no column 'video_id:FILE' or 'clip_name:FILE'; "
                    f"it has: {', '.join(names)}"
                )
            for name in names:
                if name == "golden_caption":
                    found["captions"] = pa.list_(pa.string())
                elif name and name not in (*_FILES, *_TEXTS):
                    found[name] = pa.string()
        return pa.schema(list(found.items()))

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """A video for each row, in the order of the files, sorted by name.

        Raises:
            UserError: a file cannot be used, names no files of videos, or `files` is no folder.
        """
        names = self.dataset_schema().names
        for file in metadata_files(self.metadata, "youku_mplug"):
            base = (Path(self.files).expanduser() if self.files else file.parent).resolve()
            if not base.is_dir():
                raise UserError(
                    f"youku_mplug: {base} is not a folder; `files` names that of the videos"
                )
            for row in read_rows(file, "youku_mplug"):
                yield row if isinstance(row, RowFault) else _video(row, names, base)


def _video(row: MetadataRow, names: Sequence[str], base: Path) -> VideoRow | RowFault:
    values = {_plain(name): value for name, value in row.values.items()}
    try:
        path = _path(values.get("video_id") or values.get("clip_name"))
        captions = _captions(values.get("golden_caption"))
    except ValueError as error:
        return row.fault(str(error))
    texts = (*captions, _text(values.get("caption")), _text(values.get("title")))
    fields: dict[str, Any] = {name: _text(values.get(name)) for name in names}
    if "captions" in fields:
        fields["captions"] = captions or None
    return VideoRow(
        str(base / path),
        relative=path,
        dataset_id=path,
        clips=(ClipRow(caption=next(filter(None, texts), None), fields=fields),),
        fields=fields,
    )


def _plain(name: str) -> str:
    """The column's name without `:FILE`; those of the dataset in lower case."""
    plain = name.lower().removesuffix(":file")
    return plain if plain in (*_FILES, *_TEXTS, "label") else name


def _path(given: Any) -> str:
    """A path below the folder of the files."""
    if not isinstance(given, str) or not given.strip():
        raise ValueError("no path of a video in this row")
    path = given.strip().removeprefix("./")
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"the path {repr(path)[:80]} leads out of the folder of the files")
    return path


def _captions(cell: Any) -> list[str]:
    """golden_caption: a text, or a list of texts (in a CSV as Python writes it)."""
    if isinstance(cell, str) and cell.strip().startswith(("['", '["', "[]")):
        cell = _literal(cell.strip())
    texts = list(cell) if isinstance(cell, list | tuple) else [cell]
    if not all(isinstance(text, str | None) for text in texts):
        raise ValueError(f"golden_caption: {repr(cell)[:80]} is not a list of texts")
    return [text for text in texts if text]


def _literal(text: str) -> Any:
    if len(text) > _LONGEST_CELL:
        raise ValueError(
            f"golden_caption: {len(text)} characters, more than {_LONGEST_CELL} are not read"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as \d
            value = ast.literal_eval(text)
        # Half a character (\ud800) fits no table: a UnicodeEncodeError is a ValueError.
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
        return value
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"golden_caption: {repr(text)[:80]} is not a list as Python writes it"
        ) from error


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
