"""The clips of an export: streamed from the run's tables, each with the place of its video."""

from __future__ import annotations

import math
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa

from vidcurate.clip import RIGHTS
from vidcurate.errors import QueryError, RunDirectoryError
from vidcurate.run.tables import Run, quoted

Row = dict[str, Any]

_BATCH_ROWS = 2_000
_FILE_KEY = re.compile(r"file:(.+):\d+:[0-9a-f]{64}", re.DOTALL)
_YOUTUBE = "youtube:"

UNKNOWN_PLACE = "their source key names neither a URL nor a file below the source's folder"
GONE = (
    "selected, but no more in the tables (purged, cut anew, or of an unfinished video): "
    "`vidcurate run`, then export again"
)


class Clips:
    """The clips of an export in order of (video_id, start, end); memory does not grow with them.

    Each row has the columns of the table `clips`, and `place` (see `place`), `video` (source_key,
    location, dataset_id, n_frames and the rights of its video) and `split`.

    Args:
        run: an open run directory.
        selection: whose kept clips they are; None for all that are scored.
        refusal: why the format cannot hold a clip; None where it can.
        stop: once set, the stream ends with a KeyboardInterrupt.

    schema: of the table `clips`. has_files: some videos are local files. clips, videos: given out
    so far. left_out: reason -> clips.
    """

    def __init__(
        self,
        run: Run,
        selection: str | None,
        refusal: Callable[[Row], str | None],
        stop: threading.Event,
    ) -> None:
        self.schema: pa.Schema = run.schema("clips")
        self.clips = 0
        self.videos = 0
        self.left_out: Counter[str] = Counter()
        self._run = run
        self._refusal = refusal
        self._stop = stop
        self._query = _query(selection)
        counts = run.sql(
            "SELECT count(*) AS clips, coalesce(bool_or(_video.source_key LIKE 'file:%'), false) "
            f"AS files FROM ({self._query})"
        ).to_pylist()[0]
        self.has_files: bool = counts["files"]
        if gone := _wanted(run, selection) - counts["clips"]:
            self.left_out[GONE] = gone

    def __iter__(self) -> Iterator[Row]:
        last = None
        for row in self._rows():
            if self._stop.is_set():
                raise KeyboardInterrupt
            row["video"], row["split"] = row.pop("_video"), row.pop("_split")
            row["place"] = place(row["video"]["source_key"], row["video"]["location"])
            why = UNKNOWN_PLACE if row["place"] is None else self._refusal(row)
            if why is not None:
                self.left_out[why] += 1
                continue
            self.clips += 1
            self.videos += row["video_id"] != last
            last = row["video_id"]
            yield row

    def _rows(self) -> Iterator[Row]:
        query = f'{self._query} ORDER BY video_id, start, "end", clip_id'
        try:
            with self._run.connect() as connection:
                for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
                    yield from batch.to_pylist()
        except duckdb.IOException as error:
            raise RunDirectoryError(
                f"{self._run.out} was compacted while it was read; export again ({error})"
            ) from error
        except duckdb.Error as error:
            raise QueryError(f"the clips of {self._run.out} cannot be read: {error}") from error

    def by_video(self) -> Iterator[list[Row]]:
        """The clips of one video after the other."""
        for _, rows in groupby(self, key=lambda row: row["video_id"]):
            yield list(rows)

    def column(self, name: str) -> str | None:
        """The clip table's column of that name, in upper or lower case; None where it has none."""
        return next((n for n in self.schema.names if n.lower() == name.lower()), None)


def place(source_key: str, location: str) -> str | None:
    """Where others find a video: its URL, or the path of a local file below the source's folder.

    It comes from the source key, so that its ids come out the same. A path is always relative: a
    file that the source named by its absolute path (also one that climbs from the source's folder
    to the root) has no place, as the path would tell of this machine.
    """
    if source_key.startswith(_YOUTUBE):
        return f"https://www.youtube.com/watch?v={source_key.removeprefix(_YOUTUBE)}"
    if not source_key.startswith("file:"):
        return source_key if "://" in source_key else None
    found = _FILE_KEY.fullmatch(source_key)
    if found is None or os.path.isabs(found[1]) or _leads_to_root(found[1], location):
        return None
    return found[1]


def youtube_id(row: Row) -> str | None:
    """The YouTube id of the clip's video; None for others."""
    key: str = row["video"]["source_key"]
    return key.removeprefix(_YOUTUBE) if key.startswith(_YOUTUBE) else None


def dataset_id(row: Row) -> str | None:
    """The dataset's own id of the clip, else of its video."""
    mine: str | None = row["dataset_id"]
    return row["video"]["dataset_id"] if mine is None else mine


def clock(seconds: float, hour_digits: int = 1) -> str:
    """A time as H:MM:SS.mmm, rounded to the nearest millisecond."""
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:0{hour_digits}d}:{minutes:02d}:{ms // 1000:02d}.{ms % 1000:03d}"


def plain(value: Any) -> Any:
    """A value as JSON holds it: numbers that are not finite are None, what JSON lacks is text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.hex() if isinstance(value, bytes) else str(value)


def _query(selection: str | None) -> str:
    held = ("source_key", "location", "dataset_id", "n_frames", *RIGHTS)
    video = ", ".join(f"'{name}': v.{name}" for name in held)
    split = "NULL::VARCHAR" if selection is None else "s.split"
    chosen = (
        "WHERE c.score_status = 'scored'"
        if selection is None
        else f"JOIN {quoted(f'selection_{selection}')} s ON s.clip_id = c.clip_id "
        "WHERE s.fate = 'kept'"
    )
    return (
        f"SELECT c.*, {{{video}}} AS _video, {split} AS _split "
        f"FROM clips c JOIN videos v USING (video_id) {chosen}"
    )


def _wanted(run: Run, selection: str | None) -> int:
    chosen = (
        "clips WHERE score_status = 'scored'"
        if selection is None
        else f"{quoted(f'selection_{selection}')} WHERE fate = 'kept'"
    )
    count: int = run.sql(f"SELECT count(*) AS n FROM {chosen}").column(0)[0].as_py()
    return count


def _leads_to_root(relative: str, location: str) -> bool:
    """True where `../..` climbs so far that the rest tells where the user's files lie."""
    rest = relative
    while rest.startswith("../"):
        rest = rest[3:]
    above = os.path.normpath(location).removesuffix(rest)
    return rest != relative and above in ("/", "/home/", "/Users/")
