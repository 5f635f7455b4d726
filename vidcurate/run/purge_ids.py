"""Which videos and clips of a run the ids of a removal request mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from vidcurate.clip import PURGED_SCHEMA, is_url, url_key, video_id
from vidcurate.run.tables import Run

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")

# One hash join over all names that a video goes by. An unfinished video has clips and no row of
# its own: there the dataset's id may be of the clip or of the video, and the whole video goes.
_VIDEOS = """
CREATE TEMP TABLE _gone_videos AS SELECT DISTINCT given, video_id FROM _names JOIN (
  SELECT unnest([video_id, dataset_id, source_key, location]) AS name, video_id FROM _videos
  UNION ALL SELECT unnest([id, dataset_id, source_key, location]), video_id FROM purged
    WHERE kind = 'video'
  UNION ALL SELECT unnest([video_id, location]), video_id FROM quarantine
    WHERE video_id IS NOT NULL
  UNION ALL SELECT video_id, video_id FROM _clips
  UNION ALL SELECT dataset_id, video_id FROM _clips
    WHERE video_id NOT IN (SELECT video_id FROM _videos)
) USING (name)
"""
_CLIPS = """
CREATE TEMP TABLE _gone_clips AS SELECT clip_id, video_id, dataset_id, start, "end" FROM _clips
WHERE video_id IN (SELECT video_id FROM _gone_videos)
  OR clip_id IN (SELECT name FROM _names) OR dataset_id IN (SELECT name FROM _names)
