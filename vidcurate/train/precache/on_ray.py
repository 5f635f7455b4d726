"""Precache on a Ray cluster: actors that hold the models encode a tar a task.

The shards lie on storage that all nodes share: actors write tars and records, the driver alone
commits, as it does inline.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vidcurate.errors import UserError, VidcurateError
from vidcurate.run.on_ray import Cluster, quiet_core
from vidcurate.train.config import TrainConfig
from vidcurate.train.precache.encode import Encoder, Reader, encode_unit
from vidcurate.train.precache.plan import Parent, Plan, Unit

_RETRIES = 3  # of a task whose actor dies
_POLL = 0.2


class RayHands:
    """The hands of a Ray cluster, which is joined or started for each set.

    Each actor has a GPU, where the cluster has any, and the cores of itself and of the recipe's
    data.workers.

    Args:
        address: of a cluster to join; "auto" finds one, "local" starts one on this machine.
    """

    def __init__(self, config: TrainConfig, address: str) -> None:
        self._config = config
        self._address = address

    def encode(
        self, plan: Plan, units: list[Unit], stop: threading.Event, done: Callable[[int], None]
    ) -> None:
        """See `Hands`.

        Raises:
            UserError: the cluster cannot be reached, or its actors keep dying.
        """
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # before the import, as in `run_ray`
        import ray
        import ray.exceptions

        with ExitStack() as session:
            session.enter_context(Cluster(self._address))
            session.enter_context(quiet_core())
            actors = self._actors(plan, max(1, len(units)))
            try:
                _answer(ray.get(actors[0].write_empty.remote(str(plan.folder))))
                self._encode_all(actors, plan, units, stop, done)
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"the Ray run failed: {error}; see the Ray logs, then run again: finished "
                    "tars are kept"
                ) from error
            finally:  # an error, or a second Ctrl-C
                for actor in actors:
                    ray.kill(actor)

    def _actors(self, plan: Plan, most: int) -> list[Any]:
        import ray

        has = ray.cluster_resources()
        cores, gpus = max(1, int(has.get("CPU", 1))), int(has.get("GPU", 0))
        each = min(1 + self._config.data.workers, max(1, cores // gpus) if gpus else cores)
        make = ray.remote(_Actor).options(
            num_cpus=each,
            num_gpus=1 if gpus else 0,
            # Endless without bounds.
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
        count = min(gpus or max(1, cores // each), most)
        return [make.remote(self._config, plan.parent.root) for _ in range(count)]

    def _encode_all(
        self,
        actors: list[Any],
        plan: Plan,
        units: list[Unit],
        stop: threading.Event,
        done: Callable[[int], None],
    ) -> None:
        import ray

        left = iter(units)
        idle = list(actors)
        waiting: dict[Any, tuple[Any, Unit]] = {}
        while True:
            while idle and not stop.is_set() and (unit := next(left, None)) is not None:
                actor = idle.pop()
                waiting[actor.encode.remote(unit, str(plan.folder))] = actor, unit
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), timeout=_POLL)
            for ref in ready:
                _answer(ray.get(ref))
                actor, unit = waiting.pop(ref)
                idle.append(actor)
                done(len(unit.rows))


class _Actor:
    """Holds the models, and reads what it encodes by workers of its own."""

    def __init__(self, config: TrainConfig, root: str) -> None:
        self._config = config
        self._root = root
        self._parts: tuple[Parent, Encoder] | None = None

    def write_empty(self, folder: str) -> VidcurateError | None:
        try:
            self._loaded()[1].write_empty(Path(folder))
        except VidcurateError as error:  # as it is: Ray would wrap it
            return error
        return None

    def encode(self, unit: Unit, folder: str) -> VidcurateError | None:
        try:
            parent, encoder = self._loaded()
            rows = (int(row) for row in unit.new)
            with Reader(parent, self._config.data.workers).read(rows) as clips:
                encode_unit(unit, Path(folder), parent, encoder, clips)
        except VidcurateError as error:
            return error
        return None

    def _loaded(self) -> tuple[Parent, Encoder]:
        if self._parts is None:
            self._parts = Parent(self._config, self._root), Encoder(self._config)
        return self._parts


def _answer(result: VidcurateError | None) -> None:
    if result is not None:
        raise result
