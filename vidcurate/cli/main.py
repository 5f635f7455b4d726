"""The `vidcurate` command: the list of commands, and where errors become messages.

Commands import what they need when they run, so that `vidcurate --help` is quick.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vidcurate import __version__
from vidcurate.cli import (
    doctor,
    estimate,
    eval,
    export,
    models,
    ops,
    precache,
    purge,
    recipes,
    runs,
    sample,
    shards,
    train,
)
from vidcurate.cli.output import print_error
from vidcurate.errors import VidcurateError, is_interrupt


class _Group(TyperGroup):
    """The one place where errors become messages and exit statuses.

    Exit statuses: 2 for a user's mistake, 1 for any other error of ours, 130 for Ctrl-C.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VidcurateError as error:
            if ctx.params.get("debug"):
                raise
            print_error(str(error))
            raise typer.Exit(error.exit_status) from error
        except (KeyboardInterrupt, RuntimeError) as error:
            if not is_interrupt(error):
                raise
            print_error("interrupted")
            raise typer.Exit(130) from error


app = typer.Typer(
    name="vidcurate",
    cls=_Group,
    help="Raw video to a training set: split, score, select and pack, decoding each video once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"vidcurate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


for command in (
    runs.run,
    runs.score,
    runs.group,
    runs.select,
    runs.annotate,
    runs.pack,
    runs.report,
    runs.status,
    runs.retry,
    runs.sql,
    runs.plan,
):
    app.command(command.__name__)(command)
app.command("estimate")(estimate.estimate)
app.command("export")(export.export)
app.command("purge")(purge.purge)
app.command("inspect")(shards.inspect)
app.command("index")(shards.index)
app.command("precache")(precache.precache)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("eval")(eval.evaluate)
app.command("validate")(recipes.validate)
app.command("schema")(recipes.schema)
app.add_typer(ops.app, name="ops")
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)
