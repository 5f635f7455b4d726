"""The commands that work on a run: run, score, select, pack, report, status, retry, sql, plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcurate.cli.output import print_json, print_table
from vidcurate.cli.recipes import Input, Json, OperatorFiles, Output, Overrides
from vidcurate.errors import UserError

if TYPE_CHECKING:
    from vidcurate.recipe.model import Recipe
    from vidcurate.run.passes import Session
    from vidcurate.run.score import Retry, ScoreResult

RecipeOrFolder = Annotated[
    Path, typer.Argument(metavar="RECIPE|FOLDER", help="A recipe, or a folder of videos.")
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The run directory.")]
NewRecipe = Annotated[
    Path | None, typer.Option("--recipe", help="Replaces the recipe that the run recorded.")
]
Executor = Annotated[
    str | None, typer.Option("--executor", metavar="inline|ray", help="Where the work is done.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster to join (implies ray).")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first that many videos.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what the output holds.")]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def run(
    recipe: RecipeOrFolder,
    input: Input = None,
    output: Output = None,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    operators: OperatorFiles = [],  # noqa: B006
    executor: Executor = None,
    address: Address = None,
    limit: Limit = None,
    fresh: Fresh = False,
) -> None:
    """Do all that a recipe names: score, group, select, annotate, pack, report."""
    checked = _load(
        recipe,
        input=input,
        output=output,
        overrides=overrides,
        operators=operators,
        executor=executor,
        address=address,
    )
    from vidcurate.run import passes

    with passes.session(checked, checked.output, fresh=fresh) as work:
        result = _score(work, limit)
        if result.interrupted:
            typer.echo("stopped; what was done is committed. Run again to go on.", err=True)
        else:
            reports = passes.run_select(work)
            packed = passes.run_pack(work) if checked.pack is not None else {}
            page = passes.run_report(work)
            _print_summary(work, result, reports, packed, page)
        failed = not result.interrupted and passes.every_video_failed(work.out)
        if failed:
            work.record.state = "failed"
    _leave(interrupted=result.interrupted, failed=failed)


def score(
    recipe: RecipeOrFolder,
    input: Input = None,
    output: Output = None,
    overrides: Overrides = [],  # noqa: B006
    operators: OperatorFiles = [],  # noqa: B006
    executor: Executor = None,
    address: Address = None,
    limit: Limit = None,
    fresh: Fresh = False,
) -> None:
    """The score pass alone: videos to scored clips."""
    checked = _load(
        recipe,
        input=input,
        output=output,
        overrides=overrides,
        operators=operators,
        executor=executor,
        address=address,
    )
    from vidcurate.run import passes

    with passes.session(checked, checked.output, fresh=fresh) as work:
        result = _score(work, limit)
        failed = not result.interrupted and passes.every_video_failed(work.out)
        if failed:
            work.record.state = "failed"
    _leave(interrupted=result.interrupted, failed=failed)


def select(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Apply thresholds and selections to the scored clips; seconds."""
    from vidcurate.run import passes

    with passes.session(_recipe_of(out, recipe, overrides), out) as work:
        reports = passes.run_select(work)
        chosen = work.record.passes["select"]["selections"]
    if json:
        print_json(chosen)
        return
    for name, report in reports.items():
        _print_selection(name, report)


def pack(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
    selection: Annotated[
        str | None, typer.Option("--selection", help="Only this one; default all.")
    ] = None,
    json: Json = False,
) -> None:
    """Pack the selected clips into bucketed tar shards with an index."""
    from vidcurate.run import passes

    checked = _recipe_of(out, recipe, overrides)
    if checked.pack is None:
        raise UserError("the recipe has no `pack` section; add one, for example pack: {}")
    with passes.session(checked, out) as work:
        packed = passes.run_pack(work, only=selection)
    if json:
        print_json({name: passes.plain_pack(report) for name, report in packed.items()})
        return
    for name, report in packed.items():
        _print_pack(work, name, report)


def group(out: Out, recipe: NewRecipe = None) -> None:
    """The group pass: operators that see all clips at once."""
    _empty_pass(out, recipe, "group")


def annotate(out: Out, recipe: NewRecipe = None) -> None:
    """The annotate pass: dear columns for the selected clips."""
    _empty_pass(out, recipe, "annotate")


