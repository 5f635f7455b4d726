"""What a recipe's sources name, as the passes take it: filtered, without what is excluded, each
video once with all its clips, before anything is downloaded.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidcurate.clip import source_fields
from vidcurate.errors import UserError
from vidcurate.intake.exclude import Excluded
from vidcurate.intake.grouping import RowStore
from vidcurate.intake.names import keyed, name_of
from vidcurate.intake.where import passes
from vidcurate.nearest import suggest
from vidcurate.operator.base import ClipRow, RowFault, Source, VideoRow
from vidcurate.recipe.model import Recipe

_LOOK_AHEAD = 1_000  # videos that wait for more of their rows, under a limit
_SAME = 0.02  # seconds: nearer bounds in two datasets are one clip's (less than half a frame)


@dataclass
class SourceCounts:
    """What one source step gave when it was read.

    videos, clips: that it names, each once (the whole of a video counts as one clip). filtered,
    excluded: clips that `where` and `exclude` left out. shared: clips that a source before it
    names, too. faults: rows that could not be used; their clips are none of the others.
    """

    videos: int = 0
    clips: int = 0
    filtered: int = 0
    excluded: int = 0
    shared: int = 0
    faults: int = 0


class Intake:
    """The videos of a recipe; may be iterated again. `counts` fills while it is.

    Args:
        recipe: validated.
        banned: ids of videos (and clips) that were purged.
        limit: only the first that many videos.
        scratch: folder for rows of videos that have to be brought together; it must exist.

    Raises:
        UserError: a source, a `where` or an `exclude` cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        banned: Iterable[str] = (),
        limit: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.counts: dict[str, SourceCounts] = {}
        self._limit = limit
        self._columns = {
            source: {name: field.name for name, field in fields.items()}
            for source, fields in source_fields(recipe).items()
        }
        self._steps = recipe.sources
        self._excluded = {
            step.id: Excluded(operator.exclude, banned)
            for step, operator in zip(recipe.sources, recipe.source_operators, strict=True)
        }
        for step, operator in zip(recipe.sources, recipe.source_operators, strict=True):
            _check_where(step.id, operator)
        self._several = len(self._steps) > 1
        self._scattered = any(not s.is_grouped for s in recipe.source_operators)
        self._scratch = scratch
        self.total: int | None = None
        """How many videos there are, once rows were brought together; None where they stream."""
        self._store: RowStore | None = None
        self._counts_read: dict[str, SourceCounts] = {}  # before rows are brought together

    @property
    def banned_ids(self) -> frozenset[str]:
        """Ids of videos and clips that are never taken."""
        return frozenset().union(*(e.ids for e in self._excluded.values()))

    def close(self) -> None:
        """Remove what lies in the scratch folder."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def refuse(self, row: VideoRow, message: str) -> RowFault:
        """That a row which was given out cannot be used after all; it is counted as a fault."""
        if row.sources and row.sources[0] in self.counts:
            counts = self.counts[row.sources[0]]
            counts.videos -= 1
            counts.clips -= max(1, len(row.clips))
            counts.faults += 1
        return RowFault(row.location, message, {"clips": len(row.clips)}, *row.sources[:1])

    def __iter__(self) -> Iterator[VideoRow | RowFault]:
        if not self._several and (self._limit is not None or not self._scattered):
            rows = self._read()
            merged = self._window(rows) if self._scattered else rows
        else:
            merged = self._grouped()
        seen = 0
        for step in self._steps:
            # What could not be read there may be what must not be taken: that is told.
            for fault in self._excluded[step.id].faults:
                yield replace(fault, source=step.id)
        for row in merged:
            if isinstance(row, VideoRow):
                if self._limit is not None and seen >= self._limit:
                    return
                seen += 1
            yield row

    # ------------------------------------------------------------------ reading

    def _read(self) -> Iterator[VideoRow | RowFault]:
        """The rows of all sources, filtered."""
        self.counts = {step.id: SourceCounts() for step in self._steps}
        for step in self._steps:
            assert isinstance(step.operator, Source)
            counts = self.counts[step.id]
            for row in step.operator.videos():
                if isinstance(row, RowFault):
                    counts.faults += 1
                    yield replace(row, source=step.id)
                    continue
                named = keyed(row)
                if isinstance(named, RowFault):
                    counts.faults += 1
                    yield replace(named, source=step.id)
                    continue
                taken = self._taken(named, step.id, step.operator, counts)
                if taken is not None:
                    yield taken

    def _taken(
        self, row: VideoRow, source: str, operator: Source, counts: SourceCounts
    ) -> VideoRow | None:
        """The row with what passes; None where nothing of it does."""
        counts.videos += 1
        counts.clips += max(1, len(row.clips))
        excluded = self._excluded[source]
        if excluded.has_video(row):
            counts.excluded += max(1, len(row.clips))
            return None
        clips = []
        for clip in row.clips:
            if excluded.has_clip(clip):
                counts.excluded += 1
            elif not passes(operator.where, row.fields, clip.fields):
                counts.filtered += 1
            else:
                clips.append(clip)
        if row.clips and not clips:
            return None
        if not row.clips and not passes(operator.where, row.fields, {}):
            counts.filtered += 1
            return None
        names = self._columns[source]
        return replace(
            row,
            sources=(source,),
            fields=_renamed(row.fields, names),
            clips=tuple(
                replace(c, sources=(source,), fields=_renamed(c.fields, names)) for c in clips
            ),
        )

    # ------------------------------------------------------------------ bringing together

    def _grouped(self) -> Iterator[VideoRow | RowFault]:
        """Each video once, in the order of the first rows; on disk, whatever their number."""
        if self._store is None:
            self._store = RowStore(self._scratch)
            for number, row in enumerate(self._read()):
                name = f"\0{number}" if isinstance(row, RowFault) else name_of(row)
                self._store.add(name, row)
            self._counts_read = self.counts
            faults = sum(counts.faults for counts in self.counts.values())
            total = self._store.count() - faults
            self.total = total if self._limit is None else min(total, self._limit)
        self.counts = {name: replace(counts) for name, counts in self._counts_read.items()}
        for _, rows in self._store.groups():
            if isinstance(rows[0], RowFault):
                yield rows[0]
            else:
                yield from self._merged(rows)

    def _window(self, rows: Iterator[VideoRow | RowFault]) -> Iterator[VideoRow | RowFault]:
        """As `_grouped`, for the first videos only: rows far behind theirs are not looked for."""
        assert self._limit is not None
        waiting: OrderedDict[str, list[VideoRow]] = OrderedDict()
        for row in rows:
            if isinstance(row, RowFault):
                yield row
                continue
            waiting.setdefault(name_of(row), []).append(row)
            if len(waiting) >= self._limit + _LOOK_AHEAD:
                break
        for found in waiting.values():
            yield from self._merged(found)

    def _merged(self, rows: list[VideoRow]) -> Iterator[VideoRow | RowFault]:
        """One video of all its rows; what names a clip twice in one source is a fault."""
        first, *others = rows
        clips = _Clips(first.clips)
        fields, rights = dict(first.fields), dict(first.rights)
        named_by = {first.sources}
        for row in others:
            counts = self.counts[row.sources[0]]
            if row.sources in named_by:
                counts.videos -= 1
            named_by.add(row.sources)
            rights = {**row.rights, **rights}
            if not clips and not row.clips and row.sources == first.sources:
                counts.clips -= 1
                if _agree(ClipRow(fields=fields), ClipRow(fields=row.fields)):
                    fields = {**row.fields, **_known(fields)}
                else:
                    counts.faults += 1
                    message = "the video is named twice; the first row is taken"
                    yield RowFault(row.location, message, _plain(row.fields), row.sources[0])
                continue
            fields = {**row.fields, **_known(fields)}
            # Where one source names parts and another the whole, the whole is one more clip.
            if not clips:
                clips.add(ClipRow(sources=first.sources))
            for clip in row.clips or (ClipRow(sources=row.sources, fields=row.fields),):
                at = clips.place(clip)
                if at is None:
                    clips.add(clip)
                elif clip.sources[0] in clips[at].sources:
                    counts.clips -= 1
                    if not _agree(clips[at], clip):
                        counts.faults += 1
                        message = f"{_times(clip)} is named twice; the first row is taken"
                        says: dict[str, Any] = {
                            "start": clip.start,
                            "end": clip.end,
                            "caption": clip.caption,
                        }
                        says |= _plain(clip.fields)
                        # Tells this fault from those of the video's other clips.
                        says |= {"interval": [clip.start, clip.end, *(clip.frames or ())]}
                        yield RowFault(row.location, message, says, clip.sources[0])
                        continue
                    merged = {**clip.fields, **_known(clips[at].fields)}
                    caption = clips[at].caption or clip.caption
                    clips[at] = replace(clips[at], fields=merged, caption=caption)
                else:
                    clips[at] = _both(clips[at], clip)
                    counts.shared += 1
        sources = tuple(dict.fromkeys(s for row in rows for s in row.sources))
        yield replace(first, clips=tuple(clips), fields=fields, rights=rights, sources=sources)


class _Clips(list[ClipRow]):
    """The clips of one video; a long one may have thousands, so they are found by their start."""

    def __init__(self, clips: Iterable[ClipRow]) -> None:
        super().__init__()
        self._near: dict[int, list[int]] = {}
        for clip in clips:
            self.add(clip)

    def add(self, clip: ClipRow) -> None:
        """Put a clip behind the others."""
        self._near.setdefault(_spot(clip), []).append(len(self))
        self.append(clip)

    def place(self, clip: ClipRow) -> int | None:
        """Where the first clip is that has the same bounds."""
        spot = _spot(clip)
        near = sorted(i for s in (spot - 1, spot, spot + 1) for i in self._near.get(s, ()))
        return next((i for i in near if _same(self[i], clip)), None)


def _check_where(source: str, operator: Source) -> None:
    names = operator.dataset_schema().names if operator.where else []
    for name in operator.where:
        if name not in names:
            raise UserError(
                f"source {source}: where names the column {name!r}, which the dataset has not"
                f"{suggest(name, names)}; it has: {', '.join(names) or 'none'}"
            )


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[name]: value for name, value in fields.items() if name in names}


def _same(one: ClipRow, other: ClipRow) -> bool:
    if one.frames is not None or other.frames is not None:
        return (one.start, one.frames) == (other.start, other.frames)
    near = abs((one.start or 0.0) - (other.start or 0.0)) <= _SAME
    if one.end is None or other.end is None:
        return near and one.end is other.end
    return near and abs(one.end - other.end) <= _SAME


def _spot(clip: ClipRow) -> int:
    return math.floor((clip.start or 0.0) / (2 * _SAME))


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _agree(one: ClipRow, other: ClipRow) -> bool:
    """True where two rows of one dataset say nothing different of a clip."""
    mine, theirs = _known(one.fields), _known(other.fields)
    same = all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())
    return same and (None in (one.caption, other.caption) or one.caption == other.caption)


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As the quarantine's JSON holds it."""
    simple = str | int | float | bool | None
    return {name: v if isinstance(v, simple) else str(v)[:2000] for name, v in fields.items()}


def _both(first: ClipRow, other: ClipRow) -> ClipRow:
    """The clip as its first source has it, with what the other says beside it."""
    says = {"caption": other.caption, "dataset_id": other.dataset_id, "fields": other.fields}
    return replace(
        first,
        sources=(*first.sources, *other.sources),
        fields={**other.fields, **first.fields},
        also={
            **first.also,
            other.sources[0]: json.dumps(says, default=str, ensure_ascii=False, sort_keys=True),
        },
    )


def _times(clip: ClipRow) -> str:
    if clip.frames is not None:
        return f"the clip of frames {clip.frames[0]} to {clip.frames[1]}"
    if clip.start is None and clip.end is None:
        return "the whole video"
    end = "the end" if clip.end is None else f"{clip.end:g} s"
    return f"the clip from {clip.start or 0.0:g} s to {end}"
