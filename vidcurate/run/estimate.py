"""What a whole recipe will cost, from a random sample of its videos.

The real passes run on the sample, in a run directory of their own. Every number is the sum over
the whole set, N / n times the sum over the sample, with a 95 % interval by the bootstrap
(Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979): the sampled videos are drawn
again with replacement. A sample that is a good part of the set errs less, so deviations are
multiplied with sqrt((1 - n/N) * n/(n - 1)) (the finite population correction, and Bessel's).
"""

from __future__ import annotations

import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from vidcurate.acquire.limits import host_of, rate
from vidcurate.acquire.pages import is_page
from vidcurate.child import Child
from vidcurate.errors import UserError
from vidcurate.intake.videos import Intake
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire, Budget, Limits, Recipe
from vidcurate.run import passes, tables
from vidcurate.run.manifest import local_directory
from vidcurate.run.process import available_cores
from vidcurate.run.score import ScoreResult
from vidcurate.run.tasks import Stats
from vidcurate.shards.append import CLIPS_A_TASK

RESAMPLES = 2_000
_CHUNK = 2_000_000  # weights of the bootstrap that are held at a time
_HOUR = 3600.0
_TB = 1e12
_BLOCK = 512  # of a tar: a header a member, and the padding

Progress = Callable[[ScoreResult, Stats], None]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A random subset of a recipe's videos, in source order.

    videos: how many the source has. faults: rows of its metadata that cannot be read.
    """

    rows: tuple[VideoRow, ...]
    videos: int
    faults: int
    seed: int


@dataclass(frozen=True)
class Prices:
    """What is paid, in any currency: for a core in an hour, and for 10^12 bytes in a month."""

    core_hour: float | None = None
    tb_month: float | None = None


@dataclass(frozen=True)
class Figure:
    """A number of the whole set with its 95 % interval.

    low and high are None where a single video cannot tell them, and equal to `value` where the
    sample is the whole set.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """What is predicted for the whole set. tried, failed: videos of the sample.

    annotates: the recipe has annotate steps, which are left out. cores: that `wall_hours` is of.
    folder: the sample's run directory, where it was kept.
    figures, in this order: failed_videos, clips, clip_hours, video_hours (decoded), and for each
    selection kept_clips.<name> and kept_hours.<name>; cpu_hours, model_hours, wall_hours; bytes as
    disk_downloads, disk_media, disk_shards, disk_tables and their sum disk; cost_compute (the
    cores for the wall time) and cost_storage (a month) where there are prices.
    """

    videos: int
    tried: int
    failed: int
    faults: int
    seed: int
    cores: int
    figures: Mapping[str, Figure]
    annotates: bool = False
    folder: Path | None = None


@dataclass
class _Measured:
    """What each video of the sample came to.

    values: name -> a number a video. rates: names of those that count a host's videos -> how many
    it gives in an hour.
    """

    values: dict[str, Numbers]
    rates: dict[str, float] = field(default_factory=dict)


def draw(recipe: Recipe, videos: int, seed: int = 0) -> Sample:
    """A random subset of the sources' videos, in one pass over their metadata.

    Every subset is equally likely (reservoir sampling, Vitter's algorithm R); only the subset is
    held in memory. The same seed on the same metadata gives the same subset. What `where`,
    `exclude` and earlier purges leave out is not among them.

    Args:
        recipe: validated. videos: how many to take; all where the source has no more.

    Raises:
        UserError: the source cannot be read or has no videos.
    """
    rng = random.Random(seed)
    kept: list[tuple[int, VideoRow]] = []
    seen = faults = 0
    out = local_directory(recipe.output)
    intake = Intake(recipe, banned=_purged(out), scratch=_existing(out.parent))
    try:
        for row in intake:
            if not isinstance(row, VideoRow):
                faults += 1
                continue
            if seen < videos:
                kept.append((seen, row))
            elif (place := rng.randrange(seen + 1)) < videos:
                kept[place] = (seen, row)
            seen += 1
    finally:
        intake.close()
    if not kept:
        raise UserError("there are no videos to try in the recipe's source")
    kept.sort(key=lambda entry: entry[0])
    return Sample(tuple(row for _, row in kept), seen, faults, seed)


