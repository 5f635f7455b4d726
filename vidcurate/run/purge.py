"""Purge: remove videos and clips from all that a run directory holds, and remember them.

First one manifest retires their rows and puts their ids into the table `purged`: from then on
they are gone for every reader and every later pass. Then, for all that was ever purged, the bytes
go: parts, media, downloads, selections, shards, the report. Killed at any moment, the run
directory is valid, and the same call again ends the job.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from vidcurate.acquire.cache import Cache
from vidcurate.clip import SELECTION_SCHEMA, short_hash
from vidcurate.durable import replacing
from vidcurate.errors import UserError
from vidcurate.operator.columns import column_name
from vidcurate.recipe.model import Recipe
from vidcurate.run import passes, tables
from vidcurate.run.commit import Committer
from vidcurate.run.compact import compact
from vidcurate.run.lease import Lease
from vidcurate.run.manifest import ROW_GROUP, live_parts, read_manifests, write_part
from vidcurate.run.purge_ids import Found, find
from vidcurate.run.record import read_record
from vidcurate.run.tables import Run, quoted
from vidcurate.shards.index import read_index
from vidcurate.shards.purge import Gone, held, purge_shards

_REPORT = "report.html"


@dataclass
class PurgeReport:
    """What a purge removed, or would remove.

    videos, clips, quarantine: rows of these tables. unknown: ids that mean nothing here.
    selections: rows by selection. samples, shards: by packed selection, their number and the tars
    (below OUT/shards/<selection>) that held them. media: files. downloads: cached videos.
    bytes: freed; of a dry run those of media and downloads. copies: source keys of other videos
    with the same bytes, which stay. report: what became of OUT/report.html ("rebuilt",
    "removed: why"), None where there was none.
    """

    videos: int = 0
    clips: int = 0
    quarantine: int = 0
    unknown: tuple[str, ...] = ()
    selections: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    shards: dict[str, tuple[str, ...]] = field(default_factory=dict)
    media: int = 0
    downloads: int = 0
    bytes: int = 0
    copies: tuple[str, ...] = ()
    report: str | None = None


def purge(
    lease: Lease,
    ids: Iterable[str],
    *,
    cache: Path,
    dry_run: bool = False,
    stop: threading.Event | None = None,
) -> PurgeReport:
    """Remove videos and clips from tables, media, downloads, selections, shards and the report.

    A video takes its clips, its quarantine rows and its download with it; a clip goes alone. What
    an earlier purge left behind when it was killed goes, too. Source files of the user stay.

    Args:
        lease: of the run directory, held.
        ids: of clips and videos: ours, the dataset's own, source keys, URLs, locations.
        cache: where downloads are kept.
        dry_run: only tell.
        stop: set it to end after the step at work.

    Raises:
        UserError: none of the ids is known here; nothing was changed.
        KeyboardInterrupt: `stop` was set.
        RunDirectoryError: the directory or one of its shards is damaged.
        StorageError: it cannot be written (a full disk).
    """
    with tables.open(lease.out) as run:
        found = find(run, ids)
        if not found.known:
            raise UserError(
                f"none of the {len(found.unknown)} ids is known in {lease.out} "
                f"({', '.join(found.unknown[:3])}{', ...' if len(found.unknown) > 3 else ''}); "
                "nothing was changed. To keep videos out that were never taken, use the source's "
                "`exclude`"
            )
        report = PurgeReport(
            videos=len(found.retire["videos"]),
            clips=len(found.retire["clips"]),
            quarantine=len(found.retire["quarantine"]),
            unknown=found.unknown,
            copies=found.copies,
        )
        purged = pa.concat_tables([run.table("purged"), found.new])
        work = _Purge(lease, purged, cache, report, stop or threading.Event())
        if dry_run:
            work.tell(run, found)
            return report
    committer = Committer(lease)
    committer.clean()
    parts = {"purged": [write_part(lease.out, "purged", found.new)]} if len(found.new) else {}
    committer.commit("purge", parts, found.retire)
    work.finish()
    return report


class _Purge:
    """One purge at work on all that was ever purged in a run directory."""

    def __init__(
        self,
        lease: Lease,
        purged: pa.Table,
        cache: Path,
        report: PurgeReport,
        stop: threading.Event,
    ) -> None:
        self.lease = lease
        self.out = lease.out
        self.cache = cache
        self.report = report
        self.stop = stop
        is_video = pc.equal(purged["kind"], "video")
        self.videos = purged.filter(is_video)
        clips = purged.filter(pc.invert(is_video))["id"].combine_chunks()
        self.gone = Gone(clips, self.videos["id"].combine_chunks())
        self.recipe: Recipe | None = None
        self.trouble = ""
        try:
            self.recipe = passes.recorded_recipe(self.out)
        except UserError as error:  # a removal never waits for a recipe to be mended
            self.trouble = str(error).splitlines()[0]

    def packed(self) -> list[Path]:
        """Folders of packed selections."""
        return sorted(p for p in (self.out / "shards").glob("*") if p.is_dir())

    def tell(self, run: Run, found: Found) -> None:
        """Fill the report with what would be removed."""
        for file in sorted((self.out / "selections").glob("*/clips.parquet")):
            if count := _held_rows(file, self.gone.clips):
                self.report.selections[file.parent.name] = count
        for folder in self.packed():
            if counts := held(folder, self.gone):
                self.report.samples[folder.name] = sum(counts.values())
                self.report.shards[folder.name] = tuple(counts)
        with run.connect() as connection:
            connection.register("_going", pa.table({"clip_id": found.retire["clips"]}))
            media = connection.execute(
                "SELECT media FROM _clips SEMI JOIN _going USING (clip_id) WHERE media IS NOT NULL"
            ).fetchall()
        files = [p for (path,) in media if (p := self.out / path).exists()]
        downloads = [files for _, files in self.downloads()]
        self.report.media, self.report.downloads = len(files), len(downloads)
        self.report.bytes = sum(p.stat().st_size for group in (files, *downloads) for p in group)

    def finish(self) -> None:
        """Remove the bytes of what no table names any more, one kind of place after the other."""
        for step in (
            self.compact,
            self.sweep_media,
            self.forget_downloads,
            self.purge_selections,
            self.purge_shards,
            self.update_record,
            self.rebuild_report,
        ):
            if self.stop.is_set():
                raise KeyboardInterrupt
            step()

    def compact(self) -> None:
        """Write the parts anew that hold retired rows."""
        before = _part_bytes(self.out)
        compact(self.lease, target=0)
        self.report.bytes += before - _part_bytes(self.out)

    def sweep_media(self) -> None:
        """Remove media that no clip names; those of clips of a former splitter are among them."""
        with tables.open(self.out) as run, run.connect() as connection:
            for folder in sorted(p for p in (self.out / "media").glob("*") if p.is_dir()):
                files = {f"media/{folder.name}/{p.name}": p for p in folder.iterdir()}
                connection.register("_files", pa.table({"media": pa.array(files, pa.string())}))
                rest = connection.execute(
                    "SELECT media FROM _files ANTI JOIN _clips USING (media)"
                ).fetchall()
                for (name,) in rest:
                    self._remove(files[name])
                    self.report.media += 1
                if len(rest) == len(files):
                    folder.rmdir()

    def downloads(self) -> Iterator[tuple[str, list[Path]]]:
        """Cached videos that are to go: what the cache knows each by, and its files."""
        for row in self.videos.select(["source_key", "location"]).to_pylist():
            for key in sorted({v for v in row.values() if v is not None}):
                folder = Cache(self.cache).path(key, "lock").parent
                # The first is where earlier versions kept it.
                found = [self.cache / short_hash(key), *folder.glob("*")]
                files = [p for p in found if p.is_file() and p.name != "lock"]
                if files:
                    yield key, files

    def forget_downloads(self) -> None:
        for key, files in self.downloads():
            # A further link is another video with the same bytes: those stay.
            self.report.bytes += sum(s.st_size for p in files if (s := p.stat()).st_nlink <= 2)
            (self.cache / short_hash(key)).unlink(missing_ok=True)
            Cache(self.cache).forget(key)
            self.report.downloads += 1

    def purge_selections(self) -> None:
        """Remove rows of selections, and count anew what is left."""
        for file in sorted((self.out / "selections").glob("*/clips.parquet")):
            if count := _held_rows(file, self.gone.clips):
                before = file.stat().st_size
                _drop_rows(file, self.gone.clips)
                self.report.selections[file.parent.name] = count
                self.report.bytes += before - file.stat().st_size
        written = sorted((self.out / "selections").glob("*/selection.yaml"))
        if stale := [file for file in written if _is_stale(file)]:
            with tables.open(self.out) as run:
                for file in stale:
                    _recount(run, file)

    def purge_shards(self) -> None:
        for folder in self.packed():
            done = purge_shards(folder, self.gone)
            self.report.bytes += done.bytes
            if done.samples:
                self.report.samples[folder.name] = done.samples
                self.report.shards[folder.name] = done.shards

    def update_record(self) -> None:
        """Bring the counts in run.json up to date; its state stays what it was."""
        record = read_record(self.out)
        if record is None:
            return
        for name, counts in record.passes.get("select", {}).get("selections", {}).items():
            written = self.out / "selections" / name / "selection.yaml"
            if written.is_file():
                counts.update(yaml.safe_load(written.read_text("utf-8"))["counts"])
        for name, facts in record.passes.get("pack", {}).get("selections", {}).items():
            index = read_index(self.out / "shards" / name)
            if index is not None:
                facts.update(_facts(index))
        record.write(self.out)

    def rebuild_report(self) -> None:
        """It shows pictures of clips: made anew, or removed where that is not possible."""
        page = self.out / _REPORT
        page.with_suffix(".html.tmp").unlink(missing_ok=True)  # of a build that was killed
        record = read_record(self.out)
        if not page.exists():
            return
        if self.recipe is None or record is None:
            page.unlink()
            self.report.report = f"removed: {self.trouble or 'there is no run.json'}"
            return
        if record.state == "running":  # of a run that was killed
            record.state = "interrupted"
        passes.run_report(passes.Session(self.lease, self.recipe, record))
        self.report.report = "rebuilt"

    def _remove(self, file: Path) -> None:
        self.report.bytes += file.stat().st_size
        file.unlink()


def _part_bytes(out: Path) -> int:
    parts = live_parts(read_manifests(out))
    return sum(entry.part.bytes for live in parts.values() for entry in live)


def _facts(index: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of a packed selection, as its index.json stands now."""
    return {
        "samples": index["rows"],
        "shards": len(index["shards"]),
        "bytes": sum(s["bytes"] for s in index["shards"]),
        "failures": len(index["failures"]),
        "no_bucket": len(index["no_bucket"]),
        **{key: index[key] for key in ("buckets", "copied", "encoded", "digest")},
    }


