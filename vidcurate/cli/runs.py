"""The commands that work on a run: run, score, select, pack, report, status, retry, sql, plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcurate.cli import summary
from vidcurate.cli.output import print_error, print_json, print_table
from vidcurate.cli.recipes import Input, Json, OperatorFiles, Output, Overrides, missing_extras
from vidcurate.errors import MissingExtraError, UserError, is_interrupt

if TYPE_CHECKING:
    from vidcurate.recipe.model import Recipe
    from vidcurate.run.accounts import Account
    from vidcurate.run.group import GroupReport, StepReport
    from vidcurate.run.passes import Session
    from vidcurate.run.record import RunRecord
    from vidcurate.run.score import Retry, ScoreResult

RecipeOrFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="A recipe, a folder of videos, or a run directory to go on with.",
    ),
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
EXIT_PAUSED = 3
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
    checked = load_recipe(
        recipe,
        input=input,
        output=output,
        overrides=overrides,
        operators=operators,
        executor=executor,
        address=address,
    )
    from vidcurate.cli.progress import packing
    from vidcurate.run import passes

    checked = _check_ready(checked, fresh=fresh)
    with _opened(checked, checked.output, fresh=fresh) as work:
        result = _score(work, limit)
        if checked.group and not result.interrupted:
            _group(work)
        if checked.annotate and not result.interrupted:
            passes.run_select(work)
            result = _annotate(work)
        if not result.interrupted:
            reports = passes.run_select(work)
            packed = {}
            if checked.pack is not None:
                with packing() as update:
                    packed = passes.run_pack(work, progress=update)
            page = passes.run_report(work)
            _print_run(work, reports, packed, page)
        failed = _failed(work)
    _leave(work, result, failed)


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
    checked = load_recipe(
        recipe,
        input=input,
        output=output,
        overrides=overrides,
        operators=operators,
        executor=executor,
        address=address,
    )
    checked = _check_ready(checked, fresh=fresh)
    with _opened(checked, checked.output, fresh=fresh) as work:
        result = _score(work, limit)
        if not result.interrupted:
            counts = _counts(work.out)
            speed = summary.speed(work.record.passes["score"])
            _echo(summary.aligned([*_datasets(work), *summary.scored(counts), *speed]))
            _echo(summary.memory(work.record.passes["score"]))
            _echo(summary.hints(work.out, counts, {}))
            typer.echo(f"\nnext: vidcurate {'group' if checked.group else 'select'} {work.out}")
        failed = _failed(work)
    _leave(work, result, failed)


def select(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Apply thresholds and selections to the scored clips; seconds."""
    from vidcurate.run import passes

    with _opened(_recipe_of(out, recipe, overrides), out) as work:
        reports = passes.run_select(work)
        chosen = work.record.passes["select"]["selections"]
        counts = _counts(work.out)
    if json:
        print_json(chosen)
        return
    clips = ("clips", sum(counts["clips"].values()))
    _echo(summary.aligned([clips, (), *summary.selected(reports)]))
    _echo(summary.hints(work.out, {"quarantine": []}, reports))
    if work.recipe.pack is not None:
        typer.echo(f"\nnext: vidcurate pack {work.out}")


