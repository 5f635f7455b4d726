"""Where the tars are that others made, and what may stand in the way of an index for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vidcurate.errors import RunDirectoryError, StorageError, UserError
from vidcurate.shards.index import read_index
from vidcurate.shards.leftovers import WORK

INDEXED = "indexed"
"""The key of an index.json that `vidcurate index` wrote."""

PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tar.lz4")
"""Endings of tars that are compressed, which cannot be read by ranges."""


def find_tars(folder: Path, beside: Path | None) -> dict[str, Path]:
    """The tars below a folder, by their relative paths, compressed ones too.

    Args:
        beside: a folder of links to them, which may be in there.

    Raises:
        UserError: no folder, or no tars in it.
    """
    if not folder.is_dir():
        what = "is a file: name its folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}")
    found = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        passed = any(part.startswith(".") for part in relative.parts)
        passed |= beside is not None and path.absolute().is_relative_to(beside.absolute())
        if path.name.lower().endswith((".tar", *PACKED)) and not passed and path.is_file():
            found[relative.as_posix()] = path
    if not found:
        raise UserError(f"{folder} holds no tars (*.tar)")
    return found


def refuse_packed(folder: Path, root: Path, tars: Iterable[str]) -> None:
    """Refuse what `vidcurate pack` indexes itself, beside what `root` holds.

    One index over several selections would have their clips twice, and hide their own indexes.

    Raises:
        UserError: a run directory, a selection that is not packed to its end, or packed ones below.
    """
    if (folder / "run.json").exists():
        raise UserError(f"{folder} is a run directory: vidcurate inspect {folder} shows its shards")
    if (folder / WORK).exists():
        raise UserError(
            f"{folder} is not packed to its end: run vidcurate pack again, which needs no index"
        )
    inside = {folder / parent for name in tars for parent in PurePosixPath(name).parents}
    for below in sorted(inside - {folder, root}):
        with contextlib.suppress(RunDirectoryError):
            if {"appends", "derived"} & (read_index(below) or {}).keys():
                raise UserError(f"{below} was packed and has its index: name folders beside it")


def old_index(root: Path, force: bool) -> Mapping[str, Any]:
    """The index.json that is to be replaced; empty where there is none.

    Raises:
        UserError: without `force`: it is of pack, of another tool, or damaged.
    """
    try:
        found = read_index(root) or {}
    except RunDirectoryError as error:
        if not force:
            raise UserError(f"{error}; --to writes ours elsewhere, --force replaces it") from error
        return {}
    if found and "derived" in found:
        raise UserError(f"{root} is a precached set: vidcurate precache makes its index")
    if found and INDEXED not in found and not force:
        raise UserError(
            f"{root} has the index that pack made, with all that the tars do not tell; `vidcurate "
            "inspect --verify` checks it, --force replaces it"
        )
    return found


def link_tars(folder: Path, to: Path, tars: Mapping[str, Path]) -> None:
    """Make a link at `to` for each tar, as shards are found below their index.

    Raises:
        UserError: something else is there. StorageError: it cannot be made.
    """
    for name, tar in tars.items():
        link = to / name
        target = tar.resolve()
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise UserError(
                f"{link} exists and is no link to a tar of {folder}; choose another --to"
            )
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        except OSError as error:
            raise StorageError(f"{link} cannot be made ({error.strerror or error})") from error