"""
_KNOWN = """
SELECT given FROM _gone_videos UNION SELECT given FROM _names JOIN (
  SELECT unnest([clip_id, dataset_id]) AS name FROM _clips
  UNION ALL SELECT unnest([id, dataset_id]) FROM purged WHERE kind = 'clip'
) USING (name)
"""
_NEW = """
SELECT * FROM (
  SELECT g.video_id AS id, 'video' AS kind, g.video_id, coalesce(v.source_key, n.key) AS source_key,
    v.dataset_id, coalesce(v.location, q.location) AS location,
    NULL::DOUBLE AS start, NULL::DOUBLE AS "end"
  FROM (SELECT DISTINCT video_id FROM _gone_videos) g LEFT JOIN _videos v USING (video_id)
  LEFT JOIN (SELECT name, any_value(key) AS key FROM _names GROUP BY name) n
    ON n.name = g.video_id
  LEFT JOIN (SELECT video_id, any_value(location) AS location FROM quarantine GROUP BY video_id) q
    ON q.video_id = g.video_id
  UNION ALL BY NAME
  SELECT c.clip_id AS id, 'clip' AS kind, c.video_id, v.source_key, c.dataset_id, v.location,
    c.start, c."end"
  FROM _gone_clips c LEFT JOIN _videos v USING (video_id)
) WHERE id NOT IN (SELECT id FROM purged) ORDER BY id
"""
_RETIRED = {
    "clips": "SELECT clip_id FROM _gone_clips",
    "videos": "SELECT video_id FROM _videos SEMI JOIN _gone_videos USING (video_id)",
    "quarantine": "SELECT id FROM quarantine "
    "WHERE video_id IN (SELECT video_id FROM _gone_videos) "
    "OR clip_id IN (SELECT clip_id FROM _gone_clips) OR location IN ("
    "SELECT location FROM _videos SEMI JOIN _gone_videos USING (video_id))",
    **{
        table: f"SELECT clip_id FROM {table} SEMI JOIN _gone_clips USING (clip_id)"
        for table in ("vectors", "groups", "annotations")
    },
}
_COPIES = """
SELECT DISTINCT source_key FROM _videos WHERE content_id IN (
  SELECT content_id FROM _videos SEMI JOIN _gone_videos USING (video_id)
) AND video_id NOT IN (SELECT video_id FROM _gone_videos) ORDER BY source_key
"""


@dataclass(frozen=True)
class Found:
    """What the given ids mean in a run.

    unknown: those that mean nothing here, in the order given. known: how many do.
    new: rows for the table `purged`, without those that it has. retire: ids of living rows to
    retire, by table. copies: source keys of videos with the same bytes that are not meant.
    """

    known: int
    unknown: tuple[str, ...]
    new: pa.Table
    retire: dict[str, pa.Array]
    copies: tuple[str, ...]


def find(run: Run, given: Iterable[str]) -> Found:
    """Look up ids: of a clip or a video, the dataset's own, source keys, URLs and locations.

    Args:
        run: the committed tables. given: as people write them.
    """
    wanted = list(dict.fromkeys(given))
    names = [(text, *spelled) for text in wanted for spelled in _spellings(text)]
    with run.connect() as connection:
        columns = {c: [n[i] for n in names] for i, c in enumerate(("given", "name", "key"))}
        connection.register("_given", pa.table(columns, schema=_NAMES))
        connection.execute("CREATE TEMP TABLE _names AS SELECT DISTINCT * FROM _given")
        connection.execute(_VIDEOS)
        connection.execute(_CLIPS)
        known = set(_column(connection, _KNOWN).to_pylist())
        new = connection.sql(_NEW).to_arrow_table().cast(PURGED_SCHEMA)
        retire = {table: _column(connection, query) for table, query in _RETIRED.items()}
        faults, also = _metadata_faults(connection)
        retire["quarantine"] = pa.concat_arrays(
            [retire["quarantine"], pa.array(faults, pa.string())]
        )
        copies = tuple(_column(connection, _COPIES).to_pylist())
    for text in also - known:
        new = pa.concat_tables([new, _from_its_key(text)])
    known |= also
    unknown = tuple(text for text in wanted if text not in known)
    return Found(len(known), unknown, new, retire, copies)


_NAMES = pa.schema([(name, pa.string()) for name in ("given", "name", "key")])


def _spellings(text: str) -> Iterator[tuple[str, str | None]]:
    """Names that the tables may have for what is given, and the source key behind an id."""
    for key in _keys(text):
        yield key, None
        yield video_id(key), key
    if not is_url(text):
        yield str(Path(text).absolute()), None


def _keys(text: str) -> Iterator[str]:
    """Source keys that a text may stand for, the most telling last."""
    yield text
    if is_url(text):
        try:
            yield url_key(text)
        except ValueError:  # a port that is no number, for example
            return
    elif _YOUTUBE_ID.fullmatch(text):
        yield f"youtube:{text}"


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Array:
    return connection.sql(query).to_arrow_table().column(0).combine_chunks().cast(pa.string())


def _metadata_faults(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], set[str]]:
    """Quarantined metadata rows that name what is purged: their ids, and the given texts."""
    rows = connection.execute(
        "SELECT name, given FROM _names UNION SELECT unnest([source_key, location, dataset_id]), "
        "given FROM _gone_videos JOIN _videos USING (video_id)"
    ).fetchall()
    # A number may be anything in a row that could not be read.
    names = {name: given for name, given in rows if name is not None and not name.isdecimal()}
    ids: list[str] = []
    known: set[str] = set()
    faults = connection.execute("SELECT id, payload FROM quarantine WHERE video_id IS NULL")
    while batch := faults.fetchmany(10_000):
        for identity, payload in batch:
            hits = {names[n] for text in _texts(json.loads(payload)) for n in (text, *_ids(text))
                    if n in names}  # fmt: skip
            if hits:
                ids.append(identity)
                known |= hits
    return ids, known


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _texts(inside)


def _ids(text: str) -> Iterator[str]:
    return (video_id(key) for key in _keys(text)) if is_url(text) else iter(())


def _from_its_key(text: str) -> pa.Table:
    """The row of a video that only a faulty metadata row names; none where it has no key."""
    *_, key = _keys(text)
    if key == text and not is_url(text):
        return PURGED_SCHEMA.empty_table()
    row = {"id": video_id(key), "kind": "video", "video_id": video_id(key), "source_key": key}
    return pa.Table.from_pylist([row | {"location": text if is_url(text) else None}], PURGED_SCHEMA)
