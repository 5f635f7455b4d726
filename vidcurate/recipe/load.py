"""YAML to a validated `Recipe`. All mistakes of a recipe are told at once, each with its line."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

import vidcurate
from vidcurate.errors import OperatorError, RecipeError
from vidcurate.nearest import suggest
from vidcurate.operator import registry
from vidcurate.operator.base import Kind, Source, Splitter
from vidcurate.operator.registry import SECTIONS
from vidcurate.recipe.checks import check_steps
from vidcurate.recipe.explain import explain
from vidcurate.recipe.model import (
    Acquire,
    Budget,
    Commit,
    Limits,
    Pack,
    Recipe,
    Section,
    Selection,
    Step,
)
from vidcurate.recipe.override import STEP_LISTS, apply_set, expand, set_value, step_name
from vidcurate.recipe.steps import read_step
from vidcurate.recipe.yaml_lines import Document, KeyPath, parse_yaml
from vidcurate.units import Share

SECTION_KINDS: Mapping[str, Kind] = {section: kind for kind, section in SECTIONS.items()}
_SELECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Cluster(Section):
    """A Ray cluster to join; a local one is started where no address is given."""

    address: str | None = None


class RayExecutor(Section):
    """The executor on Ray Data."""

    ray: Cluster | None = None


class Plain(Section):
    """A recipe's keys besides its steps.

    name: of the recipe; its file's name by default. output: the run directory.
    audit: share of clips that every scorer sees, gates or not. media: "source" cuts at pack,
    "clips" cuts while scoring, "none" never. hdr: PQ and HLG are tone-mapped, or refused.
    profile: "fast" decodes less exactly. operators: files of your own operators, relative to
    the recipe.
    """

    name: Annotated[str, Field(min_length=1)]
    output: Annotated[str, Field(min_length=1)]
    select: dict[str, Selection] = {"default": Selection()}
    pack: Pack | None = None
    acquire: Acquire = Acquire()
    budget: Budget = Budget()
    limits: Limits = Limits()
    commit: Commit = Commit()
    audit: Share = 0.0
    media: Literal["source", "clips", "none"] = "source"
    hdr: Literal["tonemap", "refuse"] = "tonemap"
    profile: Literal["exact", "fast"] = "exact"
    executor: Literal["inline", "ray"] | RayExecutor = "inline"
    operators: tuple[str, ...] = ()


def load(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    operators: Sequence[str] = (),
    input: str | None = None,
    output: str | None = None,
    executor: str | None = None,
    address: str | None = None,
) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: the YAML file.
        overrides: `path.to.key=value` as `--set` takes them, applied in order.
        operators: files of the user's operators, relative to the working directory.
        input: replaces the source's path. output: replaces the run directory.
        executor: "inline" or "ray". address: of the Ray cluster to join (implies "ray").

    Raises:
        RecipeError: with one message for each mistake (`problems`): file, line, key, remedy.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        beside = [p.name for p in file.parent.glob("*.yaml")]
        hint = suggest(file.name, sorted(beside)) if beside else ""
        raise RecipeError(f"there is no recipe {path}{hint}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: not a text file in UTF-8 ({error.reason}); "
            "a recipe is YAML, and videos are given by their folder"
        ) from error
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    return parse(
        text,
        path=str(path),
        overrides=overrides,
        operators=operators,
        input=input,
        output=output,
        executor=executor,
        address=address,
    )


def parse(text: str, *, path: str | None = None, **changes: Any) -> Recipe:
    """As `load`, from YAML text; `path` names it in messages and anchors `operators`.

    Raises:
        RecipeError: as `load`.
    """
    return _Loader(parse_yaml(text, path or "recipe"), path).recipe(**changes)


def from_raw(raw: Mapping[str, Any], *, path: str | None = None, **changes: Any) -> Recipe:
    """As `load`, from the `raw` of an earlier recipe (run.json keeps it); `path` is its file.

    Raises:
        RecipeError: as `load`; without line numbers.
    """
    document = Document("the run's recipe", copy.deepcopy(dict(raw)))
    return _Loader(document, path).recipe(**changes)


def shipped(name: str) -> Path:
    """The file of a recipe that ships with vidcurate: "default", "demo".

    Raises:
        RecipeError: there is none of that name.
    """
    folder = Path(vidcurate.__file__).parent / "recipes"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise RecipeError(f"no shipped recipe {name!r}{suggest(name, known)}")
    return file


def preset(folder: str | Path, *, output: str | None = None, **changes: Any) -> Recipe:
    """The recipe for a bare folder of videos: `recipes/default.yaml` on it.

    Args:
        folder: of videos. output: the run directory; `<folder's name>-curated` in the working
            directory by default. changes: as `load` takes them.

    Raises:
        RecipeError: as `load`.
    """
    name = Path(folder).expanduser().resolve().name or "videos"
    return load(
        shipped("default"), input=str(folder), output=output or f"{name}-curated", **changes
    )


class _Loader:
    """One recipe on its way from a document."""

    def __init__(self, document: Document, path: str | None) -> None:
        self.document = document
        self.path = path
        self.data: dict[str, Any] = {}
        self._ids: dict[str, KeyPath] = {}

    def recipe(
        self,
        *,
        overrides: Sequence[str] = (),
        operators: Sequence[str] = (),
        input: str | None = None,
        output: str | None = None,
        executor: str | None = None,
        address: str | None = None,
    ) -> Recipe:
        document = self.document
        if not isinstance(document.data, dict):
            what = "is empty" if document.data is None else "is not a mapping of keys"
            raise RecipeError(
                f"{document.name}: the recipe {what}; it needs at least source and output"
            )
        for override in overrides:
            apply_set(document, override)
        if output is not None:
            set_value(document, ["output"], output, "--output")
        if address is not None:
            set_value(document, ["executor"], {"ray": {"address": address}}, "--address")
        elif executor is not None:
            set_value(document, ["executor"], executor, "--executor")
        self._install(operators)
        if input is not None:
            self._replace_input(input)
        self.data = expand(document, document.data)
        self._check_keys()
        steps = {section: self._steps(section) for section in SECTION_KINDS}
        plain = self._plain()
        check_steps(document, self._ids, steps)
        if plain is not None:
            self._check_media(plain)
            self._check_sections(plain, steps["split"])
        problems = document.messages()
        if problems:
            raise RecipeError(*problems)
        assert plain is not None
        ray = plain.executor.ray if isinstance(plain.executor, RayExecutor) else None
        values = {k: getattr(plain, k) for k in Plain.model_fields if k != "executor"}
        values |= {section: tuple(steps[section]) for section in STEP_LISTS}
        return Recipe(
            **values | {"operators": tuple(map(self._operator_path, plain.operators))},
            executor="inline" if plain.executor == "inline" else "ray",
            address=ray.address if ray else None,
            sources=tuple(steps["source"]),
            path=self.path,
            raw=document.data,
        )

    def _install(self, operators: Sequence[str]) -> None:
        """Import the user's operators; files from the command line join those of the recipe."""
        data = self.document.data
        if operators:
            # Absolute, so that the recipe kept in the run directory finds them again.
            files = [str(Path(f).expanduser().resolve()) for f in operators]
            first = len(data.get("operators") or [])
            data["operators"] = [*(data.get("operators") or []), *files]
            for i in range(len(files)):
                self.document.places[("operators", first + i)] = "--operators"
        listed = data.get("operators")
        if not isinstance(listed, list):
            return  # None, or reported with the plain keys
        for i, file in enumerate(listed):
            if not isinstance(file, str):
                continue
            silent = Document(self.document.name)  # the real expansion reports the variables
            try:
                registry.load_file(self._operator_path(expand(silent, file)))
            except OperatorError as error:
                self.document.problem(("operators", i), str(error), "operators")

    def _operator_path(self, file: str) -> str:
        return str((Path(self.path or ".").parent / Path(file).expanduser()).resolve())

    def _replace_input(self, input: str) -> None:
        entry = self.document.data.get("source")
        at = ["source"]
        if isinstance(entry, list):
            if len(entry) != 1:
                self.document.problem(
                    ("source",),
                    "--input replaces the input of one source, and the recipe has several; use "
                    "--set source.<id>.<key>=... for one of them",
                )
                return
            entry, at = entry[0], ["source", "0"]
        name = step_name(entry)
        if name is None:
            return  # reported with the steps
        try:
            operator = registry.get(name, "source")
        except OperatorError:
            return  # reported with the steps
        assert issubclass(operator, Source)
        named = isinstance(entry, dict) and "name" in entry
        if named or len(at) > 1:  # the settings of a list's entry are gone into by themselves
            keys = [*at, operator.input_field]
        else:
            keys = [*at, name, operator.input_field]
        try:
            set_value(self.document, keys, input, "--input")
        except RecipeError:
            return  # reported with the steps

    def _check_keys(self) -> None:
        known = [*SECTION_KINDS, *Plain.model_fields]
        for key in self.data:
            if key not in known:
                self.document.problem((key,), f"unknown key {key!r}{suggest(key, known)}", "")
        if self.data.get("source") is None:
            self.document.problem(
                (), "'source' is missing; for example source: {folder: {path: .}}"
            )

    def _steps(self, section: str) -> list[Step]:
        entries = self.data.get(section)
        if entries is None:
            return []
        raw = self.document.data[section]
        paths: list[KeyPath]
        if section == "source" and not isinstance(entries, list):
            entries, raw, paths = [entries], [raw], [(section,)]
        elif section == "source" and not entries:
            self.document.problem((section,), "an empty list; name at least one source", section)
            return []
        elif isinstance(entries, list):
            paths = [(section, i) for i in range(len(entries))]
        else:
            self.document.problem(
                (section,), "should be a list of steps, each `- name: {...}`", section
            )
            return []
        kind = SECTION_KINDS[section]
        steps = []
        for entry, raw_entry, path in zip(entries, raw, paths, strict=True):
            step = read_step(self.document, entry, raw_entry, path, kind=kind, section=section)
            self._remember(step, path)
            if step is not None:
                steps.append(step)
        return steps

    def _remember(self, step: Step | None, path: KeyPath) -> None:
        if step is None:
            return
        first = self._ids.get(step.id)
        if first is not None:
            self.document.problem(
                path,
                f"the id {step.id!r} is taken ({self.document.where(first)}); "
                f"give this step another, as `{step.operator.name}: {{id: {step.id}_2}}`",
                f"{path[0]}.{step.id}",
            )
        self._ids.setdefault(step.id, path)

    def _plain(self) -> Plain | None:
        """The keys besides the steps; a key without a value stands for its defaults."""
        given = {k: v for k, v in self.data.items() if k in Plain.model_fields}
        raw = {k: self.document.data[k] for k in given}
        for key in ("select", "pack", "acquire", "budget", "limits", "commit"):
            if key in given and given[key] is None:
                given[key] = raw[key] = {}
        if isinstance(given.get("select"), dict):
            given["select"] = {k: {} if v is None else v for k, v in given["select"].items()}
            given["select"] = given["select"] or {"default": {}}
            for name in given["select"]:
                if not _SELECTION_NAME.fullmatch(name):
                    self.document.problem(
                        ("select", name),
                        "a selection's name becomes a folder: letters, digits, _ and - only",
                    )
        given = {k: v for k, v in given.items() if v is not None}
        given.setdefault("name", Path(self.path or "recipe").stem)
        try:
            return Plain.model_validate(given, context={"recipe": True})
        except ValidationError as error:
            for path, message in explain(error, Plain, raw):
                self.document.problem(path, message)
            return None

    def _check_media(self, plain: Plain) -> None:
        if plain.media == "none" and plain.pack is not None:
            self.document.problem(
                ("pack",), "media: none keeps nothing that could be packed; take media: source"
            )
        if plain.acquire.keep_sources == "never" and plain.media != "clips":
            self.document.problem(
                ("acquire", "keep_sources"), "never needs media: clips, else nothing is left to cut"
            )

    def _check_sections(self, plain: Plain, split: Sequence[Step]) -> None:
        """Refuse what would download sections and then the whole file of every video."""
        download = plain.acquire.download
        if not download or not download.sections:
            return
        place = ("acquire", "download", "sections")
        if not split or type(split[0].operator).known is Splitter.known:  # type: ignore[attr-defined]
            self.document.problem(
                place,
                "needs a split that begins with the dataset's own intervals (timestamps): any "
                "other looks at all of a video",
            )
        if plain.profile == "fast":
            self.document.problem(
                place, "profile: fast looks at all of a video; take profile: exact"
            )
