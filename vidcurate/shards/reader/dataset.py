"""`ShardDataset`: packed shards as a stream of batches, in an order that can be gone on with."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vidcurate.errors import UserError
from vidcurate.shards.reader.arguments import check_kinds, check_names, check_numbers
from vidcurate.shards.reader.batch import Batch
from vidcurate.shards.reader.cache import Cache
from vidcurate.shards.reader.captions import Captions
from vidcurate.shards.reader.cursor import Cursor, Step
from vidcurate.shards.reader.order import Order
from vidcurate.shards.reader.passes import Passes
from vidcurate.shards.reader.plans import BatchPlan, BucketBatches
from vidcurate.shards.reader.reading import VIDEO, Decode, ReadSpec, ReadTask, Source, read_batch
from vidcurate.shards.reader.shapes import Fit
from vidcurate.shards.reader.shared import stacked
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table import IndexTable, NativeLimit, default_folder
from vidcurate.shards.reader.workers import Workers

if TYPE_CHECKING:
    _Iterable = object
elif find_spec("torch") is not None:
    from torch.utils.data import IterableDataset as _Iterable
else:
    _Iterable = object

_DECODED = Decode()
_log = logging.getLogger("vidcurate.shards")


class ShardDataset(_Iterable):
    """Batches of packed samples: a torch IterableDataset; without torch, a plain iterable.

    Iterating gives this rank's batches up to the end of the epoch that it stands in; iterating
    again gives the next epoch. Over all ranks each sample comes once an epoch. The order is a
    function of the index, `seed`, the epoch and the batch plan, never of the number of ranks or
    workers: `load_state_dict` goes on exactly where a run stopped, also on other numbers of both.

    With torch's DataLoader give it `batch_size=None`; its workers share the batches among
    themselves, in order, and each loop over it gives the next epoch. Then `state` of the last batch
    is what to save. What a loop that breaks off had is not known: the next one gives the epoch
    again, or the one after where the workers were at its end, unless `load_state_dict` is given
    the last batch's state (and a new DataLoader is made, of persistent workers). `workers` here
    needs no DataLoader, goes on after such a break, and brings back a worker that died.

    Args:
        path: a folder with index.json (OUT/shards/<selection>, or one that `vidcurate index` made),
            local or any URL that fsspec knows. A mapping of such to weights mixes them: weights
            are shares of the batches (any scale), each set goes through its own epochs, without
            an end.
        batch: samples in a batch, by number or by bucket (`BucketBatches`), or `TokenPacks`.
        split: "train", "val", or None for all. buckets: only these.
        decode: how clips become tensors; None gives bytes.
        members: suffixes of files that are given as bytes in `Batch.samples` ("json", "txt",
            "m4a"; "video" is the clip itself); a sample without one lacks it there. Default: the
            clip where it is not decoded.
        captions: which caption a sample has: a template, several with weights, or `Captions`.
        fit: takes fewer frames and smaller pictures of clips than their buckets have, as they are
            decoded. Batch plans see the buckets' shapes.
        transform: makes what the batch holds of each clip's (frames, 3, height, width) uint8
            tensor. Random ones see the same seed for the same sample and epoch.
        native: the largest size and number of frames of clips in the bucket `native`.
        seed, shuffle: of the order. Without shuffle samples come as the index has them.
        remainder: "keep" gives batches that are not full, and to ranks without work at an epoch's
            end a batch of weight 0; "drop" leaves both out.
        rank, world_size: default: of torch.distributed, else of RANK and WORLD_SIZE, else 0 of 1.
        workers: processes that read ahead; 0 reads in this one. ahead: batches for each.
        verify: compare the sha256 of clip and sound with the index.
        on_error: "skip" leaves a slot of weight 0 for a sample that cannot be read, with a fault
            in the batch, a line in the log and a count in `skipped`; "stop" raises.
        storage_options: of fsspec. timeout: seconds that one read of a store may take; it is
            tried three times. stall: seconds that a worker may take for one sample, besides such
            reads; it is then started anew, and the sample skipped the second time.
        cache: where what was read from a remote store is kept. index_folder: where the table of
            the index is built; default: a folder of the user's own cache.
        worker_memory: bytes that a worker may take; as for `stall`.

    Attributes:
        samples: in an epoch, over all ranks; of a mixture, of all its sets together.
        skipped: samples that could not be read so far in this process (of this rank, not in
            the workers of a DataLoader: see each batch's `faults`), by class of error.
        dropped: samples that `remainder="drop"` left out so far, as this rank's batches say.
        uncaptioned: samples that got the empty caption, as they lack what every template needs.

    Raises:
        RunDirectoryError: there is no index, or it is damaged.
        UserError: an empty split, an unknown bucket, captions or members that no sample has,
            arguments that do not fit together. StoreError: the index cannot be read.
        DataError: from iterating, with on_error="stop".
    """

    def __init__(
        self,
        path: str | Path | Mapping[str, float],
        *,
        batch: int | BatchPlan = 1,
        split: Literal["train", "val"] | None = "train",
        buckets: Collection[str] | None = None,
        decode: Decode | None = _DECODED,
        members: Sequence[str] | None = None,
        captions: Captions | str | Mapping[str, float] | None = None,
        fit: Fit | None = None,
        transform: Callable[[Any], Any] | None = None,
        native: NativeLimit | None = None,
        seed: int = 0,
        shuffle: bool = True,
        remainder: Literal["keep", "drop"] = "keep",
        rank: int | None = None,
        world_size: int | None = None,
        workers: int = 0,
        ahead: int = 2,
        verify: bool = True,
        on_error: Literal["skip", "stop"] = "skip",
        storage_options: Mapping[str, Any] | None = None,
        timeout: float = 30.0,
        stall: float = 300.0,
        cache: Cache | None = None,
        index_folder: Path | None = None,
        worker_memory: int = 8 * 1024**3,
    ) -> None:
        super().__init__()
        check_numbers(
            {"workers": workers},
            {"ahead": ahead, "worker_memory": worker_memory},
            {"timeout": timeout, "stall": stall},
        )
        check_kinds(
            {"batch": batch, "decode": decode, "seed": seed},
            {"members": members, "buckets": buckets},
        )
        if on_error not in ("skip", "stop"):
            raise UserError(f'on_error is {on_error!r}; choose "skip" or "stop"')
        if transform is not None and decode is None:
            raise UserError("transform works on decoded clips, and decode is None: leave one out")
        if transform is not None and find_spec("torch") is None:
            raise UserError("transform works on torch tensors, and torch is not installed")
        self.rank, self.world_size = _place(rank, world_size)
        mixed = {str(path): 1.0} if isinstance(path, str | Path) else dict(path)
        if not mixed:
            raise UserError("ShardDataset: a mapping without a single path; name at least one")
        plan = BucketBatches(batch) if isinstance(batch, int) else batch
        sources = []
        for root in mixed:
            store = Store(root, options=storage_options, cache=cache, timeout=timeout)
            table = IndexTable.open(
                root,
                store=store,
                folder=index_folder or default_folder(),
                split=split,
                buckets=buckets,
                native=native,
            )
            sources.append(Source(table, store))
        self._orders = [
            Order(
                s.table,
                plan,
                seed=seed,
                shuffle=shuffle,
                remainder=remainder,
                rows=f"split {split}, buckets {sorted(set(buckets)) if buckets else 'all'}, "
                f"{native or NativeLimit()}",
            )
            for s in sources
        ]
        self._weights = list(mixed.values())
        if members is None:
            members = () if decode is not None else (VIDEO,)
        rendered = None if captions is None else Captions.of(captions)
        check_names([source.table for source in sources], members, rendered)
        self._spec = ReadSpec(
            sources=tuple(sources),
            decode=decode,
            fit=fit,
            members=tuple(members),
            captions=rendered,
            transform=transform,
            seed=seed,
            verify=verify,
            stop=on_error == "stop",
        )
        self._workers = (
            Workers(self._spec, count=workers, ahead=ahead, stall=stall, memory=worker_memory)
            if workers
            else None
        )
        self.samples = sum(len(source.table) for source in sources)
        self.skipped: Counter[str] = Counter()
        self.dropped = self.uncaptioned = 0
        self._state = self._cursor().state_dict()
        self._passes = Passes()
        self._iteration = 0

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Where to go on after the batch that was handed out last: small, plain values.

        The same on all ranks after the same number of batches.

        Raises:
            UserError: batches were read by a DataLoader's workers; take the last batch's `state`.
        """
        if self._passes.is_used:
            raise UserError(
                "state_dict: the batches were read in a DataLoader's workers, so this process does "
                "not know where they are; save the `state` of the last batch"
            )
        return copy.deepcopy(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that the state is of, whatever the number of ranks and workers.

        Raises:
            UserError: the state is of another index, seed or batch plan; says which.
        """
        cursor = self._cursor()
        cursor.load_state_dict(state)
        self._state = cursor.state_dict()
        self._passes.reset()

    # ------------------------------------------------------------------ batches

    def __iter__(self) -> Iterator[Batch]:
        loader = self._loader()
        states: dict[int, dict[str, Any]] = {}
        tasks = self._tasks(loader, states)
        self._iteration += 1
        iteration = self._iteration
        if self._workers is not None:
            batches = self._workers.read(tasks)
        else:
            batches = (self._here(task) for task in tasks)
        for number, batch in enumerate(batches):
            batch.state = states.pop(number)
            self.dropped += batch.dropped
            if batch.uncaptioned and not self.uncaptioned:
                _log.warning("some samples lack what the captions need; they get the empty one")
            self.uncaptioned += batch.uncaptioned
            for fault in batch.faults:
                self.skipped[fault.error] += 1
                _log.warning("skipped %s of %s: %s", fault.sample_id, fault.shard, fault.message)
            _as_tensors(batch)
            if loader is None:
                self._state = batch.state
            yield batch
            if iteration != self._iteration:
                raise UserError(
                    "ShardDataset: a later iteration has gone on from where this one was; iterate "
                    "over one at a time, or make a data set for each"
                )

    def _loader(self) -> tuple[int, int] | None:
        """Which worker of how many this is, in one of a DataLoader."""
        torch_data = sys.modules.get("torch.utils.data")
        info = torch_data.get_worker_info() if torch_data is not None else None
        if info is None:
            return None
        if self._workers is not None:
            raise UserError(
                "ShardDataset has workers of its own, and so has the DataLoader; set one of the "
                "two numbers to 0"
            )
        return info.id, info.num_workers

    def _tasks(
        self, loader: tuple[int, int] | None, states: dict[int, dict[str, Any]]
    ) -> Iterator[ReadTask]:
        """What this rank reads, to the end of the epoch; notes the state after each."""
        cursor = self._cursor()
        cursor.load_state_dict(self._state)
        share, shares = loader or (0, 1)
        if loader is not None:
            cursor.skip_to(self._passes.begin(*loader))
        epoch: int | None = None
        number = given = 0
        while (step := cursor.next_step()) is not None:
            now = step.epoch if len(self._orders) == 1 else None
            if epoch is None:
                epoch = now
            if now != epoch:
                if loader is not None:
                    self._passes.end(*loader, step.epoch)
                return
            if number % shares == share:
                states[given] = step.state
                given += 1
                yield _task(step, self.rank)
            number += 1

    def _here(self, task: ReadTask) -> Batch:
        batch = read_batch(self._spec, task, lambda _: None)
        if batch.video is not None:
            batch.video = stacked(batch.video)
        return batch

    def _cursor(self) -> Cursor:
        return Cursor(self._orders, self._weights, world_size=self.world_size)


def _task(step: Step, rank: int) -> ReadTask:
    mine = step.batches[rank]
    planned = mine if mine is not None else step.batches[0]
    assert planned is not None, "a step has work for at least its first rank"
    task = ReadTask(
        source=planned.source,
        epoch=planned.epoch,
        rows=planned.rows,
        cost=planned.cost,
        left_out=planned.left_out,
        dropped=planned.dropped,
    )
    return task if mine is not None else replace(task, idle=True, left_out=(), dropped=())


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    distributed = sys.modules.get("torch.distributed")
    if rank is None and world_size is None:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            rank, world_size = distributed.get_rank(), distributed.get_world_size()
        else:
            rank = int(os.environ.get("RANK", "0"))
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise UserError(
            f"ShardDataset: rank {rank} of {world_size}; give both, 0 <= rank < world_size"
        )
    return rank, world_size


def _as_tensors(batch: Batch) -> None:
    """Turn pixels to (frames, 3, height, width), and arrays to tensors where torch is there."""
    if isinstance(batch.video, np.ndarray):
        batch.video = np.moveaxis(batch.video, -1, -3)
    elif isinstance(batch.video, list):
        batch.video = [
            np.moveaxis(v, -1, -3) if isinstance(v, np.ndarray) else v for v in batch.video
        ]
    if find_spec("torch") is None:
        return
    import torch

    batch.weight = torch.from_numpy(batch.weight)
    if isinstance(batch.video, np.ndarray):
        batch.video = torch.from_numpy(batch.video)
    elif isinstance(batch.video, list):
        batch.video = [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in batch.video]