def estimate(
    recipe: Recipe,
    sample: Sample,
    *,
    cores: int,
    prices: Prices = Prices(),
    keep: bool = False,
    on_progress: Progress | None = None,
    on_stop: Callable[[], None] | None = None,
) -> Estimate:
    """Run the passes score, group, select and pack on a sample and predict the whole set.

    The sample's run directory lies beside the recipe's output and is removed at the end; its
    downloads are kept as the recipe's `keep_sources` says. A selection's `limit`s are cut to the
    sample's share. CPU hours are of cores like this machine's, without those of model processes:
    model hours are the wall time that the models of the score steps work on this machine's device,
    GPU or CPU. Wall hours are the CPU hours on `cores` cores and the model hours, as if the two
    never overlapped, or the time that the hosts' rates give their videos, where that is longer;
    the network's own speed is not looked at. Failed videos count with what they cost. What the
    interval does not know: duplicates between videos, which hardly show in a sample, and what was
    not sampled at all, as a failure of one video in a thousand. The annotate steps are left out,
    with what they cost and what they drop.

    Args:
        recipe: validated; its `output` need not exist. sample: by `draw`, of this recipe.
        cores: of the machine or cluster that the wall time is asked of.
        prices: what is left out there has no figure.
        keep: leave the sample's run directory, named in the result.
        on_progress, on_stop: as of `vidcurate.run.score.score`.

    Raises:
        UserError: the source, an operator or a selection cannot be used.
        RunDirectoryError: there is no place beside the output.
        KeyboardInterrupt: stopped by Ctrl-C; nothing is left behind.
    """
    out = local_directory(recipe.output)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.estimate-", dir=_existing(out.parent)))
    try:
        measured, failed = _run(_of_sample(recipe, sample, folder), sample, on_progress, on_stop)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return Estimate(
        videos=sample.videos,
        tried=len(sample.rows),
        failed=failed,
        faults=sample.faults,
        seed=sample.seed,
        cores=cores,
        figures=_predict(measured, recipe, sample, cores, prices),
        annotates=bool(recipe.annotate),
        folder=folder if keep else None,
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: most likely on the same disk."""
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _purged(out: Path) -> list[str]:
    """Ids that the run, if there is one, must never take again."""
    if not (out / "manifests").is_dir():
        return []
    with tables.open(out) as run:
        ids: list[str] = run.table("purged", ["id"]).column(0).to_pylist()
    return ids


def _of_sample(recipe: Recipe, sample: Sample, folder: Path) -> Recipe:
    """The recipe as it runs on the sample: on this machine, without a budget."""
    share = len(sample.rows) / sample.videos

    def cut(limit: int | None) -> int | None:
        return None if limit is None else max(1, round(limit * share))

    select = {}
    for name, chosen in recipe.select.items():
        balance = chosen.balance
        if balance is not None:
            balance = balance.model_copy(update={"limit": cut(balance.limit)})
        select[name] = chosen.model_copy(
            update={"limit": cut(chosen.limit), "balance": balance, "where_annotated": None}
        )
    return replace(
        recipe,
        output=str(folder),
        select=select,
        annotate=(),
        executor="inline",
        address=None,
        budget=Budget(),
    )


# --------------------------------------------------------------------------- the sample


def _run(
    recipe: Recipe,
    sample: Sample,
    on_progress: Progress | None,
    on_stop: Callable[[], None] | None,
) -> tuple[_Measured, int]:
    """Run the passes; what each video came to, and how many failed."""
    costs: dict[str, Stats] = {}

    def update(result: ScoreResult, added: Stats) -> None:
        assert added.location is not None, "the inline executor reports video by video"
        costs[added.location] = added
        if on_progress is not None:
            on_progress(result, added)

    with passes.session(recipe, recipe.output) as work:
        result = passes.run_score(work, videos=sample.rows, on_progress=update, on_stop=on_stop)
        if result.interrupted:
            raise KeyboardInterrupt
        if recipe.group:
            passes.run_group(work)
        passes.run_select(work)
        before = _cpu_seconds()
        if recipe.pack is not None:
            passes.run_pack(work)
        pack_cpu = _cpu_seconds() - before
    # One place, once: the table of videos tells them apart by nothing else that a row knows.
    named = dict.fromkeys(row.location for row in sample.rows)
    places = {location: i for i, location in enumerate(named)}
    with tables.open(recipe.output) as run:
        values = _of_stats(costs, places) | _of_tables(run, recipe, places)
    # Of pack only the sum is known: the more a video gave to the shards, the more work it was.
    shards = values["shards"]
    if shards.any():
        pack_cpu = max(0.0, pack_cpu - _starts(values, recipe) * _start_seconds(recipe.limits))
        values["cpu"] += pack_cpu * shards / shards.sum()
    # A file's footer stays while its rows become many, so only the data is counted.
    rows = values["clips"] + 1
    values["tables"] = _table_bytes(Path(recipe.output)) * rows / rows.sum()
    measured = _Measured(values)
    for location, i in places.items():
        found = _host(location, recipe.acquire) if values["asked"][i] else None
        if found is not None:
            name = f"host:{found[0]}"
            measured.values.setdefault(name, np.zeros(len(places)))[i] = 1
            measured.rates[name] = found[1]
    return measured, int(values["failed"].sum())


def _of_stats(costs: Mapping[str, Stats], places: Mapping[str, int]) -> dict[str, Numbers]:
    values = {
        name: np.zeros(len(places))
        for name in ("failed", "decoded", "cpu", "models", "asked", "downloads", "media")
    }
    for location, stats in costs.items():
        i = places[location]
        values["failed"][i] = stats.failed
        values["decoded"][i] = stats.decoded
        values["cpu"][i] = stats.cpu
        values["models"][i] = sum(step.model_seconds for step in stats.steps.values())
        values["asked"][i] = stats.asked
        values["downloads"][i] = stats.downloaded
        values["media"][i] = stats.media
    return values


def _of_tables(run: tables.Run, recipe: Recipe, places: Mapping[str, int]) -> dict[str, Numbers]:
    def summed(rows: str) -> Iterator[Numbers]:
        """Sums by video; `rows` is a query of video_id and two numbers."""
        found = run.sql(
            f"SELECT v.location, sum(r.a) AS a, sum(r.b) AS b FROM ({rows}) r(video_id, a, b) "
            "JOIN videos v USING (video_id) GROUP BY v.location"
        ).to_pylist()
        for name in ("a", "b"):
            values = np.zeros(len(places))
            for row in found:
                values[places[row["location"]]] = row[name]
            yield values

    values: dict[str, Numbers] = {}
    length = 'c."end" - c.start'
    values["clips"], values["clip_s"] = summed(f"SELECT c.video_id, 1, {length} FROM clips c")
    for name in recipe.select:
        view = tables.quoted(f"selection_{name}")
        values[f"kept:{name}"], values[f"kept_s:{name}"] = summed(
            f"SELECT c.video_id, 1, {length} FROM clips c JOIN {view} s USING (clip_id) "
            "WHERE s.fate = 'kept'"
        )
    member = f"{_BLOCK} + ceil(m.size / {_BLOCK}) * {_BLOCK}"
    values["shards"], _ = summed(
        f"SELECT video_id, list_sum(list_transform(members, lambda m: {member})), 0 FROM index"
    )
    return values


def _table_bytes(out: Path) -> float:
    """Bytes of the data in all Parquet files of a run directory."""
    total = 0
    for file in out.rglob("*.parquet"):
        meta = pq.read_metadata(file)
        groups = (meta.row_group(i) for i in range(meta.num_row_groups))
        total += sum(
            g.column(i).total_compressed_size for g in groups for i in range(g.num_columns)
        )
    return float(total)


def _starts(values: Mapping[str, Numbers], recipe: Recipe) -> int:
    """Children that pack has started, whose start a larger set does not multiply."""
    tasks = [int(np.ceil(values[f"kept:{name}"] / CLIPS_A_TASK).sum()) for name in recipe.select]
    return sum(min(available_cores(), n) for n in tasks)


def _start_seconds(limits: Limits) -> float:
    """CPU time that a child of pack takes before it does anything."""
    child = Child(limits)
    try:
        for _ in child.run(f"{__name__}:idle", None):
            pass
        return child.cpu_seconds()
    finally:
        child.close()


def idle(payload: None) -> Iterator[None]:
    """A job for a child: load what pack's children load, and no more."""
    del payload
    import vidcurate.shards.cuts  # noqa: F401

    yield None


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _host(url: str, cfg: Acquire) -> tuple[str, float] | None:
    """The host of a URL and how many videos an hour it is asked for; None without such a bound."""
    try:
        host = host_of(url)
        per_hour = rate(cfg.download, host, is_page=is_page(url)) if cfg.download else None
    except ValueError:  # no valid URL: nobody was asked
        return None
    return None if per_hour is None else (host, per_hour)


# --------------------------------------------------------------------------- the whole set


def totals(values: Numbers, videos: int, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Sums over a whole set from a sample of it, and how they might have come out.

    Args:
        values: (n, q): q quantities of each of n sampled videos.
        videos: in the whole set, n or more. seed: of the bootstrap.

    Returns:
        (q,) the predicted sums; (RESAMPLES, q) sums of the bootstrap, none of them below what
        the sample alone came to. NaN where n is 1 and `videos` is not.
    """
    n = len(values)
    sums = values.sum(axis=0)
    expected = sums * (videos / n)
    if n == videos:
        return expected, np.broadcast_to(expected, (RESAMPLES, *expected.shape)).copy()
    if n == 1:
        return expected, np.full((RESAMPLES, *expected.shape), np.nan)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n)
    found = [
        rng.multinomial(n, np.full(n, 1 / n), min(chunk, RESAMPLES - first)) @ values
        for first in range(0, RESAMPLES, chunk)
    ]
    spread = np.sqrt((1 - n / videos) * n / (n - 1))
    drawn = expected + (np.concatenate(found) * (videos / n) - expected) * spread
    return expected, np.maximum(drawn, sums)


def _predict(
    measured: _Measured, recipe: Recipe, sample: Sample, cores: int, prices: Prices
) -> dict[str, Figure]:
    names = list(measured.values)
    columns = np.stack([measured.values[name] for name in names], axis=1)
    expected, drawn = totals(columns, sample.videos, sample.seed)
    # The figure itself is the first row, so that what follows is computed once for all.
    whole = dict(zip(names, np.vstack([expected, drawn]).T, strict=True))
    found = {
        "failed_videos": whole["failed"],
        "clips": whole["clips"],
        "clip_hours": whole["clip_s"] / _HOUR,
        "video_hours": whole["decoded"] / _HOUR,
    }
    for name in recipe.select:
        found[f"kept_clips.{name}"] = whole[f"kept:{name}"]
        found[f"kept_hours.{name}"] = whole[f"kept_s:{name}"] / _HOUR
    found["cpu_hours"] = whole["cpu"] / _HOUR
    found["model_hours"] = whole["models"] / _HOUR
    wall = found["cpu_hours"] / cores + found["model_hours"]
    for host, per_hour in measured.rates.items():
        wall = np.maximum(wall, whole[host] / per_hour)
    found["wall_hours"] = wall
    kept = float(recipe.acquire.keep_sources != "never")
    found["disk_downloads"] = whole["downloads"] * kept
    found |= {f"disk_{name}": whole[name] for name in ("media", "shards", "tables")}
    parts = ("downloads", "media", "shards", "tables")
    found["disk"] = np.sum([found[f"disk_{name}"] for name in parts], axis=0)
    if prices.core_hour is not None:
        found["cost_compute"] = wall * cores * prices.core_hour
    if prices.tb_month is not None:
        found["cost_storage"] = found["disk"] / _TB * prices.tb_month
    return {name: _figure(values) for name, values in found.items()}


def _figure(values: Numbers) -> Figure:
    """The figure whose value comes first, before those of the bootstrap."""
    if np.isnan(values[1:]).any():
        return Figure(float(values[0]), None, None)
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return Figure(float(values[0]), float(low), float(high))