# --------------------------------------------------------------------------- selections


def _held_rows(file: Path, clips: pa.Array) -> int:
    """How many of a selection's rows are of these clips."""
    with pq.ParquetFile(file) as part:
        batches = part.iter_batches(ROW_GROUP, columns=["clip_id"])
        return sum(pc.sum(pc.is_in(b["clip_id"], value_set=clips)).as_py() or 0 for b in batches)


def _drop_rows(file: Path, clips: pa.Array) -> None:
    with (
        pq.ParquetFile(file) as part,
        replacing(file) as temporary,
        pq.ParquetWriter(temporary, SELECTION_SCHEMA, compression="zstd") as writer,
    ):
        for batch in part.iter_batches(ROW_GROUP):
            rows = pa.table(batch)
            stay = pc.invert(pc.is_in(rows["clip_id"], value_set=clips))
            writer.write_table(rows.filter(stay).cast(SELECTION_SCHEMA))


def _is_stale(written: Path) -> bool:
    """Whether the counts in selection.yaml are not those of clips.parquet beside it."""
    about = yaml.safe_load(written.read_text("utf-8"))
    rows = pq.read_metadata(written.with_name("clips.parquet")).num_rows
    return bool(rows != about["counts"]["clips"])


def _recount(run: Run, written: Path) -> None:
    """Bring the counts in selection.yaml up to date."""
    about = yaml.safe_load(written.read_text("utf-8"))
    counts = about["counts"]
    fates = quoted(f"selection_{written.parent.name}")
    wanted = [f"count(*) FILTER (fate = '{f}') AS {f}" for f in ("kept", "failed", "unjudged")]
    wanted += [f"count(*) FILTER (split = '{s}') AS {s}" for s in ("train", "val")]
    names = run.schema("clips").names
    nulls = {
        step: [c for name in about["thresholds"][step] if (c := _column(step, name)) in names]
        for step in counts["nulls"]
    }
    for step, columns in nulls.items():
        empty = " OR ".join(f"c.{quoted(column)} IS NULL" for column in columns) or "false"
        wanted.append(f"count(*) FILTER (fate = 'kept' AND ({empty})) AS {quoted('null ' + step)}")
    found = run.sql(
        f"SELECT count(*) AS clips, {', '.join(wanted)}, "
        "coalesce(sum(c.\"end\" - c.start) FILTER (fate = 'kept'), 0) / 3600 AS hours "
        f"FROM {fates} s LEFT JOIN clips c USING (clip_id)"
    ).to_pylist()[0]
    drops = run.sql(
        f"SELECT \"by\", reason, count(*) AS n FROM {fates} WHERE fate = 'dropped' GROUP BY ALL"
    ).to_pylist()
    left = {(d["by"], d["reason"]): d["n"] for d in drops}
    counts["dropped"] = [
        d | {"clips": left[d["by"], d["reason"]]}
        for d in counts["dropped"]
        if (d["by"], d["reason"]) in left
    ]
    counts["nulls"] = {step: found.pop(f"null {step}") for step in nulls}
    counts.update(found)
    with replacing(written) as temporary:
        temporary.write_text(yaml.safe_dump(about, sort_keys=False), "utf-8")


def _column(step: str, name: str) -> str:
    return step if name == step else column_name(step, name)
