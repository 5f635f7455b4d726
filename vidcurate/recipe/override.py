"""What changes a recipe from outside: `--set path.to.key=value`, and `${VAR}`."""

from __future__ import annotations

import os
import re
from typing import Any

from vidcurate.errors import RecipeError
from vidcurate.nearest import suggest
from vidcurate.recipe.yaml_lines import Document, KeyPath, parse_yaml

STEP_LISTS = ("split", "edit", "score", "group", "annotate")
_LISTS = ("source", *STEP_LISTS)  # a recipe's one source may stand without a list
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_]\w*")


def step_name(entry: Any) -> str | None:
    """The operator that an entry of a step list names; None where it is malformed."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        if isinstance(entry.get("name"), str):
            return str(entry["name"])
        if len(entry) == 1:
            return str(next(iter(entry)))
    return None


def step_id(entry: Any) -> str | None:
    """The id of an entry of a step list: its `id`, else its operator's name."""
    settings = _settings(entry)
    if settings is not None and isinstance(settings.get("id"), str):
        return str(settings["id"])
    return step_name(entry)


def apply_set(document: Document, override: str) -> None:
    """Apply one `path.to.key=value` to the document's data; mistakes go to its problems.

    The value is YAML. A step is named by its id or its position: `score.motion.p95.min=0.7`;
    `score.motion={...}` replaces its settings, `score.3={...}` the whole entry.
    Mappings that are missing on the way are made, steps are not.
    """
    place = f"--set {override}"
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        _refuse(document, place, "is not written as path.to.key=value")
        return
    try:
        value = parse_yaml(text, place).data
    except RecipeError as error:
        _refuse(document, place, f"the value {text!r} is not YAML: {error}")
        return
    if not isinstance(document.data, dict):
        return  # reported by the loader
    try:
        set_value(document, keys, value, place)
    except RecipeError as error:
        _refuse(document, place, str(error))


def set_value(document: Document, keys: list[str], value: Any, place: str) -> None:
    """Put a value at a path of the document's data and mark it as coming from `place`.

    Raises:
        RecipeError: the path leads through a scalar, or names no step of a list.
    """
    at: Any = document.data
    done: KeyPath = ()
    made: KeyPath | None = None  # the outermost mapping that was not there before
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(at, list):
            index = _index(at, key, done)
            done = (*done, index)
            if last:
                at[index] = value if key.isdigit() else _with_settings(at[index], key, value)
            elif len(done) == 2 and done[0] in _LISTS:
                at, done = _enter(at, index, done)
            else:
                at = at[index]
        elif isinstance(at, dict):
            done = (*done, key)
            if made is None and at.get(key) is None:
                made = done
            if last:
                at[key] = value
            else:
                at = _descend(at, key, top=i == 0)
        else:
            raise RecipeError(f"{'.'.join(map(str, done))!r} holds a plain value, not keys")
    # Marks of what stood below are stale now.
    for old in [p for p in document.places if p[: len(done)] == done]:
        del document.places[old]
    document.places[made or done] = place


def expand(document: Document, data: Any, path: KeyPath = ()) -> Any:
    """A copy of the data with every `${VAR}` in its texts replaced from the environment.

    A variable that is not set goes to the document's problems.
    """
    if isinstance(data, dict):
        return {k: expand(document, v, (*path, k)) for k, v in data.items()}
    if isinstance(data, list):
        return [expand(document, v, (*path, i)) for i, v in enumerate(data)]
    if not isinstance(data, str):
        return data

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not _NAME.fullmatch(name):
            document.problem(path, f"{match[0]} is not a variable; write ${{NAME}}")
        elif name not in os.environ:
            document.problem(
                path, f"the environment variable {name} is not set; export {name}=... first"
            )
        return os.environ.get(name, "")

    return _VARIABLE.sub(value, data)


def _descend(mapping: dict[str, Any], key: str, *, top: bool) -> Any:
    """What stands under the key; an empty mapping is made where there is nothing."""
    value = mapping.get(key)
    if value is None:
        if top and key in STEP_LISTS:
            raise RecipeError(f"the recipe has no steps under {key!r}")
        mapping[key] = {}
    elif top and key == "source" and isinstance(value, str):
        mapping[key] = {value: {}}
    return mapping[key]


def _settings(entry: Any) -> dict[str, Any] | None:
    """The mapping that holds an entry's settings; None where it has none."""
    if not isinstance(entry, dict):
        return None
    if "name" in entry:
        return entry
    inner = next(iter(entry.values())) if len(entry) == 1 else None
    return inner if isinstance(inner, dict) else None


def _index(items: list[Any], key: str, path: KeyPath) -> int:
    ids = [step_id(item) for item in items] if path[-1] in _LISTS else []
    if key in ids:
        return ids.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    where = ".".join(map(str, path))
    if ids:
        raise RecipeError(f"no step {key!r} under {where}{suggest(key, filter(None, ids))}")
    raise RecipeError(f"{where} has no item {key!r}; it has {len(items)}, counted from 0")


def _enter(steps: list[Any], index: int, path: KeyPath) -> tuple[dict[str, Any], KeyPath]:
    """Go into the settings of a step, made where the recipe wrote none."""
    entry = steps[index]
    settings = _settings(entry)
    name = step_name(entry)
    if name is None:
        raise RecipeError(f"step {index} of {path[0]} is malformed; mend the recipe first")
    if settings is None:
        settings = {}
        steps[index] = {name: settings}
    return settings, path if settings is steps[index] else (*path, name)


def _with_settings(entry: Any, key: str, value: Any) -> Any:
    """The entry of that id with other settings; the id stays."""
    name = step_name(entry)
    assert name is not None
    if key != name and isinstance(value, dict):
        value = {"id": key, **value}
    return {name: value}


def _refuse(document: Document, place: str, message: str) -> None:
    path: KeyPath = (f"#set{len(document.problems)}",)
    document.places[path] = place
    document.problem(path, message)
