"""The dataset card of a Hugging Face folder: README.md with its YAML at the top.

All text that comes from data or recipes is escaped for Markdown. What the recipe says of this
machine or of its user (folders, user names in URLs, secrets) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from vidcurate.export.huggingface import Written
from vidcurate.export.rows import Clips
from vidcurate.run.record import RunRecord

_LEFT_OUT = "(left out)"
_MARKUP = re.compile(r"([\\`*_\[\]<>&|~$#])")
_SECRET = re.compile(
    r"(?:^|_)(?:token|secret|password|api_?key|key|credentials?|cookies|auth)$", re.I
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_ABSOLUTE = re.compile(r"(?:/|~[\w.-]*(?:/|$)|[A-Za-z]:[\\/]|file://)")
_INSIDE = re.compile(r"(^|[\s\"'=(\[,:])(?:~?/[^/\s\"',)\]]+){2,}")  # a path in other text
_LICENSES = 50
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


def card(
    clips: Clips, written: Written, record: RunRecord, selection: Mapping[str, Any] | None
) -> str:
    """The text of README.md.

    Args:
        clips: after they were written. written: what lies in the folder.
        record: of the run: its name, recipe and versions.
        selection: what selection.yaml holds; None where all scored clips are exported.
    """
    name = " ".join(record.name.split()) or "clips"
    parts = [
        f"---\n{yaml.safe_dump(_front(name, written), sort_keys=False, allow_unicode=True)}---",
        f"# {escaped(name)}",
        f"{clips.clips:,} clips of {clips.videos:,} videos: where each is found, its times, "
        "captions and scores. No media.",
        "## Columns",
        _columns(written),
        "## Licenses",
        "As the sources stated them, of the source videos. This table grants no rights in them.",
        _licenses(written),
        "## How it was made",
        f"With vidcurate {escaped(record.versions.get('vidcurate', ''))} and this recipe:",
        _fenced(yaml.safe_dump(public(record.recipe), sort_keys=False, allow_unicode=True)),
        *([] if selection is None else [_funnel(selection)]),
        "## How to rebuild it",
        _rebuild(clips, written),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: object) -> str:
    """Text on one line that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def public(value: Any, key: str = "") -> Any:
    """A recipe's value without secrets and without the folders and names of this machine.

    Of absolute paths the last part stays, of URLs all but user names and queries. The text of
    keys that name a secret is left out; the output and the addresses of clusters and private
    hosts are not there at all.
    """
    if isinstance(value, Mapping):
        hidden = ("allow_hosts",) if key else ("output", "address")
        return {k: public(v, str(k)) for k, v in value.items() if k not in hidden}
    if isinstance(value, list | tuple):
        return [public(item, key or "-") for item in value]
    if not isinstance(value, str):
        return value
    if _SECRET.search(key) and not value.startswith("${"):
        return _LEFT_OUT
    if _ABSOLUTE.match(value):
        return ".../" + re.split(r"[\\/]", value.rstrip("/"))[-1]
    return _INSIDE.sub(_last_part, _URL.sub(_public_url, value))


def _public_url(match: re.Match[str]) -> str:
    try:
        parts = urlsplit(match[0])
    except ValueError:
        return _LEFT_OUT
    if parts.scheme.lower() == "file":
        return f".../{Path(parts.path).name}"
    query = f"?{_LEFT_OUT}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def _last_part(match: re.Match[str]) -> str:
    return f"{match[1]}.../{match[0].rpartition('/')[2]}"


def _front(name: str, written: Written) -> dict[str, Any]:
    total = written.rows.total()
    files = [{"split": s, "path": f"data/{s}-*.parquet"} for s in sorted(written.rows)]
    return {
        "pretty_name": name,
        "license": "unknown" if set(written.licenses) == {"unknown"} else "other",
        "size_categories": [next((text for top, text in _SIZES if total < top), "n>1B")],
        "tags": ["video"],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def _columns(written: Written) -> str:
    rows = []
    for column in written.columns:
        told = {k.decode(): v.decode() for k, v in (column.field.metadata or {}).items()}
        cells = (
            column.field.name,
            column.field.type,
            told.get("unit", ""),
            told.get("description", ""),
        )
        rows.append([escaped(cell) for cell in cells])
    return _table(["column", "type", "unit", "description"], rows)


def _licenses(written: Written) -> str:
    rows = [[escaped(name), f"{n:,}"] for name, n in written.licenses.most_common(_LICENSES)]
    if more := len(written.licenses) - len(rows):
        rows.append([f"{more:,} others", ""])
    return _table(["license", "clips"], rows)


def _funnel(selection: Mapping[str, Any]) -> str:
    counts = selection["counts"]
    rows = [["all", f"{counts['clips']:,}"]]
    rows += [
        [
            f"dropped: {escaped(d['by'])}, {escaped(public(d['reason'], 'reason'))}",
            f"{d['clips']:,}",
        ]
        for d in counts["dropped"]
    ]
    rows += [[f"{word}", f"{counts[word]:,}"] for word in ("failed", "unjudged", "kept")]
    text = f"Its selection {escaped(selection['name'])} came to these clips"
    values = [f"{escaped(k)} was {v}" for k, v in (selection["percentiles"] or {}).items()]
    text += f" ({', '.join(values)}):" if values else ":"
    return f"{text}\n\n{_table(['fate', 'clips'], rows)}"


def _rebuild(clips: Clips, written: Written) -> str:
    split = min(written.rows)
    table: dict[str, Any] = {"path": f"data/{split}-00000.parquet"}
    files = ""
    if clips.has_files:
        table["base"] = "videos"
        files = (
            " Put the files at the paths that `path` names, below one folder, and give it as "
            "`base`: the ids are made from these paths and the files' bytes."
        )
    recipe = {
        "name": "rebuilt",
        "source": {"table": table},
        "split": [{"timestamps": {}}],
        "output": "rebuilt",
    }
    return (
        "`vidcurate run` with a recipe such as this one, for each file, downloads the videos and "
        f"finds the same clips, with the same clip ids.{files} The recipe above has the steps that "
        "give the scores.\n\n" + _fenced(yaml.safe_dump(recipe, sort_keys=False))
    )


def _table(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(text: str) -> str:
    """A code block whose fence no line of the text can end."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"
