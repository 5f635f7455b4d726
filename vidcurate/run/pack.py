"""The pack pass: a selection's clips, with their sources at hand, given to the packer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from vidcurate.acquire.fetch import Fetcher, cache_key
from vidcurate.acquire.limits import HostLimits
from vidcurate.clip import CLIP_FIELDS, QUARANTINE_SCHEMA, RIGHTS, source_fields
from vidcurate.errors import RunDirectoryError
from vidcurate.operator.base import Annotator, VideoRow
from vidcurate.operator.columns import column_name
from vidcurate.recipe.model import Recipe
from vidcurate.run import tables
from vidcurate.run.commit import Committer
from vidcurate.run.lease import Lease
from vidcurate.run.manifest import write_part
from vidcurate.run.pack_sources import Sources
from vidcurate.run.quarantine import quarantine_row
from vidcurate.run.tables import Run, literal, quoted
from vidcurate.shards.append import Hands, NoSourceError, PackFailure, Threads
from vidcurate.shards.pack import PackReport, pack_selection

_BATCH = 8192  # rows as Python objects at a time
_NUMBERS = ("bool", "int32", "int64", "float32", "float64")
_ARROW_NUMBERS = (pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64())


def pack(
    lease: Lease,
    recipe: Recipe,
    selection: str,
    *,
    workers: int,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Bring the shards in OUT/shards/<selection> to hold one selection.

    Only sources of clips that the shards lack are asked for. Clips whose source cannot be had or
    that cannot be cut go to the quarantine (stage `pack`); the others are packed.

    Args:
        lease: of the run directory, held. recipe: with a pack section.
        workers: child processes that cut at a time. cache: where downloads are kept.
        progress: called with (clips that came to an end, clips to cut).

    Raises:
        RunDirectoryError: there is no such selection, or the shards cannot be written.
        NoSourceError: none of the sources can be had; what was packed before stays.
        UserError: the Ray cluster cannot be reached, or its workers keep dying.
    """
    assert recipe.pack is not None
    if not (lease.out / "selections" / selection / "selection.yaml").is_file():
        raise RunDirectoryError(
            f"{lease.out} has no selection {selection!r}; run `vidcurate select {lease.out}` first"
        )
    with tables.open(lease.out) as run:
        before = _faults_before(run)
        clips = _selected(run, recipe, selection)
    try:
        with _hands(recipe, lease.out, workers, cache) as hands:
            report = pack_selection(
                clips,
                recipe.pack,
                lease.out / "shards" / selection,
                workers=workers,
                limits=recipe.limits,
                progress=progress,
                hands=hands,
            )
    except NoSourceError as error:
        _record(lease, selection, error.failures, before)
        raise
    _record(lease, selection, report.failures, before)
    return report


@contextmanager
def _hands(recipe: Recipe, out: Path, workers: int, cache: Path) -> Iterator[Hands]:
    """Who cuts and writes: this machine, or the cluster that the recipe names."""
    assert recipe.pack is not None
    sources = Sources(out, recipe.acquire, cache, frozenset(_own_columns(recipe)))
    if recipe.executor == "ray":
        from vidcurate.run.pack_on_ray import RayHands

        with RayHands(recipe.pack, recipe.limits, sources, recipe.address) as hands:
            yield hands
    else:
        locate = sources.locator(HostLimits())
        yield Threads(recipe.pack, recipe.limits, workers, locate)


def _schema(run: Run, recipe: Recipe) -> pa.Schema:
    text = pa.map_(pa.string(), pa.string())
    # What steps found stands in the maps alone: a million rows are to be small.
    kept = {f.name for f in CLIP_FIELDS} - {"fingerprints", "also"} | _own_columns(recipe)
    return pa.schema(
        [
            *(field for field in run.schema("clips") if field.name in kept),
            *(pa.field(name, pa.string()) for name in ("location", "source_key", "content_id")),
            *(pa.field(name, pa.string()) for name in ("video_own_id", "split")),
            pa.field("captions", text),
            pa.field("scores", pa.map_(pa.string(), pa.float64())),
            pa.field("rights", text),
            pa.field("out_width", pa.int32()),
            pa.field("out_height", pa.int32()),
        ]
    )


