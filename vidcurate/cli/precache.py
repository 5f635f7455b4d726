"""`vidcurate precache`: what frozen models make of packed clips, kept beside them."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcurate.cli.output import print_error, print_table
from vidcurate.cli.recipes import Overrides
from vidcurate.cli.summary import count
from vidcurate.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from vidcurate.train.precache.job import Hands, Precached
    from vidcurate.train.precache.plan import Plan

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130


def precache(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of recipes/train.")],
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="A Ray cluster to join: its address, auto, or local to start one."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is to do and what it weighs.")
    ] = False,
) -> None:
    """Encode a training recipe's clips and captions once, by its VAE and text encoder.

    Writes SHARDS@FINGERPRINT beside its shards, which `vidcurate train` of the recipe then finds.
    Again, or after a kill: only what is missing.
    """
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"precache needs {name}: pip install 'vidcurate[train]'")
    from vidcurate.run.process import stopping
    from vidcurate.train.config import load
    from vidcurate.train.precache.job import Inline, refusal
    from vidcurate.train.precache.job import precache as run
    from vidcurate.train.precache.plan import Plan

    config = load(recipe, overrides=overrides)
    shards = config.data.shards
    plans = [Plan(config, root) for root in ([shards] if isinstance(shards, str) else shards)]
    for plan in plans:
        _print_plan(plan)
    short = [plan for plan in plans if not plan.weight.fits]
    if short:
        raise UserError("\n".join(map(refusal, short)))
    if dry_run:
        return
    hands: Hands = Inline(config)
    if address is not None:
        from vidcurate.train.precache.on_ray import RayHands

        hands = RayHands(config, address)
    stop = threading.Event()
    failed = False
    with stopping(stop, lambda: print_error("stopping after the tar at work; again: at once")):
        for plan in plans:
            from vidcurate.cli.progress import working

            with working("precache") as show:
                done = run(
                    plan,
                    hands,
                    stop=stop,
                    progress=lambda n, of: show(f"{n} of {count(of, 'clip')}", n, of),
                )
            if done.interrupted:
                print_error("interrupted: finished tars are kept, and the same command goes on")
                raise typer.Exit(_EXIT_INTERRUPTED)
            _print_done(done)
            failed |= not done.samples
    if failed:
        print_error("no clip could be encoded")
        raise typer.Exit(_EXIT_FAILED)
    typer.echo(f"\nnext: vidcurate train {recipe}")


def _print_plan(plan: Plan) -> None:
    from vidcurate.report.format import size

    weight = plan.weight
    units = count(len(plan.todo), "tar")
    rows = [
        ("to encode", f"{weight.clips:,} of {count(plan.clips, 'clip')}, in {units}"),
        ("latents", size(weight.latents)),
    ]
    if plan.text_width:
        rows.append(("text", f"about {size(weight.text)}"))
    rows.append(("free", size(weight.free)))
    if plan.uncaptioned:
        rows.append(("no caption", f"{count(plan.uncaptioned, 'clip')}: they get the empty prompt"))
    typer.echo(f"{plan.folder}")
    for name, text in rows:
        typer.echo(f"  {name.ljust(10)}  {text}")


def _print_done(done: Precached) -> None:
    from vidcurate.report.format import size

    what = f"{done.encoded:,} encoded, {done.kept:,} were there"
    typer.echo(f"{count(done.samples, 'sample')} ({what}), {size(done.bytes)}: {done.folder}")
    if done.failures:
        print_table(["could not be encoded", "clips"], done.failures.items())
        typer.echo(f"why: {done.folder / 'index.json'} (failures)")
