"""One append: clips that the shards lack are cut and written to shards of their own.

First all clips are cut into the work folder, each cut under the fingerprint of its clip, so that
another append can use it; then their sizes are known and plan.json says which clip goes where; then
the shards are written, several at a time. Killed at any moment, the next call goes on from there
and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vidcurate import errors
from vidcurate.clip import short_hash
from vidcurate.durable import replacing
from vidcurate.errors import AcquireError, CutError, DataError
from vidcurate.recipe.model import Limits, Pack
from vidcurate.shards.cuts import cut_all, read_cut
from vidcurate.shards.index import made_by
from vidcurate.shards.leftovers import WORK
from vidcurate.shards.shard_job import ShardJob, media_of, read_clip, write_shard
from vidcurate.shards.wanted import Row, Wanted, by_clip, source_tasks

CLIPS_A_TASK = 16  # of one source: few enough to share a long video among the cores
_OVERHEAD = 4096  # bytes of a sample's headers, padding, .json and .txt, for planning


@dataclass(frozen=True)
class PackFailure:
    """A clip that could not be packed. is_lost: as its source cannot be had; it is tried again."""

    clip_id: str
    video_id: str
    error: DataError
    is_lost: bool = False

    def plain(self) -> dict[str, Any]:
        """As index.json and plan.json have it."""
        return {
            "clip_id": self.clip_id,
            "video_id": self.video_id,
            "error": type(self.error).__name__,
            "message": str(self.error),
            "transient": self.error.is_transient,
        }

    @classmethod
    def read(cls, values: Mapping[str, Any], *, is_lost: bool = False) -> PackFailure:
        """What `plain` gave."""
        kind = getattr(errors, values["error"], CutError)
        error = kind(values["message"], transient=values["transient"])
        return cls(values["clip_id"], values["video_id"], error, is_lost)


class Hands(Protocol):
    """Who cuts clips and writes shards: threads of this process, or a cluster."""

    def cut(
        self, clips: Sequence[Wanted], folder: Path, done: Callable[[int], None]
    ) -> list[PackFailure]:
        """Cut the clips into a folder; `done` is told how many more came to an end."""
        ...

    def write(self, jobs: Sequence[ShardJob]) -> list[dict[str, Any]]:
        """`write_shard` for each job, in any order; gives what it gave in the jobs' order."""
        ...


@dataclass(frozen=True)
class Appended:
    """What an append made. shards: as index.json names them. parts: their index rows, in order."""

    shards: list[dict[str, Any]]
    parts: list[Path]
    failures: list[PackFailure]


class Threads:
    """The hands of this process.

    Args:
        workers: child processes that cut at a time, and threads that write.
        locate: where the picture of a clip is, or why it cannot be had; default its row's `path`.
    """

    def __init__(
        self,
        pack: Pack,
        limits: Limits,
        workers: int,
        locate: Callable[[Row], Path | AcquireError] | None = None,
    ) -> None:
        self._pack = pack
        self._limits = limits
        self._workers = workers
        self._locate = locate or (lambda row: Path(row["path"]))

    def cut(
        self, clips: Sequence[Wanted], folder: Path, done: Callable[[int], None]
    ) -> list[PackFailure]:
        """See `Hands`.

        Raises:
            StorageError: the disk is full.
        """
        failures: list[PackFailure] = []
        paths: dict[str, Path] = {}
        for clip in clips:
            path = self._locate(clip.row)
            if isinstance(path, AcquireError):
                failures.append(PackFailure(clip.clip_id, clip.row["video_id"], path, is_lost=True))
            else:
                paths[clip.clip_id] = path
        if failures:
            done(len(failures))
        at_hand = [clip for clip in clips if clip.clip_id in paths]
        tasks = source_tasks(at_hand, paths, folder, self._pack, self._limits, CLIPS_A_TASK)
        wrong = cut_all(tasks, workers=self._workers, limits=self._limits, done=done)
        clip_of = by_clip(at_hand)
        videos = {clip.clip_id: str(clip.row["video_id"]) for clip in at_hand}
        for name, error in wrong.items():
            failures.append(PackFailure(clip_of(name), videos[clip_of(name)], error))
        return failures

    def write(self, jobs: Sequence[ShardJob]) -> list[dict[str, Any]]:
        """See `Hands`."""
        with ThreadPoolExecutor(self._workers) as threads:
            return list(threads.map(write_shard, jobs))