def _selected(run: Run, recipe: Recipe, selection: str) -> pa.Table:
    """The selected clips as the packer and `Sources` want them."""
    rights = ", ".join(f"v.{name}" for name in RIGHTS)
    rows = run.sql(
        "SELECT c.*, v.location, v.source_key, v.dataset_id AS video_own_id, v.content_id, "
        f"{rights}, s.split "
        f"FROM {quoted(f'selection_{selection}')} s JOIN clips c USING (clip_id) "
        "JOIN videos v ON v.video_id = c.video_id WHERE s.fate = 'kept' "
        "ORDER BY c.video_id, c.clip_id"
    )
    numbers = [
        name
        for step in (*recipe.score, *recipe.group, *recipe.annotate)
        for name, spec in step.outputs.items()
        if spec.dtype in _NUMBERS
    ]
    captions = caption_names(recipe)
    own = sorted(_own_columns(recipe) & set(rows.column_names))
    numbers += [c for c in own if rows.schema.field(c).type in _ARROW_NUMBERS]
    schema = _schema(run, recipe)
    parts = [schema.empty_table()]
    for batch in rows.to_batches(_BATCH):
        found = batch.to_pylist()
        for row in found:
            width, height = row["width"], row["height"]
            for editor in recipe.editors:
                width, height = editor.size(width, height)
            same = (width, height) == (row["width"], row["height"])
            row["captions"] = [
                (name, row[column])
                for column, name in captions.items()
                if row.get(column) is not None
            ]
            row["scores"] = [(c, float(row[c])) for c in numbers if row.get(c) is not None]
            row["rights"] = [(n, row.pop(n)) for n in RIGHTS]
            row["out_width"], row["out_height"] = (None, None) if same else (width, height)
        parts.append(pa.Table.from_pylist(found, schema))
    return pa.concat_tables(parts)


def caption_names(recipe: Recipe) -> dict[str, str]:
    """The columns that hold captions, with their names in the index.

    They are the dataset's own caption, its further columns that begin with `caption_`, and what
    annotate steps declare by `captions`. The name is the column's without `caption_`:
    `caption_source` is "source", `caption_long` "long", `rewrite` "rewrite". Where a column is
    called "long", `caption_long` keeps its whole name.
    """
    fields = {f.name: f for of in source_fields(recipe).values() for f in of.values()}
    own = sorted(
        name
        for name, field in fields.items()
        if name.startswith("caption_") and field.type in (pa.string(), pa.large_string())
    )
    said = [
        column_name(step.id, field)
        for step in recipe.annotate
        if isinstance(step.operator, Annotator)
        for field in step.operator.captions()
    ]
    columns = ["caption_source", *own, *said]
    short = {column: column.removeprefix("caption_") for column in columns}
    return {c: c if name in columns else name for c, name in short.items()}


def _own_columns(recipe: Recipe) -> set[str]:
    """The datasets' own columns of the clip table."""
    return {f.name for fields in source_fields(recipe).values() for f in fields.values()}


def _faults_before(run: Run) -> dict[str, str]:
    """Quarantine rows of earlier packs: id -> selection."""
    rows = run.sql(
        f"SELECT id, payload FROM quarantine WHERE stage = {literal('pack')}"
    ).to_pylist()
    return {r["id"]: json.loads(r["payload"])["selection"] for r in rows}


def _record(
    lease: Lease, selection: str, failures: Sequence[PackFailure], before: Mapping[str, str]
) -> None:
    """Replace what the quarantine says of this selection's pack."""
    rows = [
        quarantine_row(
            stage="pack",
            error=type(failure.error).__name__,
            message=str(failure.error),
            transient=failure.error.is_transient,
            attempts=1,
            video=failure.video_id,
            clip=failure.clip_id,
            operator=selection,
            payload={"selection": selection},
        )
        for failure in failures
    ]
    old = [i for i, name in before.items() if name == selection]
    if not rows and not old:
        return
    parts = {}
    if rows:
        data = pa.Table.from_pylist(rows, QUARANTINE_SCHEMA)
        parts["quarantine"] = [write_part(lease.out, "quarantine", data)]
    Committer(lease).commit("pack", parts, {"quarantine": old})


def forget_downloads(run: Run, recipe: Recipe, cache: Path) -> int:
    """Remove the downloads of a run's videos (`keep_sources: until_packed`); gives their number."""
    fetcher = Fetcher(recipe.acquire, cache, HostLimits(), threading.Event())
    rows = run.sql("SELECT location, source_key FROM videos").to_pylist()
    return sum(
        fetcher.forget(cache_key(VideoRow(row["location"], key=row["source_key"]))) for row in rows
    )
