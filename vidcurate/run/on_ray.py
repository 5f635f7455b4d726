"""The Ray executor: Ray Data streams the tasks to a pool of workers on the cluster.

Each actor runs the same `Worker` as the inline executor, with its own supervised decode process,
so that a crashing video never reaches Ray. Actors write part files themselves and send back
reports; the driver alone commits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import pyarrow as pa

from vidcurate.acquire.fetch import Fetcher
from vidcurate.acquire.limits import HostLimits
from vidcurate.errors import DataError, UserError
from vidcurate.plan import ScorePlan
from vidcurate.run.model_host import ModelHost
from vidcurate.run.model_process import Answer, Batch
from vidcurate.run.prefetch import prefetched
from vidcurate.run.tasks import Context, Report, Stats, Task
from vidcurate.run.worker import Worker

_WAVE = 2_000  # tasks handed to Ray at a time: its driver holds all of them
_MAX_BLOCK = 16
_POLL = 0.2


def run_ray(
    tasks: Iterator[Task],
    context: Context,
    stop: threading.Event,
    *,
    address: str | None = None,
    worker: type[Worker] = Worker,
) -> Iterator[Report | Stats]:
    """Score the tasks on a Ray cluster; as `run_inline`.

    Args:
        address: of a cluster to join ("auto" finds one); None is the one of the environment's
            RAY_ADDRESS, and starts one on this machine where that is unset.
        worker: of the pass.

    Raises:
        UserError: the cluster cannot be reached, or its workers keep dying.
    """
    # Before the import: a thread that still reads when Ray is shut down would join or start another
    # cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    with Cluster(address), quiet_core():
        # An actor that only answers: it takes no core from the workers.
        limits = ray.remote(HostLimits).options(num_cpus=0).remote()
        count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        models = _model_actors(context.plan) if context.plan.is_hosted else []
        while not stop.is_set():
            wave = [task for _, task in zip(range(_WAVE), tasks, strict=False)]
            if not wave:
                return
            actor = (worker, context, limits, models)
            yield from _run_wave(wave, actor, min(count, len(wave)), stop)


def _run_wave(
    wave: list[Task],
    actor: tuple[type[Worker], Context, Any, list[Any]],
    workers: int,
    stop: threading.Event,
) -> Iterator[Report | Stats]:
    import ray
    import ray.exceptions

    # Small blocks, so that one slow video holds up no others; larger ones once there are many.
    size = max(1, min(_MAX_BLOCK, len(wave) // (4 * workers)))
    blobs = [pickle.dumps(task) for task in wave]
    blocks = [
        pa.table({"task": pa.array(blobs[at : at + size], pa.binary())})
        for at in range(0, len(blobs), size)
    ]
    with warnings.catch_warnings():
        # The only way as yet to bound restarts and retries, which are endless by default.
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
        reports = ray.data.from_arrow(blocks).map_batches(
            _RayWorker,
            fn_constructor_args=actor,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            max_restarts=3,
            max_task_retries=3,
        )
    try:
        # What is in flight when `stop` is set is not committed, and is done again.
        batches = reports.iter_batches(batch_size=None, batch_format="pyarrow")
        for batch in _until(stop, iter(batches)):
            for blob in batch.column("report").to_pylist():
                report: Report | UserError = pickle.loads(blob)  # noqa: S301 (our own worker's)
                if isinstance(report, UserError):
                    raise report
                yield report.stats
                yield report
    except ray.exceptions.RayError as error:
        raise UserError(f"the Ray run failed: {error}; see the Ray logs, then run again") from error


def _until(stop: threading.Event, items: Iterator[Any]) -> Iterator[Any]:
    """The items, given up as soon as `stop` is set: Ray itself waits for its next block."""
    found: queue.Queue[tuple[str, Any]] = queue.Queue()

    def fetch() -> None:
        try:
            for item in items:
                found.put(("item", item))
            found.put(("end", None))
        except BaseException as error:  # noqa: BLE001 (raised again by the caller's thread)
            found.put(("error", error))

    threading.Thread(target=fetch, daemon=True).start()
    while not stop.is_set():
        try:
            kind, value = found.get(timeout=_POLL)
        except queue.Empty:
            continue
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value


class _RayWorker:
    """One actor of the pool."""

    def __init__(
        self, worker: type[Worker], context: Context, limits: Any, models: list[Any]
    ) -> None:
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._fetcher = Fetcher(context.acquire, context.cache, SharedLimits(limits), self._stop)
        self._worker = worker(
            context,
            self._fetcher,
            self._stop,
            _SharedModels(models) if models else None,
            deliver=self._reports.put,
            on_progress=lambda _: None,
        )

    def __call__(self, batch: pa.Table) -> dict[str, list[bytes]]:
        blobs = batch.column("task").to_pylist()
        tasks = (pickle.loads(blob) for blob in blobs)  # noqa: S301 (from our own driver)
        try:
            for task in prefetched(tasks, self._fetcher, self._worker.context.acquire, self._stop):
                self._worker.process(task)
        except UserError as error:  # as it is: Ray Data would wrap it, and lose it
            return {"report": [pickle.dumps(error)]}
        # Ray may end an actor at any time between blocks: nothing may stay behind.
        self._worker.flush()
        reports = [self._reports.get() for _ in range(self._reports.qsize())]
        return {"report": [pickle.dumps(report) for report in reports]}


class SharedLimits(HostLimits):
    """The limits that the whole cluster keeps together: an actor holds them."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self._actor = actor

    def reserve(self, host: str, per_hour: float | None) -> float:
        import ray

        return float(ray.get(self._actor.reserve.remote(host, per_hour)))

    def hold(self, host: str, seconds: float) -> None:
        import ray

        ray.get(self._actor.hold.remote(host, seconds))