class Append:
    """One append at work.

    Args:
        name: of the append, and of its shards. clips: what it is to add, by id.
        is_all: nothing else is in the shards: it may not come out empty for want of sources.
        progress: called with (clips that came to an end, clips in all).
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        clips: Mapping[str, Wanted],
        pack: Pack,
        hands: Hands,
        *,
        is_all: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._folder = folder
        self._name = name
        self._clips = clips
        self._pack = pack
        self._hands = hands
        self._is_all = is_all
        self._progress = progress
        self._work = folder / WORK / name
        # Other versions cut other bytes.
        versions = short_hash(json.dumps(made_by(), sort_keys=True))[:8]
        self._cuts = folder / WORK / f"cuts-{versions}"

    def run(self) -> Appended:
        """Cut and write; again after a kill.

        Raises:
            NoSourceError: no source of any clip can be had, and `is_all`.
            StorageError: the disk is full.
            RunDirectoryError: a cut was removed by someone else.
        """
        self._clear()
        plan = self._planned()
        jobs = [
            ShardJob(
                folder=self._folder,
                part=self._work / f"part-{number:06}.parquet",
                cuts=self._cuts,
                path=shard["path"],
                clips=tuple(self._clips[i] for i in shard["clips"]),
                pack=self._pack,
            )
            for number, shard in enumerate(plan["shards"])
        ]
        facts = self._hands.write(jobs)
        return Appended(
            shards=[{**f, "append": self._name} for f in facts],
            parts=[job.part for job in jobs],
            failures=[PackFailure.read(f) for f in plan["failures"]]
            + [PackFailure.read(f, is_lost=True) for f in plan["lost"]],
        )

    def _clear(self) -> None:
        """Remove what an append of other clips has left, but for the cuts that are of use."""
        self._work.mkdir(parents=True, exist_ok=True)
        self._cuts.mkdir(exist_ok=True)
        for path in (self._folder / WORK).iterdir():
            if path not in (self._work, self._cuts):
                shutil.rmtree(path)
        marks = {clip.fingerprint for clip in self._clips.values()}
        for path in self._cuts.iterdir():
            if path.name.partition(".")[0] not in marks:
                path.unlink()

    # ------------------------------------------------------------------ cuts and plan

    def _planned(self) -> dict[str, Any]:
        """The shards to write; made once all clips are cut, then kept."""
        path = self._work / "plan.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return found
        failures = sorted(self._cut(), key=lambda failure: failure.clip_id)
        lost = [failure for failure in failures if failure.is_lost]
        if self._is_all and lost and len(lost) == len(self._clips):
            raise NoSourceError(self._folder.name, lost)
        out = {failure.clip_id for failure in failures}
        left = [clip for i, clip in self._clips.items() if i not in out]
        shards: list[dict[str, Any]] = []
        for bucket in sorted({clip.bucket.name for clip in left}):
            mine = [clip for clip in left if clip.bucket.name == bucket]
            for number, ids in enumerate(self._split(spread(mine, self._pack.seed))):
                name = f"{bucket}/{self._name}-{number:05}.tar"
                shards.append({"path": name, "clips": ids})
        plan = {
            "shards": shards,
            "failures": [f.plain() for f in failures if not f.is_lost],
            "lost": [f.plain() for f in lost],
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plan), "utf-8")
        return plan

    def _cut(self) -> list[PackFailure]:
        clips = self._clips.values()
        left = [clip for clip in clips if read_cut(self._cuts, clip.fingerprint) is None]
        ended = len(clips) - len(left)
        lock = threading.Lock()

        def done(count: int) -> None:
            nonlocal ended
            with lock:
                ended += count
                if self._progress is not None:
                    self._progress(ended, len(clips))

        return self._hands.cut(left, self._cuts, done) if left else []

    def _split(self, clips: Sequence[Wanted]) -> Iterator[list[str]]:
        held: list[str] = []
        size = 0
        for clip in clips:
            cut = read_clip(self._cuts, clip)
            weight = sum(path.stat().st_size for path in media_of(cut).values()) + _OVERHEAD
            if held and size + weight > self._pack.shard_size:
                yield held
                held, size = [], 0
            held.append(clip.clip_id)
            size += weight
        if held:
            yield held


class NoSourceError(AcquireError):
    """None of a selection's sources can be had. failures: of its clips."""

    def __init__(self, selection: str, failures: Sequence[PackFailure]) -> None:
        super().__init__(
            f"{selection}: none of the {len(failures)} selected clips can be packed, as their "
            f"sources cannot be had ({failures[0].error}); shards that were packed before are left "
            "as they are"
        )
        self.failures = tuple(failures)


def spread(clips: Sequence[Wanted], seed: int) -> list[Wanted]:
    """The order of clips in shards: a seeded one, in which clips of one video lie far apart.

    The k clips of a video lie at even distances, one in each k-th of the order; where the first one
    lies, and which it is, the seed decides.
    """

    def draw(name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")

    by_video: dict[str, list[Wanted]] = {}
    for clip in clips:
        by_video.setdefault(clip.row["video_id"], []).append(clip)
    places: list[tuple[float, int, str, Wanted]] = []
    for video, mine in by_video.items():
        first = draw(video) / 2**64
        mine.sort(key=lambda clip: draw(clip.clip_id))
        for i, clip in enumerate(mine):
            places.append(((i + first) / len(mine), draw(clip.clip_id), clip.clip_id, clip))
    return [clip for *_, clip in sorted(places, key=lambda place: place[:3])]
