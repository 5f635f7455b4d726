"""Captions at load time: templates over a sample's captions and scores, drawn by weight.

A template is text with fields in braces:

    {long}                  the caption `long`; `{long or source}`: the first of these that there is
    {aesthetic:.1f}         a score as a number; .1f, .0%, .3g and .2e are known
    {motion_p95|words}      a score in words, by thresholds
    {{ }}                   braces themselves

That is the whole language: nothing is computed or called, and what a caption or a score holds is
put in as it is, its braces included. Open-Sora puts motion and aesthetic scores into its prompts;
a blend of kinds of captions, drawn by weight, is what DALL-E 3's report found (Betker et al. 2023);
the empty prompt now and then is what classifier-free guidance needs (Ho and Salimans 2022).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from vidcurate.clip import short_hash
from vidcurate.errors import UserError
from vidcurate.nearest import suggest
from vidcurate.units import parse_share

VERSION = 1
"""Of the language and of the draw; part of the fingerprint."""

_NAME = r"[^\W\d][\w.-]*"
_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_FIELD = re.compile(rf"({_NAME}(?:\s+or\s+{_NAME})*)\s*(?::\s*(\S*)|\|\s*(\w*))?")
_FORMAT = re.compile(r"\.\d[efg%]")
_KEYS = ("mix", "words", "drop")
_SYNTAX = (
    "a field is {caption}, {caption or caption}, {score:.1f} or {score|words}; "
    "braces themselves are written {{ and }}"
)

Levels = Sequence[tuple[float | None, str]]
"""(bound, words) in rising order: the words of scores below the bound; the last bound is None."""


@dataclass(frozen=True)
class _Text:
    names: tuple[str, ...]

    def fill(self, captions: Mapping[str, str], scores: Mapping[str, float]) -> str:
        return next((t for n in self.names if (t := (captions.get(n) or "").strip())), "")


@dataclass(frozen=True)
class _Score:
    names: tuple[str]
    format: str
    levels: Levels

    def fill(self, captions: Mapping[str, str], scores: Mapping[str, float]) -> str:
        value = scores.get(self.names[0])
        if value is None or not math.isfinite(value):
            return ""
        if self.levels:
            return next(w for bound, w in self.levels if bound is None or value < bound)
        return format(float(value), f"z{self.format}")  # z: never "-0.0"


_Parts = tuple[str | _Text | _Score, ...]


def _fill(parts: _Parts, captions: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """The template's text, or "" where the sample lacks what one of its fields needs."""
    filled = [p if isinstance(p, str) else p.fill(captions, scores) for p in parts]
    return "".join(filled) if all(filled) else ""