def _model_actors(plan: ScorePlan) -> list[Any]:
    """An actor for each GPU of the cluster, or a single one on the CPU.

    They take no core from the workers: without a GPU the workers wait while the models compute.
    """
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    make = ray.remote(_ModelActor).options(
        num_cpus=0,
        num_gpus=1 if gpus else 0,
        max_concurrency=256,
        max_restarts=3,
        max_task_retries=1,
    )
    return [make.remote(plan) for _ in range(max(1, gpus))]


class _ModelActor:
    """Holds the models of one GPU, in a process of its own that may crash."""

    def __init__(self, plan: ScorePlan) -> None:
        plan.user_operators.install()
        self._host = ModelHost(plan, threading.Event())

    def ask(self, batch: Batch) -> Answer | Exception:
        try:
            return self._host.ask(batch)
        except (UserError, DataError) as error:  # as it is: Ray would wrap it
            return error


class _SharedModels:
    """Asks the actors in turn; see `Models`."""

    def __init__(self, actors: list[Any]) -> None:
        self._actors = actors
        self._next = random.randrange(len(actors))

    def ask(self, batch: Batch) -> Answer:
        import ray

        self._next = (self._next + 1) % len(self._actors)
        answer: Answer | Exception = ray.get(self._actors[self._next].ask.remote(batch))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """The actors end with the cluster's session."""


class Cluster:
    """Joins or starts Ray while the block runs; leaves alone one that the caller had started."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._started = False

    def __enter__(self) -> None:
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        import ray
        import ray.data

        if not ray.is_initialized():
            try:
                ray.init(
                    # Not None: Ray would then join any cluster that this machine remembers from
                    # an earlier `ray start`, dead ones too.
                    address=self._address or os.environ.get("RAY_ADDRESS") or "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                where = self._address or "on this machine"
                raise UserError(
                    f"Ray cannot be reached at {where}: {error}; see `ray status` there, and give "
                    "its token where the cluster asks for one (RAY_AUTH_TOKEN, ~/.ray/auth_token)"
                ) from error
            self._started = True
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        import ray

        if self._started:
            # A thread of Ray Data that is still at work would complain of the end, at length.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            ray.shutdown()


@contextlib.contextmanager
def quiet_core() -> Iterator[None]:
    """Keep Ray's C++ core off the terminal; what Python writes to stderr still gets there.

    The core writes its errors to file descriptor 2 as well as to its log, past Python's logging:
    among them, for each pool of actors, that a restart needs the arguments in the object store.
    """
    python = sys.stderr
    python.flush()
    terminal = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    ours = open(os.dup(terminal), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    if _is_stderr(python):
        sys.stderr = ours
    try:
        yield
    finally:
        sys.stderr = python
        ours.close()
        os.dup2(terminal, 2)
        os.close(terminal)


def _is_stderr(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a stream in memory
        return False
