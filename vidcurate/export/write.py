"""`export`: one table of a run's clips, in the format of a dataset or a tool."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vidcurate.durable import TEMP, replacing
from vidcurate.errors import RunDirectoryError, StorageError, UserError
from vidcurate.export import internvid, panda70m, tables, webvid
from vidcurate.export.card import card
from vidcurate.export.huggingface import write_data
from vidcurate.export.rows import Clips, Row
from vidcurate.nearest import suggest
from vidcurate.run.record import RunRecord, read_record
from vidcurate.run.tables import Run
from vidcurate.run.tables import open as open_run

_MEMORY = 1024**3  # bytes of DuckDB; a larger sort goes through the disk


@dataclass(frozen=True)
class Format:
    """A format: its file's ending, the clips that it cannot hold, and how it is written."""

    suffix: str
    refusal: Callable[[Row], str | None]
    write: Callable[[Clips, Path], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export came to. left_out: reason -> clips."""

    path: Path
    clips: int
    videos: int
    left_out: dict[str, int]


def _all(row: Row) -> None:
    del row


FILES = {
    "panda70m": Format(".csv", panda70m.refusal, panda70m.write),
    "webvid": Format(".csv", webvid.refusal, webvid.write),
    "internvid": Format(".jsonl", internvid.refusal, internvid.write),
    "csv": Format(".csv", _all, tables.write_csv),
    "jsonl": Format(".jsonl", _all, tables.write_jsonl),
}
FORMATS = (*FILES, "hf")


def export(
    out: str | Path,
    form: str,
    *,
    selection: str | None = None,
    everything: bool = False,
    to: str | Path | None = None,
    force: bool = False,
    stop: threading.Event | None = None,
) -> ExportReport:
    """Write the clips of a run as a table without media, from which others can rebuild the set.

    The sources of vidcurate that read these formats give the same clip ids again, together with
    the splitter `timestamps`: times are of the source, and milliseconds snap to the nearest frame.

    Args:
        out: the run directory; it may be written to meanwhile.
        form: one of FORMATS; "hf" is a folder with a dataset card.
        selection: whose kept clips; None takes the first of the recipe.
        everything: all scored clips instead of those of a selection.
        to: the file, or for "hf" the folder; default OUT/exports/<selection>.<format>...
        force: replace what an earlier export wrote there.
        stop: once set, the export ends with a KeyboardInterrupt and leaves nothing.

    Raises:
        UserError: an unknown format or selection, a target that is there already, or no clip that
            the format can hold.
        RunDirectoryError: `out` is no run directory.
        StorageError: the target cannot be written.
    """
    if form not in FORMATS:
        raise UserError(f"there is no format {form!r}{suggest(form, FORMATS)}")
    with open_run(out, memory=_MEMORY) as run:
        record = read_record(run.out)
        if record is None:
            raise RunDirectoryError(f"{run.out} has no run.json; give the folder of a finished run")
        chosen = None if everything else _selection(run, record, selection)
        target = _target(run.out, form, chosen, to, force)
        refusal = _all if form == "hf" else FILES[form].refusal
        clips = Clips(run, chosen, refusal, stop or threading.Event())
        if form == "hf":
            definition = None if chosen is None else _definition(run.out, chosen)
            _write_folder(clips, target, record, definition)
        else:
            with replacing(target) as temporary:
                FILES[form].write(clips, temporary)
                _refuse_empty(clips, form)
    return ExportReport(target, clips.clips, clips.videos, dict(clips.left_out))


def _selection(run: Run, record: RunRecord, given: str | None) -> str:
    name = given or next(iter(record.recipe.get("select") or ()), "default")
    made = sorted(f.parent.name for f in (run.out / "selections").glob("*/selection.yaml"))
    if name not in made:
        hint = suggest(name, made) if made else ""
        raise UserError(
            f"the run has no selection {name!r}{hint}; `vidcurate select {run.out}` makes those of "
            "its recipe, --all exports all scored clips"
        )
    return name


def _definition(out: Path, selection: str) -> dict[str, Any]:
    file = out / "selections" / selection / "selection.yaml"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        data["counts"]["kept"], data["percentiles"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunDirectoryError(f"{file} is damaged ({error}); run select again") from error
    found: dict[str, Any] = data
    return found


def _target(
    out: Path, form: str, selection: str | None, to: str | Path | None, force: bool
) -> Path:
    if to is None:
        ending = "-hf" if form == "hf" else f".{form}{FILES[form].suffix}"
        ending = FILES[form].suffix if form in ("csv", "jsonl") else ending
        target = out / "exports" / f"{selection or 'all-clips'}{ending}"
    else:
        if "://" in str(to):
            raise UserError(f"{to} is a URL: export to a local path, and copy it from there")
        target = Path(to).expanduser().absolute()
    is_folder = target.is_dir() and not target.is_symlink()  # a link's folder is not replaced
    wanted = is_folder if form == "hf" else target.is_file()
    if target.exists() or target.is_symlink():
        if not wanted:
            kind = "folder" if form == "hf" else "file"
            raise UserError(
                f"{target} is there and no {kind}, as {form} needs; choose another --to"
            )
        if not force:
            raise UserError(f"{target} is there already; choose another --to, or give --force")
        others = {p.name for p in target.iterdir()} - {"README.md", "data"} if form == "hf" else ()
        if others:
            raise UserError(
                f"{target} holds more than an export ({', '.join(sorted(others)[:3])}): it is not "
                "replaced; choose another --to"
            )
    return target


def _refuse_empty(clips: Clips, form: str) -> None:
    if clips.clips:
        return
    why = "".join(f"; {n} left out: {reason}" for reason, n in clips.left_out.items())
    raise UserError(f"there is no clip to export as {form}{why or '; the selection is empty'}")


def _write_folder(
    clips: Clips, target: Path, record: RunRecord, selection: dict[str, Any] | None
) -> None:
    """Write a Hugging Face folder under another name, then put it in the place of the old one."""
    temporary = target.with_name(f"{TEMP}{uuid.uuid4().hex}")
    old = target.with_name(f"{TEMP}{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        written = write_data(clips, temporary)
        _refuse_empty(clips, "hf")
        text = card(clips, written, record, selection)
        (temporary / "README.md").write_text(text, encoding="utf-8")
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise StorageError(
            f"{target} cannot be written ({error.strerror or error}); free space or mend the "
            "permissions and export again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
