"""What a packed selection, or one of its shards, holds: from the index, or from a bare tar."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from vidcurate.clip import is_url
from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.shards.index import INDEX_FILE, read_index
from vidcurate.shards.tar_samples import TarSample, tar_samples

_MEMORY = "1GiB"
_CAPTION = 200  # characters


@dataclass(frozen=True)
class BucketFacts:
    """One bucket. width, height, frames: None for `native`. bytes: of its shards."""

    name: str
    width: int | None
    height: int | None
    frames: int | None
    samples: int
    minutes: float
    bytes: int
    shards: int


@dataclass(frozen=True)
class ScoreFacts:
    """How many samples have a score, and its lowest, middle and highest value.

    NaN and infinity are none.
    """

    samples: int
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Inspection:
    """What a selection's index says.

    minutes: of video in the files. splits, captions: how many samples are in a split, have that
    caption. sound, vfr: samples with sound, of a variable rate. failures, no_bucket: clips that
    should have been packed and are not. made_by: the versions that wrote its shards, each once.
    is_foreign: `vidcurate index` made it. chosen: the buckets that `buckets: auto` chose, as a
    recipe has them; None where the recipe named them. derived: of a precached set, by which
    settings it was made.
    """

    folder: Path
    selection: str
    samples: int
    videos: int
    minutes: float
    bytes: int
    shards: int
    buckets: tuple[BucketFacts, ...]
    splits: Mapping[str, int]
    captions: Mapping[str, int]
    scores: Mapping[str, ScoreFacts]
    sound: int
    vfr: int
    failures: int
    no_bucket: int
    made_by: tuple[Mapping[str, str], ...]
    digest: str
    is_foreign: bool
    chosen: Mapping[str, Any] | None
    derived: Mapping[str, Any] | None


@dataclass(frozen=True)
class SampleFacts:
    """One sample of a shard; what only an index tells is None without one.

    members: suffix -> offset and size in bytes. caption: its beginning.
    """

    sample_id: str
    members: Mapping[str, tuple[int, int]]
    caption: str
    n_frames: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    seconds: float | None = None
    has_audio: bool | None = None
    split: str | None = None


def local(path: Path | str) -> Path:
    """A path on this machine.

    Raises:
        UserError: it is a URL.
    """
    if is_url(str(path)):
        raise UserError(f"{path}: only local paths are read here; copy or mount it first")
    return Path(path)


def packed(path: Path) -> list[Path]:
    """The packed selections that a path names: its own folder, or all of a run directory.

    Raises:
        UserError: there is none; says what is there and what to do.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder and no .tar" if path.exists() else f"no such {path}")
    if (path / INDEX_FILE).exists():
        return [path]
    for parent in (path / "shards", path):
        if found := sorted(index.parent for index in parent.glob(f"*/{INDEX_FILE}")):
            return found
    for run, below in (
        (path, "."),
        (path / "..", "shards"),
        (path / "../..", f"shards/{path.name}"),
    ):
        if (run / "run.json").exists() and (run / below).resolve() == path.resolve():
            raise UserError(f"{path} is not packed to its end: vidcurate pack {run.resolve()}")
    if next(path.rglob("*.tar"), None) is not None:
        raise UserError(f"{path} holds tars without an index: vidcurate index {path}")
    raise UserError(f"{path} holds no packed selection ({INDEX_FILE}) and no tars")


def index_of_shard(shard: Path) -> tuple[Path, str] | None:
    """The folder whose index names a tar, and the tar's path there; None where there is none."""
    shard = shard.absolute()
    for folder in shard.parents:
        if not (folder / INDEX_FILE).exists():
            continue
        try:
            index = read_index(folder) or {"shards": ()}
        except RunDirectoryError:  # damaged, or another tool's: the tar can do without
            continue
        relative = shard.relative_to(folder).as_posix()
        if any(entry["path"] == relative for entry in index["shards"]):
            return folder, relative
    return None