def pack(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
    selection: Annotated[
        str | None, typer.Option("--selection", help="Only this one; default all.")
    ] = None,
    executor: Executor = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Pack the selected clips into bucketed tar shards with an index; again: only what changed."""
    from vidcurate.cli.progress import packing
    from vidcurate.run import passes

    checked = _recipe_of(out, recipe, overrides, executor=executor, address=address)
    if checked.pack is None:
        raise UserError("the recipe has no `pack` section; add one, for example pack: {}")
    with _opened(checked, out) as work, packing() as update:
        packed = passes.run_pack(work, only=selection, progress=update)
    if json:
        print_json({name: passes.plain_pack(report) for name, report in packed.items()})
    else:
        _echo(summary.packed(packed))
        if any(r.failures for r in packed.values()):
            typer.echo(f"why they could not be cut: vidcurate status {out}")
    if any(r.failures for r in packed.values()) and not any(r.samples for r in packed.values()):
        print_error(f"no clip could be cut; see `vidcurate status {out}`")
        raise typer.Exit(EXIT_FAILED)


def group(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Group all clips again.")] = False,
    json: Json = False,
) -> None:
    """The group pass: duplicates and clusters among all clips; only new ones are compared."""
    checked = _recipe_of(out, recipe, overrides)
    if not checked.group:
        typer.echo("the recipe names no group steps: nothing to do")
        return
    refuse_missing(checked)
    with _opened(checked, out) as work:
        report = _group(work, fresh=fresh)
        steps = work.record.passes["group"]["steps"]
    if json:
        print_json(steps)
        return
    _echo(summary.aligned(summary.grouped(report)))
    typer.echo(f"\nnext: vidcurate select {work.out}")


def annotate(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
    executor: Executor = None,
    address: Address = None,
) -> None:
    """The annotate pass: dear columns for the clips that a selection would keep."""
    checked = _recipe_of(out, recipe, overrides, executor=executor, address=address)
    if not checked.annotate:
        typer.echo("the recipe names no annotate steps: nothing to do")
        return
    refuse_missing(checked)
    with _opened(checked, out) as work:
        result = _annotate(work)
        if not result.interrupted:
            clips = summary.count(result.stats.clips, "clip")
            typer.echo(f"{clips} annotated" if result.stats.clips else "nothing to annotate")
            _echo(summary.hints(work.out, _counts(work.out), {}))
            typer.echo(f"\nnext: vidcurate select {work.out}")
        failed = _failed(work)
    _leave(work, result, failed)


def report(
    out: Out,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write OUT/report.html anew."""
    from vidcurate.run import passes

    with _opened(_recipe_of(out, recipe, overrides), out) as work:
        page = passes.run_report(work)
    typer.echo(f"report  {page}")


def status(out: Out, json: Json = False) -> None:
    """What a run holds: videos, clips and quarantine, also while it is running."""
    from vidcurate.run.lease import is_held
    from vidcurate.run.record import read_record

    counts = _counts(out)
    record = read_record(out)
    state = record.state if record else None
    if state == "running" and not is_held(out):
        state = "interrupted"  # killed: nobody was left to write it down
    datasets = _accounts(out, record)
    if json:
        name = record.name if record else None
        paused = record.paused if record else None
        plain = {account.source: account.plain for account in datasets}
        print_json({"state": state, "name": name, "paused": paused, "datasets": plain} | counts)
        return
    if record is not None:
        typer.echo(f"{record.name}: {state}{_remark(state, record.recipe, out)}")
        if record.paused is not None:
            typer.echo(f"paused: {record.paused}")
    for what in ("videos", "clips"):
        parts = ", ".join(f"{n} {word}" for word, n in counts[what].items())
        typer.echo(f"{what}: {parts or 'none'}")
    for name, chosen in (
        (record.passes.get("select", {}) if record else {}).get("selections", {}).items()
    ):
        typer.echo(f"selection {name}: {chosen['kept']} of {chosen['clips']} clips kept")
    if datasets:
        typer.echo("")
        _echo(summary.aligned(summary.datasets(datasets)))
    if counts["quarantine"]:
        rows = [
            (r["stage"], r["error"], "transient" if r["transient"] else "permanent", r["count"])
            for r in counts["quarantine"]
        ]
        typer.echo("")
        print_table(["in the quarantine", "error", "kind", "count"], rows)
        typer.echo(
            f"why:       vidcurate sql {out} 'SELECT location, message FROM quarantine'\n"
            f"try again: vidcurate retry {out}  (--all: permanent ones too)"
        )


def retry(
    out: Out,
    everything: Annotated[
        bool, typer.Option("--all", help="Permanent failures too, not only transient ones.")
    ] = False,
    recipe: NewRecipe = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Try again what is in the quarantine."""
    from vidcurate.run.score import Retry

    checked = _recipe_of(out, recipe, overrides)
    refuse_missing(checked)
    checked = fetch_weights(checked)
    with _opened(checked, out) as work:
        result = _score(work, None, Retry(everything))
        stats, annotated, faults = result.stats, 0, 0
        if checked.annotate and not result.interrupted:
            result = _annotate(work, Retry(everything))
            annotated, faults = result.stats.clips, result.stats.quarantined
        if not result.interrupted:
            left = _counts(work.out)["quarantine"]
            if stats.videos:
                typer.echo(
                    f"{summary.count(stats.videos, 'video')} tried again: "
                    f"{summary.count(stats.clips, 'clip')} scored, {stats.failed} failed again"
                )
            if annotated:
                came = summary.count(faults, "failure") + " again" if faults else "annotated"
                typer.echo(f"{summary.count(annotated, 'clip')} tried again: {came}")
            elif not stats.videos:
                typer.echo("nothing to try again")
            if transient := sum(r["count"] for r in left if r["transient"]):
                typer.echo(f"{transient} in the quarantine may still succeed: retry later")
            permanent = sum(r["count"] for r in left if not r["transient"])
            if not everything and permanent:
                typer.echo(f"{permanent} in the quarantine are permanent: --all tries them too")
            if stats.clips or annotated:
                typer.echo(f"\nnext: vidcurate select {work.out}")
        failed = _failed(work)
    _leave(work, result, failed)


def sql(
    out: Out,
    query: Annotated[str, typer.Argument(help="A SELECT over clips, videos, quarantine, ...")],
    json: Json = False,
) -> None:
    """Query a run's tables with DuckDB's SQL; nothing else can be read or written."""
    import signal

    from vidcurate.run import tables

    # Nothing is written, so Ctrl-C may end it at once: DuckDB 2.0 can hang for ever when Python's
    # own handler interrupts a query.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with tables.open(out) as opened:
            rows = opened.sql(query)
    finally:
        signal.signal(signal.SIGINT, before)
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

    checked = load_recipe(
        recipe, input=input, output=output, overrides=overrides, operators=operators
    )
    plan = explain(checked)
    if json:
        print_json(plan)
        return
    for stage in plan["stages"]:
        typer.echo(f"{stage['pass']:7} {stage['what']}")
    typer.echo("")
    print_table(
        ["step", "operator", "frames", "fingerprint", "to do"],
        [
            (s["step"], s["operator"], s["frames"], s["fingerprint"], s["todo"])
            for s in plan["steps"]
        ],
    )
    typer.echo("")
    _echo(plan["work"])


# --------------------------------------------------------------------------- parts of commands


def load_recipe(recipe: Path, *, input: str | None, output: str | None, **changes: Any) -> Recipe:
    """The recipe of a RECIPE|FOLDER argument; a run directory stands for its own recipe."""
    from vidcurate.recipe.load import load, preset
    from vidcurate.run.passes import recorded_recipe

    # Recorded in the run directory: it has to mean the same from another folder.
    if input is not None and Path(input).expanduser().exists():
        input = str(Path(input).expanduser().absolute())
    if (recipe / "run.json").is_file():
        return recorded_recipe(recipe, input=input, output=output or str(recipe), **changes)
    if recipe.is_dir():
        return preset(input or recipe.absolute(), output=output, **changes)
    if not recipe.suffix and not recipe.exists():
        raise UserError(f"there is no recipe or folder {recipe}")
    return load(recipe, input=input, output=output, **changes)


def _recipe_of(out: Path, recipe: Path | None, overrides: list[str], **changes: Any) -> Recipe:
    from vidcurate.recipe.load import load
    from vidcurate.run import tables
    from vidcurate.run.passes import recorded_recipe

    if recipe is None:
        return recorded_recipe(out, overrides=overrides, **changes)
    tables.open(out).close()  # these commands make no new run directory
    return load(recipe, overrides=overrides, output=str(out), **changes)


def _check_ready(recipe: Recipe, *, fresh: bool) -> Recipe:
    """Refuse, before anything is written, what could not get anywhere; fetch weights.

    Raises:
        UserError: the source cannot be read, or has no videos and the run holds none either.
        MissingExtraError: a step needs a package that is not installed.
        QueryError: a selection's condition is wrong.
        ModelError: weights cannot be had.
    """
    from vidcurate.intake.videos import Intake
    from vidcurate.run.record import read_record
    from vidcurate.select import check

    refuse_missing(recipe)
    is_new = fresh or read_record(recipe.output) is None
    if is_new:  # a run's table may have columns of earlier recipes: there select itself tells
        check(recipe)
    Intake(recipe).close()
    for step, source in zip(recipe.sources, recipe.source_operators, strict=True):
        if next(iter(source.videos()), None) is None and is_new:
            where = getattr(source, source.input_field)
            raise UserError(f"source {step.id}: there are no videos in {where}")
    return fetch_weights(recipe)


def fetch_weights(recipe: Recipe) -> Recipe:
    """The recipe with its weights on this machine; says what is downloaded.

    Raises:
        ModelError: some cannot be had.
    """
    from vidcurate.run.weights import with_weights

    return with_weights(recipe, lambda ref: typer.echo(f"fetching the model {ref.name}", err=True))


def refuse_missing(recipe: Recipe) -> None:
    missing = [
        f"{', '.join(packages)} not installed, which this recipe needs: "
        f"pip install 'vidcurate[{extra}]'"
        for extra, packages in missing_extras(recipe)
    ]
    if missing:
        raise MissingExtraError("\n".join(missing))


@contextmanager
def _opened(recipe: Recipe, out: str | Path, *, fresh: bool = False) -> Iterator[Session]:
    """A session that Ctrl-C and a reached budget leave with a sentence on how to go on."""
    from vidcurate.run import passes
    from vidcurate.run.budget import BudgetReachedError

    try:
        with passes.session(recipe, out, fresh=fresh) as work:
            yield work
    except BudgetReachedError as error:
        typer.echo(f"paused: {error}\n{_how_to_go_on(out)}", err=True)
        raise typer.Exit(EXIT_PAUSED) from error
    except (KeyboardInterrupt, RuntimeError) as error:
        if not is_interrupt(error):
            raise
        typer.echo(_how_to_go_on(out), err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from error


def _how_to_go_on(out: str | Path) -> str:
    return f"stopped; what is committed is kept. Go on with: vidcurate run {out}"


def _score(work: Session, limit: int | None, retry: Retry | None = None) -> ScoreResult:
    from vidcurate.cli.progress import scoring
    from vidcurate.run.passes import run_score

    def told() -> None:
        typer.echo("stopping: what was done is being committed; Ctrl-C again ends now", err=True)

    with scoring(work.recipe, limit, counted=retry is None) as update:
        result = run_score(work, limit=limit, retry=retry, on_progress=update, on_stop=told)
    if result.skipped and not retry:
        typer.echo(f"{summary.count(result.skipped, 'video')} done before", err=True)
    return result


def _group(work: Session, *, fresh: bool = False) -> GroupReport:
    from vidcurate.run.passes import run_group

    def told(step: str, done: StepReport | None) -> None:
        if done is None:
            typer.echo(f"group: {step}", err=True)
        elif not done.ran:
            typer.echo(f"group: {step}, no clip came or left: nothing to do", err=True)
        else:
            clips = f"{done.new} new of {summary.count(done.clips, 'clip')}"
            typer.echo(f"group: {step}, {clips}, {done.seconds:.0f} s", err=True)

    return run_group(work, fresh=fresh, on_step=told)


def _annotate(work: Session, retry: Retry | None = None) -> ScoreResult:
    from vidcurate.cli.progress import annotating
    from vidcurate.run.passes import run_annotate

    def told() -> None:
        typer.echo("stopping: what was done is being committed; Ctrl-C again ends now", err=True)

    with annotating() as update:
        result = run_annotate(work, retry=retry, on_progress=update, on_stop=told)
    if result.skipped:
        clips = summary.count(result.skipped, "clip")
        typer.echo(
            f"{clips} not annotated yet, as what a step reads of them is missing or of an earlier "
            f"recipe: vidcurate run {work.out}",
            err=True,
        )
    return result


def _failed(work: Session) -> str | None:
    """What failed altogether, which is recorded: every video, or every annotated clip."""
    from vidcurate.run import passes

    if work.record.state == "interrupted":
        return None
    failed = None
    if passes.every_video_failed(work.out):
        failed = "every video"
    elif passes.every_annotation_failed(work.out):
        failed = "every clip that was to be annotated"
    if failed is not None:
        work.record.state = "failed"
    return failed


def _leave(work: Session, result: ScoreResult, failed: str | None) -> None:
    """Tell how a command that scores ended where it did not end well, and exit."""
    if result.interrupted:
        typer.echo(_how_to_go_on(work.out), err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if failed is not None:
        print_error(f"{failed} failed; see `vidcurate status {work.out}`")
        raise typer.Exit(EXIT_FAILED)


def _remark(state: str | None, recipe: Mapping[str, Any], out: Path) -> str:
    if state == "running":
        every = (recipe.get("commit") or {}).get("every", "60s")
        return f"; what follows is committed so far (every {every})"
    return f"; go on with: vidcurate run {out}" if state in ("interrupted", "paused") else ""


def _counts(out: Path) -> dict[str, Any]:
    from vidcurate.run import tables

    with tables.open(out) as opened:
        return tables.summary(opened)


def _print_run(work: Session, reports: Any, packed: Any, page: Path) -> None:
    counts = _counts(work.out)
    rows = [*_datasets(work), *summary.scored(counts), (), *summary.selected(reports)]
    _echo(summary.aligned([*rows, *summary.speed(work.record.passes["score"])]))
    _echo(summary.memory(work.record.passes["score"]))
    typer.echo(f"\nreport  {page}")
    _echo(summary.packed(packed))
    _echo(summary.hints(work.out, counts, reports))


def _accounts(out: Path, record: RunRecord | None) -> list[Account]:
    """Of the sources: expected, obtained and lost clips; none for folders, where files are all."""
    from vidcurate.run import tables
    from vidcurate.run.accounts import accounts, has_datasets

    if record is None or not has_datasets(record.recipe):
        return []
    with tables.open(out) as opened:
        return accounts(opened, record.passes)


def _datasets(work: Session) -> list[Any]:
    found = _accounts(work.out, work.record)
    return [*summary.datasets(found), ()] if found else []


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
