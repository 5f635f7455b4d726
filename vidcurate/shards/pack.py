"""Pack: the clips of a selection become tar shards with an index, which grow and shrink with it.

The shards follow the selection clip by clip. A sample that is there with the fingerprint that is
wanted stays where it is, byte for byte. Clips that are new or have changed are cut and go to shards
of their own, an append (`vidcurate.shards.append`); tars that hold samples which left or changed
are written anew without them (`vidcurate.shards.rewrite`). Then index.json, which names all of
that, replaces the one before, and what it no longer names is removed. Killed at any moment, the
next call goes on from there and ends with the same bytes.

Captions and scores are in a sample's .json as they were when it was packed; the index has them as
they are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcurate.clip import INDEX_SCHEMA, short_hash
from vidcurate.errors import StorageError
from vidcurate.media.encode import check_preset
from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.append import Append, Appended, Hands, PackFailure, Threads
from vidcurate.shards.index import (
    about_of,
    columns_digest,
    made_by,
    read_index,
    totals,
    with_columns,
    write_index,
)
from vidcurate.shards.leftovers import tidy
from vidcurate.shards.rewrite import index_rows, rewrite
from vidcurate.shards.wanted import Row, Wanted, measures, plain, wanted

_NOTHING = Appended([], [], [])


@dataclass(frozen=True)
class PackReport:
    """What is packed now. buckets: samples by bucket. no_bucket: ids of clips left out for that.

    copied, encoded: how samples were cut. digest: of the index. bytes: of all shards.
    added, removed: samples that this call wrote and took away; a changed clip is both.
    notes: what a person should know of it, the choice of `buckets: auto`.
    """

    folder: Path
    samples: int
    shards: int
    bytes: int
    buckets: Mapping[str, int]
    copied: int
    encoded: int
    no_bucket: tuple[str, ...]
    failures: tuple[PackFailure, ...]
    digest: str
    added: int = 0
    removed: int = 0
    notes: tuple[str, ...] = ()


def pack_selection(
    clips: pa.Table,
    pack: Pack,
    folder: Path,
    *,
    workers: int,
    limits: Limits,
    progress: Callable[[int, int], None] | None = None,
    hands: Hands | None = None,
) -> PackReport:
    """Bring the shards in `folder` (OUT/shards/<selection>) to hold these clips.

    Call it again after a kill. Nothing is cut where all clips are there, or cannot be cut for good;
    then at most the index is written anew, with other captions and scores. `shard_size` and `seed`
    govern what is appended from then on, and so do the versions of the libraries.

    Args:
        clips: one row a clip: the clip table's fixed columns, and
            `path`: local path of the source, or of the clip's own media where `media` is set; only
            looked at for clips that are to be cut, and by `hands` not at all;
            `split`: "train" or "val"; `captions`: map of name -> text; `scores`: map of name ->
            float64; and, where known, `location` of the source as people know it, `content_id` of
            its bytes, `rights` (map of strings), `out_width` and `out_height` (what the editors
            resize to).
        pack: `buckets: auto` is chosen when the folder is first packed, or `fit` is another one,
            and stays so while the selection grows.
        workers: child processes that cut at a time.
        limits: bounds of each child. A clip that breaks them is a failure.
        progress: called with (clips that came to an end, clips to cut) while clips are cut.
        hands: who cuts and writes; default this process.

    Raises:
        UserError: the encode section asks for a preset that does not exist.
        NoSourceError: no source can be had of any clip, and no shard would be left.
        RunDirectoryError: its index is damaged.
        StorageError: the folder cannot be written (a full disk).
    """
    if pack.encode != "copy":
        check_preset(pack.encode)
    try:
        hands = hands or Threads(pack, limits, workers)
        return _Packing(plain(clips), pack, folder, hands, progress).run()
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror or error}); free space or mend the "
            "permissions and run again: what is cut is kept"
        ) from error


class _Packing:
    """One call of pack_selection."""

    def __init__(
        self,
        rows: list[Row],
        pack: Pack,
        folder: Path,
        hands: Hands,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.pack = pack
        self.folder = folder
        self.hands = hands
        self.progress = progress
        self.before = _usable(folder, read_index(folder))
        buckets, self.chosen, self.notes = self._buckets(rows)
        self.wanted, self.no_bucket = wanted(rows, pack, buckets)
        self.stay = {
            i: shard
            for i, (mark, shard) in self._held().items()
            if i in self.wanted and self.wanted[i].fingerprint == mark
        }

    def run(self) -> PackReport:
        before = self.before
        removed = before["rows"] - len(self.stay) if before is not None else 0
        new = {i: clip for i, clip in self.wanted.items() if i not in self.stay}
        failed = self._failed_before()
        if new.keys() <= failed.keys() and before is not None:
            new = {}
        name = self._name(new)
        self.folder.mkdir(parents=True, exist_ok=True)
        tidy(self.folder, read_index(self.folder), keep=name if new else None)
        appended = _NOTHING
        if new:
            append = Append(
                self.folder,
                name,
                new,
                self.pack,
                self.hands,
                is_all=not self.stay,
                progress=self.progress,
            )
            appended = append.run()
            failed = {f.clip_id: f.plain() for f in appended.failures if not f.is_lost}
        index = self._committed(name, appended, failed, removed)
        tidy(self.folder, index)
        added = sum(shard["rows"] for shard in appended.shards)
        return _report(self.folder, index, appended, added, removed, self.notes)

    # ------------------------------------------------------------------ what is there

    def _held(self) -> dict[str, tuple[str | None, str]]:
        """Fingerprint and shard of the samples that are there, by clip; of whole tars only."""
        if self.before is None:
            return {}
        whole = {s["path"] for s in self.before["shards"] if _is_whole(self.folder, s)}
        held: dict[str, tuple[str | None, str]] = {}
        for rows in index_rows(self.folder, self.before, ["clip_id", "fingerprint", "shard"]):
            for clip, mark, shard in zip(*(c.to_pylist() for c in rows.columns), strict=True):
                if shard in whole:
                    held[clip] = (mark, shard)
        return held

    def _failed_before(self) -> dict[str, dict[str, Any]]:
        """Clips that cannot be cut, as neither they nor the libraries have changed."""
        failures = self.before["failures"] if self.before is not None else []
        return {
            f["clip_id"]: f
            for f in failures
            if f["clip_id"] in self.wanted
            and f["tried"] == self._tried(f["clip_id"])
            and not f["transient"]
        }

    def _tried(self, clip: str) -> str:
        return short_hash(f"{self.wanted[clip].fingerprint}:{made_by()}")

    def _buckets(
        self, rows: list[Row]
    ) -> tuple[Buckets | None, dict[str, Any] | None, tuple[str, ...]]:
        """The buckets; what index.json keeps of a choice; what to tell of it."""
        if self.pack.buckets != "auto":
            return self.pack.buckets, None, ()
        fit = self.pack.fit.model_dump(mode="json")
        kept = self.before.get("chosen_buckets") if self.before is not None else None
        if kept is not None and kept["fit"] == fit:
            buckets = Buckets.model_validate({k: v for k, v in kept.items() if k != "fit"})
            return buckets, kept, ()
        if not rows:
            return None, None, ()
        from vidcurate.shards.auto_buckets import choose

        choice = choose(*measures(rows, self.pack), self.pack.fit)
        chosen = choice.buckets.model_dump(mode="json") | {"fit": fit}
        return choice.buckets, chosen, tuple(choice.lines())

    # ------------------------------------------------------------------ what is to be

    def _name(self, new: Mapping[str, Wanted]) -> str:
        """Of the append: of what it adds to what. Equal calls give equal names."""
        digest = hashlib.sha256()
        head = {"by": made_by(), "size": self.pack.shard_size, "seed": self.pack.seed}
        digest.update(json.dumps(head, sort_keys=True).encode())
        for i in sorted(self.stay):
            digest.update(f"\n{self.wanted[i].fingerprint} {self.stay[i]}".encode())
        for i in sorted(new):
            digest.update(f"\n+{new[i].fingerprint}".encode())
        return digest.hexdigest()[:12]

    def _committed(
        self, name: str, appended: Appended, failed: Mapping[str, Mapping[str, Any]], removed: int
    ) -> dict[str, Any]:
        """Write the index of all that is there from now on, unless that is what there was."""
        before = self.before
        shards: list[dict[str, Any]] = []
        tables: Iterator[pa.Table] = iter(())
        if before is not None and removed:
            ids = pa.array(self.stay, pa.string())

            def goes(rows: pa.Table) -> np.ndarray:
                return ~np.asarray(pc.is_in(rows["clip_id"], value_set=ids), dtype=bool)

            done = rewrite(self.folder, before, goes, self._touched(before))
            shards, tables = done.shards, done.rows()
        elif before is not None:
            shards, tables = before["shards"], index_rows(self.folder, before)
        shards = [*shards, *appended.shards]
        in_appended = {f.clip_id for f in appended.failures}
        added = self.wanted.keys() - self.stay.keys() - in_appended if appended.shards else set()
        rows = {i: self.wanted[i].row for i in (*self.stay, *added)}
        columns = columns_digest(rows.values())
        about = self._about(shards, failed, is_append=bool(appended.shards))
        if (
            before is not None
            and not removed
            and not appended.shards
            and (about, columns) == (about_of(before), before["columns"])
        ):
            return before
        parts = (pq.read_table(part, schema=INDEX_SCHEMA) for part in appended.parts)
        # A reader that holds the index before this one still finds its file until `tidy`.
        file = f"{name}-{columns[:8]}"
        tables = with_columns(itertools.chain(tables, parts), rows)
        return write_index(self.folder, file, tables, shards, about)

    def _touched(self, before: Mapping[str, Any]) -> list[str]:
        """Shards that hold samples which do not stay."""
        stay = Counter(self.stay.values())
        return [s["path"] for s in before["shards"] if stay[s["path"]] != s["rows"]]

    def _about(
        self,
        shards: list[dict[str, Any]],
        failed: Mapping[str, Mapping[str, Any]],
        *,
        is_append: bool,
    ) -> dict[str, Any]:
        before = self.before or {}
        versions = made_by() if is_append or not before else before["made_by"]
        appends = dict(before["appends"]) if before else {}
        for shard in shards:
            appends.setdefault(shard["append"], self._settings())
        about = {
            "selection": self.folder.name,
            "made_by": versions,
            "no_bucket": self.no_bucket,
            "failures": [{**f, "tried": self._tried(i)} for i, f in sorted(failed.items())],
            **totals(shards, appends),
        }
        return about | ({"chosen_buckets": self.chosen} if self.chosen is not None else {})

    def _settings(self) -> dict[str, Any]:
        """What an append was made with, besides what is of each sample."""
        own = {"shard_size": self.pack.shard_size, "seed": self.pack.seed}
        return {"made_by": made_by(), **own}


def _usable(folder: Path, index: dict[str, Any] | None) -> dict[str, Any] | None:
    """The index, if it is of pack and its files are there; without it all is packed anew."""
    if index is None or "appends" not in index:
        return None
    return index if all((folder / name).exists() for name in index["index"]) else None


def _is_whole(folder: Path, shard: Mapping[str, Any]) -> bool:
    path: Path = folder / shard["path"]
    return path.exists() and path.stat().st_size == int(shard["bytes"])


def _report(
    folder: Path,
    index: Mapping[str, Any],
    appended: Appended,
    added: int,
    removed: int,
    notes: tuple[str, ...],
) -> PackReport:
    lost = [f for f in appended.failures if f.is_lost]
    return PackReport(
        folder=folder,
        samples=index["rows"],
        shards=len(index["shards"]),
        bytes=sum(s["bytes"] for s in index["shards"]),
        buckets=Counter(index["buckets"]),
        copied=index["copied"],
        encoded=index["encoded"],
        no_bucket=tuple(index["no_bucket"]),
        failures=(*lost, *(PackFailure.read(f) for f in index["failures"])),
        digest=index["digest"],
        added=added,
        removed=removed,
        notes=notes,
    )