@contextlib.contextmanager
def open_rows(folder: Path, index: Mapping[str, Any]) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the index rows as the view `samples`, in bounded memory.

    Raises:
        RunDirectoryError: an index file is missing or damaged.
    """
    with (
        tempfile.TemporaryDirectory(prefix="vidcurate-inspect-") as spill,
        contextlib.closing(
            duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": spill})
        ) as connection,
    ):
        try:
            rows = connection.read_parquet([str(folder / name) for name in index["index"]])
            rows.create_view("samples")
            yield connection
        except duckdb.Error as error:
            raise RunDirectoryError(
                f"{folder}: its index cannot be read ({error}); remove {INDEX_FILE} and pack or "
                "index again"
            ) from error


def inspect_selection(folder: Path) -> Inspection:
    """What the index of a packed selection says; no shard is read.

    Raises:
        RunDirectoryError: there is no index, or it is damaged.
    """
    index = read_index(folder)
    if index is None:
        raise RunDirectoryError(f"{folder} has no {INDEX_FILE}: it is not packed to its end")
    with open_rows(folder, index) as rows:

        def pairs(query: str) -> dict[str, Any]:
            return {row[0]: row[1:] for row in rows.execute(query).fetchall()}

        totals = rows.execute(
            "SELECT count(DISTINCT video_id), coalesce(sum(duration_s), 0) / 60, "
            "count(*) FILTER (has_audio), count(*) FILTER (vfr) FROM samples"
        ).fetchall()[0]
        buckets = pairs(
            f"SELECT bucket, {_one('bucket_width')}, {_one('bucket_height')}, "
            f"{_one('bucket_frames')}, count(*), sum(duration_s) / 60 "
            "FROM samples GROUP BY bucket"
        )
        splits = pairs("SELECT split, count(*) FROM samples GROUP BY split ORDER BY split")
        captions = pairs(
            "SELECT said.key, count(*) FROM (SELECT unnest(map_entries(captions)) AS said "
            "FROM samples) WHERE trim(said.value) <> '' GROUP BY said.key ORDER BY said.key"
        )
        scores = pairs(
            "SELECT score.key, count(*), min(score.value), median(score.value), max(score.value) "
            "FROM (SELECT unnest(map_entries(scores)) AS score FROM samples) "
            "WHERE isfinite(score.value) "
            "GROUP BY score.key ORDER BY score.key"
        )
    sizes: dict[str, list[int]] = {}
    for shard in index["shards"]:
        sizes.setdefault(shard["bucket"], []).append(shard["bytes"])
    return Inspection(
        folder=folder,
        selection=index["selection"],
        samples=index["rows"],
        videos=totals[0],
        minutes=totals[1],
        bytes=sum(shard["bytes"] for shard in index["shards"]),
        shards=len(index["shards"]),
        buckets=tuple(
            BucketFacts(
                name=name,
                width=facts[0],
                height=facts[1],
                frames=facts[2],
                samples=facts[3],
                minutes=facts[4],
                bytes=sum(sizes.get(name, ())),
                shards=len(sizes.get(name, ())),
            )
            for name, facts in sorted(buckets.items(), key=_place)
        ),
        splits={name: count for name, (count,) in splits.items()},
        captions={name: count for name, (count,) in captions.items()},
        scores={name: ScoreFacts(*facts) for name, facts in scores.items()},
        sound=totals[2],
        vfr=totals[3],
        failures=len(index["failures"]),
        no_bucket=len(index["no_bucket"]),
        made_by=tuple(_makers(index)),
        digest=index["digest"],
        is_foreign="indexed" in index,
        chosen=_chosen(index),
        derived=index.get("derived"),
    )


def _one(column: str) -> str:
    """SQL: a bucket's value, or NULL where its samples differ, as in `native`."""
    return f"if(min({column}) = max({column}), min({column}), NULL)"


def _chosen(index: Mapping[str, Any]) -> dict[str, Any] | None:
    found = index.get("chosen_buckets")
    return None if found is None else {name: v for name, v in found.items() if name != "fit" and v}


def _place(item: tuple[str, tuple[Any, ...]]) -> tuple[int, int, str]:
    """Buckets by the size of their picture, then by frames; `native` last."""
    name, (width, height, frames, *_) = item
    area = 2**62 if width is None else width * height
    return area, frames or 0, name


def _makers(index: Mapping[str, Any]) -> list[Mapping[str, str]]:
    makers = [append["made_by"] for append in index.get("appends", {}).values()]
    found: list[Mapping[str, str]] = []
    for made_by in makers or [index["made_by"]]:
        if made_by not in found:
            found.append(made_by)
    return found


def inspect_shard(shard: Path) -> list[SampleFacts]:
    """The samples of one tar, from the index that names it, else from the tar itself.

    Raises:
        RunDirectoryError: the index's rows are damaged.
    """
    place = index_of_shard(shard)
    if place is None:
        return [_bare(shard, found) for found in tar_samples(shard) if isinstance(found, TarSample)]
    folder, relative = place
    index = read_index(folder)
    assert index is not None
    with open_rows(folder, index) as rows:
        found = rows.execute(
            "SELECT sample_id, members, captions, n_frames, width, height, fps_num, fps_den, "
            "duration_s, has_audio, split FROM samples WHERE shard = ? "
            'ORDER BY members[1]."offset"',
            [relative],
        )
        names = [column[0] for column in found.description or ()]
        samples = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
    return [
        SampleFacts(
            sample_id=row["sample_id"],
            members={m["name"]: (m["offset"], m["size"]) for m in row["members"]},
            caption=caption_of(dict(row["captions"])),
            n_frames=row["n_frames"],
            width=row["width"],
            height=row["height"],
            fps=row["fps_num"] / row["fps_den"],
            seconds=row["duration_s"],
            has_audio=row["has_audio"],
            split=row["split"],
        )
        for row in samples
    ]


def left_out(folder: Path, shard: str) -> dict[str, str]:
    """What of a tar the index that `vidcurate index` made does not have: where, and why.

    Raises:
        RunDirectoryError: the index is damaged.
    """
    failures = (read_index(folder) or {"failures": ()})["failures"]
    return {f["clip_id"]: f["message"] for f in failures if f.get("shard") == shard}


def caption_of(captions: Mapping[str, str | None]) -> str:
    """The beginning of the caption to show: one that a step wrote, `long` first, else `source`."""
    names = sorted(captions, key=lambda name: (name == "source", name != "long", name))
    said = (" ".join((captions[name] or "").split()) for name in names)
    text = next((text for text in said if text), "")
    return text if len(text) <= _CAPTION else f"{text[:_CAPTION]}\N{HORIZONTAL ELLIPSIS}"


def _bare(shard: Path, sample: TarSample) -> SampleFacts:
    text = next((place for place in sample.members if place.suffix == "txt"), None)
    said = b""
    if text is not None:
        with shard.open("rb") as file:
            file.seek(text.offset)
            said = file.read(min(text.size, 4 * _CAPTION + 4))
    return SampleFacts(
        sample_id=sample.key,
        members={place.suffix: (place.offset, place.size) for place in sample.members},
        caption=caption_of({"source": said.decode(errors="replace")}),
    )
