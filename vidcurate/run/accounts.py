"""What became of the clips that each dataset names: expected, obtained, lost and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vidcurate.recipe.override import step_name
from vidcurate.run.tables import Run

REASONS: Mapping[str, str] = {
    "VideoGoneError": "removed or not found",
    "VideoPrivateError": "private",
    "VideoRegionError": "not shown in this region",
    "OptOutError": "opted out by its host",
    "ThrottledError": "throttled by its host",
    "TransferError": "transfer broken off",
    "AcquireError": "not to be had",
    "RefusedMediaError": "no video",
    "UnsupportedMediaError": "unsupported media",
    "DecodeError": "not decodable",
    "IntervalError": "no frames at these times",
    "WorkerCrashError": "crashes the decoder",
    "WorkerTimeoutError": "takes too long",
    "WorkerMemoryError": "takes too much memory",
}
"""Class of the error -> what people call it; others stand under their own name."""


@dataclass
class Account:
    """One source step. Counts are of clips as its metadata names them (a whole video is one).

    named: in all the metadata, each once; None where it was not read to its end. filtered,
    excluded, shared: of these, left out by `where` and `exclude`, or named by an earlier source,
    too: such a clip is acquired once and counts as that one's, so that sources can be summed.
    faults: rows of the metadata that could not be used, whose clips are none of the named.
    expected: of the videos that were tried. lost: of these, by reason.

    After a complete run named - filtered - excluded - shared = expected = obtained + lost. A run
    keeps what it has when less is named later (another `where`), and is then expected to have
    more; less where something was purged since.
    """

    source: str
    named: int | None = None
    filtered: int = 0
    excluded: int = 0
    shared: int = 0
    faults: int = 0
    expected: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    @property
    def obtained(self) -> int:
        """Of the expected, those whose video could be had and decoded at their times."""
        return self.expected - sum(self.lost.values())

    @property
    def plain(self) -> dict[str, Any]:
        """All counts, for `--json`."""
        return asdict(self) | {"obtained": self.obtained}


def has_datasets(recipe: Mapping[str, Any]) -> bool:
    """True where a source is more than a folder, whose files are all there is to count.

    Args:
        recipe: its data as written (`Recipe.raw`, or of run.json).
    """
    given = recipe.get("source")
    entries = given if isinstance(given, list) else [given]
    return any(step_name(entry) not in ("folder", None) for entry in entries)


def accounts(run: Run, passes: Mapping[str, Any]) -> list[Account]:
    """The accounts of a run's sources, in the recipe's order as far as that is known.

    Args:
        run: the committed tables. passes: of run.json; what the sources named stands there.
    """
    read = (passes.get("score") or {}).get("sources") or {}
    found = {name: Account(name) for name in read}
    for name, counts in read.items():
        account = found[name]
        account.named = counts["clips"]
        account.filtered, account.excluded = counts["filtered"], counts["excluded"]
        account.shared, account.faults = counts["shared"], counts["faults"]
    for row in run.sql(_EXPECTED).to_pylist():
        account = found.setdefault(row["source"], Account(row["source"]))
        account.expected = row["clips"]
    for row in run.sql(_LOST).to_pylist():
        account = found.setdefault(row["source"], Account(row["source"]))
        reason = REASONS.get(row["error"], row["error"])
        account.lost[reason] = account.lost.get(reason, 0) + row["clips"]
    return list(found.values())


_NAMED = (
    "SELECT video_id, state, source AS first, unnest(map_keys(expected)) AS source, "
    "unnest(map_values(expected)) AS clips FROM videos"
)
_EXPECTED = f"SELECT source, sum(clips)::BIGINT AS clips FROM ({_NAMED}) GROUP BY ALL ORDER BY 1"
# A failed video loses all that is named of it; of another, single intervals may be missed.
_LOST = (
    f"WITH named AS ({_NAMED}), why AS ("
    "SELECT video_id, min(error) AS error FROM quarantine "
    "WHERE clip_id IS NULL AND stage IN ('acquire', 'decode', 'score') GROUP BY video_id) "
    "SELECT source, coalesce(error, 'unknown') AS error, sum(clips)::BIGINT AS clips "
    "FROM named LEFT JOIN why USING (video_id) WHERE state = 'failed' GROUP BY ALL "
    "UNION ALL "
    "SELECT coalesce(q.payload->>'$.source', v.source) AS source, q.error, count(*) "
    "FROM quarantine q JOIN videos v USING (video_id) "
    "WHERE q.stage = 'split' AND q.clip_id IS NULL AND v.state <> 'failed' GROUP BY ALL "
    "ORDER BY 1, 3 DESC, 2"
)
