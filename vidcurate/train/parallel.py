"""Devices, ranks, and the model spread over them: DDP or FSDP2, on CUDA or (with gloo) on CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vidcurate.errors import UserError, VidcurateError


@dataclass(frozen=True)
class Place:
    """Where this process stands.

    talking: the group of processes for small values. saving: one of its own for checkpoints, which
    are written in another thread, while the loop talks. None where the process stands alone.
    """

    rank: int
    ranks: int
    device: torch.device
    talking: Any = None
    saving: Any = None

    @property
    def first(self) -> bool:
        """True for the rank that writes and prints."""
        return self.rank == 0

    def gathered(self, values: Sequence[float]) -> Tensor:
        """float64 (ranks, len(values)), of all ranks, on the CPU."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.ranks == 1:
            return own[None]
        out = [torch.empty_like(own) for _ in range(self.ranks)]
        dist.all_gather(out, own, group=self.talking)
        return torch.stack(out)

    def objects(self, value: Any) -> list[Any]:
        """A small value of each rank."""
        if self.ranks == 1:
            return [value]
        out: list[Any] = [None] * self.ranks
        dist.all_gather_object(out, value, group=self.talking)
        return out

    def by_first(self, do: Callable[[], object]) -> None:
        """The first rank does it; a `VidcurateError` of it is raised on all. All ranks call it."""
        failed = None
        if self.first:
            try:
                do()
            except VidcurateError as error:
                failed = error
        for why in self.objects(failed):
            if why is not None:
                raise why

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.gathered([0.0])


@contextmanager
def placed(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Place]:
    """Join the other ranks that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or stand alone.

    A process group that exists already is used, and left as it is.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise UserError("device: cuda, but torch finds no CUDA GPU; set device: cpu or auto")
    at = torch.device("cpu")
    if cuda and device != "cpu":
        at = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(at)
    ours = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if at.type == "cuda" else "gloo")
    if not dist.is_initialized():
        yield Place(0, 1, at)
        return
    try:
        groups = [dist.new_group(backend="gloo") for _ in range(2)]
        yield Place(dist.get_rank(), dist.get_world_size(), at, *groups)
    finally:
        if ours:
            dist.destroy_process_group()


def spread(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    place: Place,
    how: Literal["ddp", "fsdp2"],
    *,
    bf16: bool,
) -> nn.Module:
    """The model over all ranks: what to call in the place of it.

    FSDP2 shards parameters, gradients and optimiser state, block by block, and gathers them in
    bfloat16 where that is computed in; gradients are summed in float32.
    """
    if how == "fsdp2":
        if place.saving is None:
            raise UserError(
                "parallel: fsdp2 needs ranks: start with torchrun --nproc-per-node N -m "
                "vidcurate.train, or set parallel: ddp"
            )
        mesh = init_device_mesh(place.device.type, (place.ranks,))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        # The root too, so that after a forward pass alone (validation) weights are parts again.
        return fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    if place.ranks == 1:
        return model
    devices = [place.device.index] if place.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


@contextmanager
def synced(model: nn.Module, sync: bool) -> Iterator[None]:
    """Gradients of the backward passes inside are summed over ranks only with `sync`."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(sync)
    elif isinstance(model, DistributedDataParallel) and not sync:
        with model.no_sync():
            yield
        return
    yield


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, parts of an FSDP2 model can be called by themselves."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def inner(model: nn.Module) -> nn.Module:
    """The model itself, without DDP around it; with FSDP2 it is the same object."""
    found: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return found


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; any other as it is. All ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
