"""pydantic's complaints in the words of someone who reads a recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vidcurate.nearest import suggest
from vidcurate.operator.registry import parameters
from vidcurate.recipe.yaml_lines import KeyPath

_WORDS = (
    ("Input should be ", "should be "),
    ("a valid dictionary or instance of", "a mapping of keys:"),
    ("a valid dictionary", "a mapping of keys"),
    ("a valid tuple", "a list"),
    ("a valid list", "a list"),
    ("a valid string", "text"),
    ("a valid integer, unable to parse string as an integer", "a whole number"),
    ("a valid integer, got a number with a fractional part", "a whole number"),
    ("a valid integer", "a whole number"),
    ("a valid number, unable to parse string as a number", "a number"),
    ("a valid number", "a number"),
    ("a valid boolean, unable to interpret input", "true or false"),
    ("a valid boolean", "true or false"),
)


def explain(
    error: ValidationError, model: type[BaseModel], data: Any, known: list[str] | None = None
) -> Iterator[tuple[KeyPath, str]]:
    """Each mistake as (key path below `data`, message).

    Args:
        error: what `model` raised.
        model: for the names that were possible.
        data: the values as the recipe writes them (variables not replaced: they may be secret).
        known: keys allowed at the top, where they are more than the model's fields.
    """
    found = [(_path(e, data), e) for e in error.errors(include_url=False)]
    done: dict[KeyPath, list[str]] = {}
    for path, detail in found:
        # A union reports every branch: those that got further down say what is wrong.
        if any(len(p) > len(path) and p[: len(path)] == path for p, _ in found) and _in_union(
            detail, path
        ):
            continue
        if detail["type"] == "model_type" and any(
            p == path and e["type"] == "literal_error"
            for p, e in found
            if isinstance(e["input"], str)
        ):
            continue  # a word is a mistyped choice, not a missing mapping
        if (
            detail["type"] == "literal_error"
            and isinstance(detail["input"], dict)
            and any(p == path and e["type"] != "literal_error" for p, e in found)
        ):
            continue  # and a mapping is no mistyped word
        message = _message(detail, path, model, data, known)
        if message not in done.setdefault(path, []):
            done[path].append(message)
    for path, messages in done.items():
        if all(m.startswith("should be ") for m in messages):
            yield path, " or ".join(messages)
        else:
            yield from ((path, message) for message in messages)


def shown(value: Any) -> str:
    """A value as a message shows it: like YAML in one line, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(detail: ErrorDetails, data: Any) -> KeyPath:
    """The error's location as far as the data has it: pydantic adds names of union branches."""
    path: list[str | int] = []
    for part in detail["loc"]:
        known = range(len(data)) if isinstance(data, list) else data
        if isinstance(known, dict | range) and part in known:
            data = data[part]
            path.append(part)
    return tuple(path)


def _in_union(detail: ErrorDetails, path: KeyPath) -> bool:
    return detail["type"] != "missing" and len(detail["loc"]) > len(path)


def _message(
    detail: ErrorDetails,
    path: KeyPath,
    model: type[BaseModel],
    data: Any,
    known: list[str] | None,
) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    for key in path:
        data = data[key]
    if kind == "missing":
        return f"{str(detail['loc'][-1])!r} is missing"
    if kind == "extra_forbidden":
        inner = _model_at(model, path[:-1])
        names = known if known is not None and len(path) == 1 else list(parameters(inner))
        return f"unknown key {str(path[-1])!r}{suggest(str(path[-1]), names)}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return f"{shown(data)} is not possible here{suggest(str(data), choices)}"
    if kind == "value_error":
        # Of several keys together the message has the values: the whole mapping says no more.
        return str(context["error"]) if not path else f"{context['error']} (is {shown(data)})"
    text = detail["msg"]
    for formal, plain in _WORDS:
        text = text.replace(formal, plain)
    return f"{text}, is {shown(data)}"


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """The model that stands at a path inside `model`; the nearest one around it otherwise."""
    for key in path:
        if isinstance(key, str) and key in parameters(model):
            models = list(_models(parameters(model)[key].annotation))
            model = models[0] if models else model
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
