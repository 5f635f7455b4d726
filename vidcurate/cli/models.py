"""`vidcurate models`: fetch the weights that a recipe names, and list what is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcurate.cli.output import print_json, print_table
from vidcurate.cli.recipes import Json, OperatorFiles, Overrides
from vidcurate.errors import ModelError

if TYPE_CHECKING:
    from vidcurate.models.reference import ModelRef

app = typer.Typer(
    help="Fetch the weights that recipes name, and list what is there.",
    add_completion=False,
    no_args_is_help=True,
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe's YAML file.")]


@dataclass(frozen=True)
class _Row:
    """One model. `hub`: "local" for a path. `size` in bytes; None where it is not here."""

    model: str
    hub: str
    revision: str | None
    size: int | None
    licence: str | None
    path: str | None
    steps: tuple[str, ...] = ()


@app.command("pull")
def pull(
    recipe: RecipeFile,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    operators: OperatorFiles = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Fetch the newest weights that a recipe names, of training too, and say by which licence."""
    from vidcurate.models import fetch

    rows, problems = [], []
    for ref, steps in _named(recipe, overrides, operators).items():
        try:
            fetch(ref, refresh=True)
        except ModelError as error:
            problems.append(str(error))
        else:
            rows.append(_row(ref, tuple(steps)))
    _print(rows, json, nothing=f"no step of {recipe} names weights")
    if problems:
        raise ModelError("\n".join(problems))


@app.command("list")
def list_models(
    recipe: Annotated[
        Path | None, typer.Argument(help="Only what this recipe's steps name, here or not.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    operators: OperatorFiles = [],  # noqa: B006
    json: Json = False,
) -> None:
    """List the weights on this machine: of all caches, or those that a recipe names."""
    if recipe is None:
        _print(list(_cached()), json, nothing="no weights are cached on this machine")
        return
    named = _named(recipe, overrides, operators)
    rows = [_row(ref, tuple(steps)) for ref, steps in named.items()]
    _print(rows, json, nothing=f"no step of {recipe} names weights")
    if not json and any(row.path is None for row in rows):
        typer.echo(f"what is missing: vidcurate models pull {recipe}")


def _named(recipe: Path, overrides: list[str], operators: list[str]) -> dict[ModelRef, list[str]]:
    """The weights that a recipe names -> ids of the steps, or keys of a training recipe."""
    from vidcurate.train.config import is_training_recipe

    if not is_training_recipe(recipe):
        from vidcurate.recipe.load import load
        from vidcurate.run.weights import named_models

        return named_models(load(recipe, overrides=overrides, operators=operators))
    from vidcurate.models.text_encoder import text_encoder_reference
    from vidcurate.models.vae import vae_reference
    from vidcurate.train.config import load as load_training

    encode = load_training(recipe, overrides=overrides).encode
    found: dict[ModelRef, list[str]] = {}
    if encode.vae is not None:
        found.setdefault(vae_reference(encode.vae), []).append("encode.vae")
    if encode.text is not None:
        found.setdefault(text_encoder_reference(encode.text), []).append("encode.text")
    return found


def _row(ref: ModelRef, steps: tuple[str, ...]) -> _Row:
    from vidcurate.models import hub

    kind = hub.hub_of(ref)
    try:
        place = hub.found(ref)
    except ModelError:  # a local path that is not there
        place = None
    if place is None:
        return _Row(ref.name, kind, ref.revision, None, None, None, steps)
    return _Row(
        ref.name, kind, hub.resolve(ref), hub.size(ref), hub.licence(place), str(place), steps
    )


def _cached() -> Iterator[_Row]:
    from vidcurate.models import hub

    for held in hub.stored():
        yield _Row(
            held.name,
            held.hub,
            held.revision,
            held.size,
            hub.licence(held.folder),
            str(held.folder),
        )


def _print(rows: list[_Row], json: bool, nothing: str) -> None:
    from vidcurate.report.format import size

    if json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        typer.echo(nothing)
        return
    print_table(
        ["model", "hub", "revision", "size", "licence", "path", "steps"],
        [
            (
                row.model,
                row.hub,
                (row.revision or "").removeprefix("sha256:")[:12],
                "" if row.size is None else size(row.size),
                row.licence,
                row.path or "not here",
                ", ".join(row.steps),
            )
            for row in rows
        ],
    )