def report(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write OUT/report.html anew."""
    from vidcurate.run import passes

    with passes.session(_recipe_of(out, recipe, overrides), out) as work:
        page = passes.run_report(work)
    typer.echo(f"report: {page}")


def status(out: Out, json: Json = False) -> None:
    """What a run holds: videos, clips and quarantine, also while it is running."""
    from vidcurate.run import tables
    from vidcurate.run.record import read_record

    record = read_record(out)
    with tables.open(out) as opened:
        counts = tables.summary(opened)
    if json:
        print_json(
            {"state": record.state if record else None, "name": record.name if record else None}
            | counts
        )
        return
    if record is not None:
        typer.echo(f"{record.name}: {record.state}")
    for what in ("videos", "clips"):
        parts = ", ".join(f"{n} {state}" for state, n in counts[what].items())
        typer.echo(f"{what}: {parts or 'none'}")
    if counts["quarantine"]:
        rows = [
            (r["stage"], r["error"], "transient" if r["transient"] else "permanent", r["count"])
            for r in counts["quarantine"]
        ]
        print_table(["stage", "error", "kind", "count"], rows)
        typer.echo(f"try again: vidcurate retry {out}  (--all for permanent ones too)")


def retry(
    out: Out,
    everything: Annotated[
        bool, typer.Option("--all", help="Permanent failures too, not only transient ones.")
    ] = False,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Try again what is in the quarantine."""
    from vidcurate.run import passes
    from vidcurate.run.score import Retry

    with passes.session(_recipe_of(out, recipe, overrides), out) as work:
        result = _score(work, None, Retry(everything))
    typer.echo(
        f"{result.stats.videos} videos tried again: {result.stats.clips} clips scored, "
        f"{result.stats.failed} videos failed again"
    )
    _leave(interrupted=result.interrupted, failed=False)


def sql(
    out: Out,
    query: Annotated[str, typer.Argument(help="A SELECT over clips, videos, quarantine, ...")],
    json: Json = False,
) -> None:
    """Query a run's tables with DuckDB's SQL; nothing else can be read or written."""
    from vidcurate.run import tables

    with tables.open(out) as opened:
        rows = opened.sql(query)
    if json:
        print_json(rows.to_pylist())
        return
    print_table(rows.column_names, (row.values() for row in rows.to_pylist()))


def plan(
    recipe: RecipeOrFolder,
    input: Input = None,
    output: Output = None,
    overrides: Overrides = [],  # noqa: B006
    operators: OperatorFiles = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Show the stages of a recipe, the frames they ask for, and what would run again and why."""
    from vidcurate.run.explain import explain

    checked = _load(recipe, input=input, output=output, overrides=overrides, operators=operators)
    plan = explain(checked)
    if json:
        print_json(plan)
        return
    for stage in plan["stages"]:
        typer.echo(f"{stage['pass']}: {stage['what']}")
    print_table(
        ["step", "operator", "frames", "fingerprint", "to do"],
        [
            (s["step"], s["operator"], s["frames"], s["fingerprint"], s["todo"])
            for s in plan["steps"]
        ],
    )
    for line in plan["work"]:
        typer.echo(line)


# --------------------------------------------------------------------------- parts of commands


def _load(recipe: Path, **changes: Any) -> Recipe:
    from vidcurate.recipe.load import load, preset

    if recipe.is_dir():
        changes["output"] = changes.get("output")
        folder = changes.pop("input", None) or recipe
        return preset(folder, **changes)
    return load(recipe, **changes)


def _recipe_of(out: Path, recipe: Path | None, overrides: list[str]) -> Recipe:
    from vidcurate.recipe.load import load
    from vidcurate.run.passes import recorded_recipe

    if recipe is None:
        return recorded_recipe(out, overrides=overrides)
    return load(recipe, overrides=overrides, output=str(out))


def _score(work: Session, limit: int | None, retry: Retry | None = None) -> ScoreResult:
    from vidcurate.cli.progress import scoring
    from vidcurate.run.passes import run_score

    with scoring(work.recipe, limit) as update:
        return run_score(work, limit=limit, retry=retry, on_progress=update)


def _empty_pass(out: Path, recipe: Path | None, name: str) -> None:
    checked = _recipe_of(out, recipe, [])
    steps = getattr(checked, name)
    assert not steps, f"no {name} operator exists, so a recipe cannot name one"
    typer.echo(f"the recipe names no {name} steps: nothing to do")


def _leave(*, interrupted: bool, failed: bool) -> None:
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if failed:
        typer.echo("every video failed; see `vidcurate status`", err=True)
        raise typer.Exit(EXIT_FAILED)


def _print_summary(
    work: Session, result: ScoreResult, reports: Any, packed: Any, page: Path
) -> None:
    from vidcurate.run import tables

    with tables.open(work.out) as opened:
        counts = tables.summary(opened)
    videos, total = counts["videos"], work.record.passes["score"]
    rows: list[tuple[str, object]] = [("videos", sum(videos.values()))]
    if videos.get("failed"):
        rows.append(("  failed", videos["failed"]))
    rows.append(("clips", sum(counts["clips"].values())))
    for name, chosen in reports.items():
        title = "" if len(reports) == 1 else f" ({name})"
        rows.append((f"kept{title}", f"{chosen.kept} ({chosen.hours * 60:.1f} min)"))
        rows += [(f"  dropped: {by}: {why}", n) for (by, why), n in chosen.dropped.items()]
        rows.append((f"failed{title}", chosen.failed))
        if chosen.unjudged:
            rows.append((f"unjudged{title}", chosen.unjudged))
    rows.append(("quarantine", sum(r["count"] for r in counts["quarantine"])))
    if total.get("cpu_s"):
        rows.append(("seconds of video per CPU second", f"{total['video_s'] / total['cpu_s']:.1f}"))
    print_table(["", ""], rows)
    if result.skipped:
        typer.echo(f"{result.skipped} videos were done before")
    for name, done in packed.items():
        _print_pack(work, name, done)
    typer.echo(f"report: {page}")


def _print_selection(name: str, report: Any) -> None:
    typer.echo(f"{name}: {report.kept} of {report.clips} clips kept, {report.hours * 60:.1f} min")
    for (by, why), n in report.dropped.items():
        typer.echo(f"  dropped by {by}: {why}: {n}")
    typer.echo(f"  failed: {report.failed}, unjudged: {report.unjudged}")
    if report.unjudged:
        typer.echo("  `vidcurate run` scores the unjudged clips")


def _print_pack(work: Session, name: str, report: Any) -> None:
    folder = work.out / "shards" / name
    typer.echo(f"shards: {folder}: {report.samples} samples in {report.shards} shards")
