"""`vidcurate purge`: remove videos and clips from all that a run holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcurate.cli import summary
from vidcurate.cli.output import print_error, print_json
from vidcurate.cli.recipes import Json
from vidcurate.cli.runs import EXIT_INTERRUPTED, Out
from vidcurate.errors import UserError, is_interrupt

if TYPE_CHECKING:
    from vidcurate.run.purge import PurgeReport

_SHOWN = 20


def purge(
    out: Out,
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...",
            help="Of clips or videos: ours, the dataset's, a URL, a source key, a location. "
            "Write -- before one that begins with a dash.",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    file: Annotated[
        Path | None, typer.Option("--file", help="A text file with an id a line; # is a comment.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be removed.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove videos or clips from tables, media, downloads, selections and shards, for good."""
    from vidcurate.run import tables
    from vidcurate.run.lease import Lease
    from vidcurate.run.process import cache_folder, stopping
    from vidcurate.run.purge import purge as remove

    wanted = [*ids, *(_read(file) if file is not None else ())]
    if not wanted:
        raise UserError("give ids to purge, or a list of them with --file")
    tables.open(out).close()  # makes no new run directory
    stop = threading.Event()

    def told() -> None:
        typer.echo("stopping after the step at work; Ctrl-C again ends now", err=True)

    try:
        with Lease(out) as lease, stopping(stop, told):
            report = remove(lease, wanted, cache=cache_folder(), dry_run=dry_run, stop=stop)
    except (KeyboardInterrupt, RuntimeError) as error:
        if not is_interrupt(error):
            raise
        typer.echo("stopped before all was removed: give the same command again", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from error
    if json:
        print_json({"dry_run": dry_run, **asdict(report)})
    else:
        for line in _lines(report, dry_run):
            typer.echo(line)
    for text in report.unknown:
        print_error(f"not known here, and not purged: {text}")


def _read(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text: {error}") from error
    for line in lines:
        if (text := line.strip()) and not text.startswith("#"):
            yield text


def _lines(report: PurgeReport, dry_run: bool) -> Iterator[str]:
    from vidcurate.report.format import size

    if dry_run:
        yield "would be removed (nothing was changed):"
    yield from summary.aligned(
        [
            ("videos", report.videos),
            ("clips", report.clips),
            ("quarantine rows", report.quarantine),
            ("media files", report.media),
            ("downloads", report.downloads),
            *((f"selection {name}: clips", n) for name, n in report.selections.items()),
            *((f"shards {name}: samples", n) for name, n in report.samples.items()),
        ]
    )
    for name, shards in report.shards.items():
        for shard in shards[:_SHOWN]:
            yield f"  held in shards/{name}/{shard}"
        if len(shards) > _SHOWN:
            yield f"  and in {len(shards) - _SHOWN} more (--json names all)"
    yield f"{size(report.bytes)} {'of files' if dry_run else 'freed'}"
    if report.report is not None:
        yield f"report.html: {report.report}"
    for key in report.copies:
        yield f"the same bytes stay as {key}: purge that, too, if they must go"
    if not dry_run:
        yield (
            "A later run does not take these again. Source files are left alone, and so are copies "
            "elsewhere, such as uploaded shards: remove those there."
        )