@dataclass(frozen=True)
class Captions:
    """Which caption a sample gets, each time that it is read.

    mix: template -> weight (any scale, >= 0). A bare name stands for that caption: `long` is
        `{long}`. One of the templates that the sample can fill is drawn by weight; where none of
        these is of weight > 0, the first of weight 0 is taken, which is so a fallback only. A
        sample that can fill none gets the empty caption: `lacks` tells. Without templates (the
        default) every caption is empty.
    words: score -> (bound, words) in rising order, the last bound None:
        `{"motion_p95": [(0.5, "barely moving"), (2, "calm"), (None, "fast")]}`; a score of 0.5 is
        calm.
    drop: share of the draws that give the empty caption; default 0.

    A caption that is empty or blank, and a score that is null, NaN or infinite, is one that the
    sample lacks. White space around a caption is cut off.

    Raises:
        UserError: a template, a weight, thresholds or `drop` that cannot be used; says the remedy.
    """

    mix: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, Levels] = field(default_factory=dict)
    drop: float = 0.0
    _templates: tuple[tuple[float, _Parts], ...] = field(
        init=False, repr=False, compare=False, default=()
    )

    def __post_init__(self) -> None:
        words = {name: _levels(name, levels) for name, levels in self.words.items()}
        mix: dict[str, float] = {}
        for text, weight in self.mix.items():
            if not isinstance(text, str) or not text.strip():
                raise UserError(
                    f"captions: a template is text, not {text!r}; for empty captions now and then "
                    "set `drop`"
                )
            template = f"{{{text}}}" if re.fullmatch(_NAME, text) else text
            if template in mix:
                raise UserError(f"captions: {template!r} stands twice in mix; add its weights up")
            mix[template] = _weight(text, weight)
        if mix and not any(mix.values()):
            raise UserError("captions: every weight in mix is 0; give one template a weight > 0")
        if not (_is_number(self.drop) and 0 <= self.drop <= 1):
            raise UserError(f"captions: drop is a share from 0 to 1, not {self.drop!r}")
        templates = tuple((weight, _parse(text, words)) for text, weight in mix.items())
        used = {
            part.names[0]
            for _, parts in templates
            for part in parts
            if isinstance(part, _Score) and part.levels
        }
        for name in words:
            if name not in used:
                raise UserError(
                    f"captions: words of {name!r} are used by no template; write {{{name}|words}} "
                    f"in one{suggest(name, sorted(used))}"
                )
        object.__setattr__(self, "mix", mix)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "drop", float(self.drop))
        object.__setattr__(self, "_templates", templates)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Captions | None) -> Captions:
        """From plain values, as a recipe in YAML holds them.

        value: a template or the name of a caption; template -> weight; the fields of this class by
            name (`mix` may be one template, `drop` may be `10%`); None: empty captions.

        Raises:
            UserError: as for the class, or an unknown key.
        """
        if isinstance(value, Captions):
            return value
        if value is None:
            return cls()
        if isinstance(value, str):
            return cls({value: 1.0})
        if not isinstance(value, Mapping):
            raise UserError(
                f"captions: a template, a mapping of templates to weights, or {', '.join(_KEYS)}; "
                f"not {value!r}"
            )
        if not any(key in _KEYS for key in value):
            return cls(value)
        for key in value:
            if key not in _KEYS:
                raise UserError(f"captions: {key!r} is no key of captions{suggest(key, _KEYS)}")
        mix, words = value.get("mix"), value.get("words") or {}
        if isinstance(mix, str):
            mix = {mix: 1.0}
        if not isinstance(mix, Mapping) or not mix:
            raise UserError("captions: mix is missing; give a template, or templates with weights")
        if not isinstance(words, Mapping):
            raise UserError("captions: words is a mapping of scores to lists of [bound, words]")
        try:
            drop = parse_share(value.get("drop", 0.0))
        except ValueError as error:
            raise UserError(f"captions: drop: {error}") from error
        return cls(mix, words, drop)

    def render(
        self, captions: Mapping[str, str], scores: Mapping[str, float], rng: np.random.Generator
    ) -> str:
        """The caption of one sample. Takes two numbers of `rng`, whatever the sample holds."""
        dropped, place = rng.random(2)
        return "" if dropped < self.drop else _draw(self._pool(captions, scores), place)

    def variants(
        self, captions: Mapping[str, str], scores: Mapping[str, float], k: int, seed_key: str
    ) -> list[str]:
        """K captions of one sample, none dropped, to be embedded ahead of training.

        A uniform draw of one is a draw by weight: each template has its share of k, rounded down
        or up, and which of these is decided by `seed_key` so that the share holds over samples
        (systematic sampling; equal templates give equal texts). Empty where `render` is.

        Raises:
            UserError: k < 1.
        """
        if k < 1:
            raise UserError(f"captions: at least 1 variant of a caption, not {k}")
        digest = hashlib.sha256(f"{VERSION}:{seed_key}".encode()).digest()
        start = (int.from_bytes(digest[:8]) >> 11) / 2**53
        pool = self._pool(captions, scores)
        return [_draw(pool, (i + start) / k) for i in range(k)]

    def lacks(self, captions: Mapping[str, str], scores: Mapping[str, float]) -> tuple[str, ...]:
        """Names of which the sample lacks so much that no template can be filled; () else.

        It tells an empty caption of `render` for want of text from one that was dropped.
        """
        if not self._templates or self._pool(captions, scores):
            return ()
        names = [
            " or ".join(part.names)
            for _, parts in self._templates
            for part in parts
            if not isinstance(part, str) and not part.fill(captions, scores)
        ]
        return tuple(dict.fromkeys(names))

    def check(self, captions: Collection[str], scores: Collection[str]) -> None:
        """Refuse a template that no sample can fill, given the names that there are in the data.

        Raises:
            UserError: a field of which no name is there; says the nearest one.
        """
        for _, parts in self._templates:
            for part in parts:
                if isinstance(part, str):
                    continue
                kind, known, other = ("caption", captions, scores)
                if isinstance(part, _Score):
                    kind, known, other = ("score", scores, captions)
                if any(name in known for name in part.names):
                    continue
                name = part.names[0]
                tail = suggest(name, sorted(known))
                if not known:
                    tail = f", as none has any {kind}: write the template without, or pack anew"
                if name in other:
                    tail = (
                        f"; it is a score: write {{{name}:.1f}} or {{{name}|words}}"
                        if kind == "caption"
                        else f"; it is a caption: write {{{name}}}"
                    )
                raise UserError(f"captions: no sample has a {kind} {name!r}{tail}")

    def fingerprint(self) -> str:
        """Hash of all parameters and the version.

        `drop` has no part in `variants`: compare what is precached by
        `dataclasses.replace(captions, drop=0.0).fingerprint()`.
        """
        parts = [VERSION, list(self.mix.items()), sorted(self.words.items()), self.drop]
        return short_hash(json.dumps(parts))

    def _pool(
        self, captions: Mapping[str, str], scores: Mapping[str, float]
    ) -> list[tuple[float, str]]:
        """(weight, text) of what is drawn from; weights > 0."""
        filled = [(w, t) for w, parts in self._templates if (t := _fill(parts, captions, scores))]
        drawn = [(weight, text) for weight, text in filled if weight]
        return drawn or [(1.0, text) for _, text in filled[:1]]


