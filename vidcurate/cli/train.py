"""`vidcurate train`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from vidcurate.cli.recipes import Overrides
from vidcurate.errors import MissingExtraError


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of recipes/train.")],
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    output: Annotated[
        str | None, typer.Option("--output", help="Replaces the folder of the results.")
    ] = None,
    batching: Annotated[
        str | None,
        typer.Option("--batching", metavar="pack|bucket", help="Replaces data.batching."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Remove what the output holds of a training; begin anew."),
    ] = False,
) -> None:
    """Train the included DiT on packed shards, or go on from its latest checkpoint.

    On several GPUs: torchrun --nproc-per-node N -m vidcurate.train RECIPE.
    """
    need_torch()
    from vidcurate.train.command import start

    config, summary = start(
        recipe,
        overrides=overrides,
        output=output,
        batching=batching,
        fresh=fresh,
        show=typer.echo,
    )
    if summary.stopped:
        typer.echo(f"stopped at step {summary.step} of {config.steps}; the same command goes on")
    typer.echo(f"checkpoint: {summary.checkpoint}")
    typer.echo(f"losses: {Path(config.output) / 'losses.svg'}")


def need_torch() -> None:
    """Raises MissingExtraError where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("this needs torch: pip install 'vidcurate[train]'")
