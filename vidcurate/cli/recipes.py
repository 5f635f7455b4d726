"""`vidcurate validate` and `vidcurate schema`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcurate.cli.output import print_json, print_table

if TYPE_CHECKING:
    from vidcurate.recipe.model import Recipe, Step

Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Change the recipe; repeatable."),
]
OperatorFiles = Annotated[
    list[str],
    typer.Option("--operators", metavar="FILE", help="Your own operators; repeatable."),
]
Input = Annotated[str | None, typer.Option("--input", help="Replaces the source's path.")]
Output = Annotated[str | None, typer.Option("--output", help="Replaces the run directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def validate(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    *,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    operators: OperatorFiles = [],  # noqa: B006
    input: Input = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Check a recipe without running it; every mistake is told with its line.

    Of a training recipe, too.
    """
    from vidcurate.recipe.load import load
    from vidcurate.train.config import is_training_recipe

    if is_training_recipe(recipe):
        _validate_training(recipe, overrides, output, json)
        return
    checked = load(recipe, overrides=overrides, operators=operators, input=input, output=output)
    missing = dict(missing_extras(checked))
    if json:
        steps = [{"pass": p, **_describe(s)} for p, s in _steps(checked)]
        print_json(
            {"name": checked.name, "output": checked.output, "steps": steps, "missing": missing}
        )
        return
    rows = [
        (
            p,
            s.id,
            s.operator.name,
            _settings(s.operator.model_dump(exclude_defaults=True)),
            _limits(s),
        )
        for p, s in _steps(checked)
    ]
    print_table(["pass", "step", "operator", "parameters", "thresholds"], rows)
    for extra, packages in missing.items():
        typer.echo(
            f"needs {', '.join(packages)}, not installed here: pip install 'vidcurate[{extra}]'"
        )
    typer.echo(f"{recipe}: the recipe {checked.name!r} is valid; it writes to {checked.output}")


def _validate_training(recipe: Path, overrides: list[str], output: str | None, json: bool) -> None:
    from vidcurate.train.config import load

    given = [*overrides, *([f"output={output}"] if output is not None else [])]
    config = load(recipe, overrides=given)
    if json:
        print_json(config.model_dump(mode="json", by_alias=True))
        return
    typer.echo(
        f"{recipe}: the training recipe {config.name!r} is valid; it writes to {config.output}"
    )


def schema(operators: OperatorFiles = []) -> None:  # noqa: B006
    """Print the JSON schema of recipes, for completion and checks in an editor."""
    from vidcurate.operator.registry import load_file
    from vidcurate.recipe.schema import recipe_schema

    for file in operators:
        load_file(file)
    print_json(recipe_schema())


def _steps(recipe: Recipe) -> Iterator[tuple[str, Step]]:
    for step in recipe.sources:
        yield "source", step
    for name in ("split", "edit", "score", "group", "annotate"):
        for step in getattr(recipe, name):
            yield name, step


def missing_extras(recipe: Recipe) -> Iterator[tuple[str, list[str]]]:
    """Extras that the recipe's steps need and that are not installed, with their packages."""
    from vidcurate.operator.registry import missing_packages

    for extra in dict.fromkeys(e for _, s in _steps(recipe) for e in s.operator.extras()):
        if packages := missing_packages(extra):
            yield extra, packages


def _describe(step: Step) -> dict[str, object]:
    return {
        "id": step.id,
        "operator": step.operator.name,
        "parameters": step.operator.parameters(),
        "thresholds": {field: vars(limit) for field, limit in step.thresholds.items()},
        "gate": step.gate,
        "report_only": step.report_only,
        "safety": step.safety,
        "on_error": step.on_error,
    }


def _settings(values: dict[str, object]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items())


def _limits(step: Step) -> str:
    texts = []
    for field, limit in step.thresholds.items():
        given = {k: v for k, v in vars(limit).items() if v is not None and v != "keep"}
        texts.append(f"{field} {_settings(given)}".strip())
    marks = [m for m in ("gate", "report_only", "safety") if getattr(step, m)]
    return "; ".join(texts) + (f" ({', '.join(marks)})" if marks else "")
