"""The pack pass on a Ray cluster: a task for each source video, then a task for each shard.

OUT is storage that all nodes share: cuts, shards and their index rows are written to it by the
tasks, and the driver alone commits. A source is fetched and cut on one node. A clip that crashes
FFmpeg does so in the supervised child of its task, so that Ray sees no crash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vidcurate.acquire.limits import HostLimits
from vidcurate.errors import UserError
from vidcurate.recipe.model import Limits, Pack
from vidcurate.run.on_ray import Cluster, SharedLimits, quiet_core
from vidcurate.run.pack_sources import Sources
from vidcurate.shards.append import PackFailure, Threads
from vidcurate.shards.shard_job import ShardJob, write_shard
from vidcurate.shards.wanted import Wanted

_RETRIES = 3  # of a task whose process dies
_AHEAD = 2  # tasks for each core that Ray is given before it asks
_POLL = 0.2


@dataclass(frozen=True)
class _VideoJob:
    """The clips of one source video, to be cut into `folder`."""

    clips: tuple[Wanted, ...]
    folder: Path
    pack: Pack
    limits: Limits
    sources: Sources


class RayHands:
    """The hands of a Ray cluster, which is joined or started when there is something to do.

    A context manager: leaving it gives up what is still at work, and leaves the cluster.

    Args:
        sources: how a task comes by its video. address: as of `run_ray`.
    """

    def __init__(self, pack: Pack, limits: Limits, sources: Sources, address: str | None) -> None:
        self._pack = pack
        self._limits = limits
        self._sources = sources
        self._address = address
        self._session = ExitStack()
        self._is_joined = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()

    def cut(
        self, clips: Sequence[Wanted], folder: Path, done: Callable[[int], None]
    ) -> list[PackFailure]:
        """See `Hands`.

        Raises:
            UserError: the cluster cannot be reached, or its workers keep dying; a full disk.
        """
        by_video: dict[str, list[Wanted]] = {}
        for clip in clips:
            by_video.setdefault(clip.row["video_id"], []).append(clip)
        jobs = [
            _VideoJob(tuple(mine), folder, self._pack, self._limits, self._sources)
            for _, mine in sorted(by_video.items())
        ]
        self._join()
        import ray

        # An actor that only answers: it takes no core from the tasks.
        hosts = ray.remote(HostLimits).options(num_cpus=0).remote()
        failures: list[PackFailure] = []
        for number, found in self._each(_cut_video, jobs, hosts):
            failures += found
            done(len(jobs[number].clips))
        return failures

    def write(self, jobs: Sequence[ShardJob]) -> list[dict[str, Any]]:
        """See `Hands`."""
        if not jobs:
            return []
        self._join()
        facts = dict(self._each(_write_shard, jobs))
        return [facts[number] for number in range(len(jobs))]

    def _join(self) -> None:
        if not self._is_joined:
            # As in `run_ray`, before the import.
            os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
            self._session.enter_context(Cluster(self._address))
            self._session.enter_context(quiet_core())
            self._is_joined = True

    def _each(
        self, function: Callable[..., Any], jobs: Iterable[Any], *more: Any
    ) -> Iterator[tuple[int, Any]]:
        """What a function gives for each job, with the job's number, as it comes."""
        import ray
        import ray.exceptions

        # Without bounds Ray tries a task again that raised, or for ever.
        task = ray.remote(function).options(
            num_cpus=1, max_retries=_RETRIES, retry_exceptions=False
        )
        at_once = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        left = enumerate(jobs)
        waiting: dict[Any, int] = {}
        try:
            while True:
                while len(waiting) < at_once and (job := next(left, None)) is not None:
                    waiting[task.remote(job[1], *more)] = job[0]
                if not waiting:
                    return
                ready, _ = ray.wait(list(waiting), timeout=_POLL)
                for ref in ready:
                    result = ray.get(ref)
                    if isinstance(result, UserError):
                        raise result
                    yield waiting.pop(ref), result
        except ray.exceptions.RayError as error:
            raise UserError(
                f"the Ray run failed: {error}; see the Ray logs, then run again"
            ) from error
        finally:  # an error, the budget, or Ctrl-C: what was cut is kept
            for ref in waiting:
                ray.cancel(ref, force=True)


def _cut_video(job: _VideoJob, hosts: Any) -> list[PackFailure] | UserError:
    """Fetch a source and cut its clips, in the process of a task."""
    locate = job.sources.locator(SharedLimits(hosts))
    hands = Threads(job.pack, job.limits, 1, locate)
    try:
        return hands.cut(job.clips, job.folder, lambda _: None)
    except UserError as error:  # as it is: Ray would wrap it
        return error


def _write_shard(job: ShardJob) -> dict[str, Any] | UserError:
    try:
        return write_shard(job)
    except UserError as error:
        return error