def _draw(pool: Sequence[tuple[float, str]], place: float) -> str:
    """The text at that place (0 to 1) of the weights laid end to end; "" of no text."""
    left = place * sum(weight for weight, _ in pool)
    for weight, text in pool:
        left -= weight
        if left < 0:
            return text
    return pool[-1][1] if pool else ""  # the last, where rounding left a rest


def _parse(template: str, words: Mapping[str, Levels]) -> _Parts:
    parts: list[str | _Text | _Score] = []
    for token in _TOKEN.findall(template):
        if token in ("{{", "}}"):
            parts.append(token[0])
        elif token in ("{", "}"):
            raise UserError(f"captions: {template!r} has a lone {token!r}; {_SYNTAX}")
        elif token.startswith("{"):
            parts.append(_field(template, token, words))
        else:
            parts.append(token)
    return tuple(parts)


def _field(template: str, token: str, words: Mapping[str, Levels]) -> _Text | _Score:
    match = _FIELD.fullmatch(token[1:-1].strip())
    if match is None:
        raise UserError(f"captions: {token} in {template!r} is no field; {_SYNTAX}")
    names = tuple(re.split(r"\s+or\s+", match[1]))
    if match[2] is None and match[3] is None:
        return _Text(names)
    if len(names) > 1:
        raise UserError(
            f"captions: {token} in {template!r}: `or` stands between captions, not scores; "
            "write a template of its own for the other score"
        )
    if match[2] is not None:
        if not _FORMAT.fullmatch(match[2]):
            raise UserError(
                f"captions: {token} in {template!r}: a score's format is a point, one digit and "
                "f, %, g or e, such as .1f or .0%"
            )
        return _Score((names[0],), match[2], ())
    if match[3] != "words":
        raise UserError(
            f"captions: {token} in {template!r}: only `words` may follow the bar"
            f"{suggest(match[3], ['words'])}"
        )
    if names[0] not in words:
        raise UserError(
            f"captions: {token} in {template!r} has no thresholds; give "
            f"words: {{{names[0]}: [[0.5, low], [null, high]]}}{suggest(names[0], words)}"
        )
    return _Score((names[0],), "", words[names[0]])


def _levels(name: str, levels: Any) -> Levels:
    """The thresholds of one score, checked."""
    where = f"captions: words of {name!r}"
    shape = "a list of [bound, words] such as [[0.5, calm], [null, fast]]"
    if not isinstance(levels, Sequence) or isinstance(levels, str) or not levels:
        raise UserError(f"{where}: {shape}, not {levels!r}")
    checked: list[tuple[float | None, str]] = []
    for level in levels:
        if not isinstance(level, Sequence) or isinstance(level, str) or len(level) != 2:
            raise UserError(f"{where}: {shape}; {level!r} is no such pair")
        bound, text = level
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: the words of bound {bound!r} are text, not {text!r}")
        if bound is not None and not (_is_number(bound) and math.isfinite(bound)):
            raise UserError(f"{where}: a bound is a number, or null for the last; not {bound!r}")
        checked.append((None if bound is None else float(bound), text))
    bounds = [bound for bound, _ in checked]
    rising = [bound for bound in bounds[:-1] if bound is not None]
    if bounds[-1] is not None or len(rising) < len(bounds) - 1:
        raise UserError(
            f"{where}: the last bound, and no other, is null (None): its words are those of all "
            "higher scores"
        )
    if any(b <= a for a, b in pairwise(rising)):
        raise UserError(f"{where}: the bounds must rise; they are {rising}")
    return tuple(checked)


def _weight(template: str, weight: Any) -> float:
    if weight is None:  # YAML reads {long} without quotes as a mapping of long to null
        raise UserError(
            f"captions: {template!r} has no weight; in YAML a template stands in quotes: "
            f'"{{{template}}}"'
        )
    if not (_is_number(weight) and math.isfinite(weight) and weight >= 0):
        raise UserError(f"captions: the weight of {template!r} is a number >= 0, not {weight!r}")
    return float(weight)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
