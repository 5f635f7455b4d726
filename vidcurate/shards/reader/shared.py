"""Arrays that go from one process to another without a copy through a pipe.

The sender lays them into an anonymous file in memory (memfd), the receiver maps it. The file has no
name and ends with its last user, so a kill of either leaves nothing behind.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CAN_SHARE = hasattr(os, "memfd_create")
"""Linux; elsewhere arrays travel through the pipe."""

_TORCH = "torch."


@dataclass(frozen=True)
class Shared:
    """Where the arrays are: a file handle of a process. kinds: (data type, shape) of each array,
    one after the other."""

    process: int
    handle: int
    kinds: tuple[tuple[str, tuple[int, ...]], ...]


def share(arrays: Sequence[Any]) -> Shared | None:
    """Lay numpy arrays or torch tensors into memory that another process can map.

    The caller closes `handle` once the other process has called `mapped`.

    Returns:
        None where they are something else, empty, or this system cannot.
    """
    raw = [_bytes(array) for array in arrays]
    size = sum(len(data) for data in raw if data is not None)
    if not CAN_SHARE or size == 0 or None in [d if d is None else 0 for d in raw]:
        return None
    handle = os.memfd_create("vidcurate-batch")
    os.truncate(handle, size)
    with mmap.mmap(handle, size) as memory:
        place = 0
        for data in raw:
            assert data is not None
            memory[place : place + len(data)] = data.data
            place += len(data)
    return Shared(os.getpid(), handle, tuple((str(a.dtype), tuple(a.shape)) for a in arrays))


def mapped(shared: Shared) -> Any:
    """The arrays: one of (arrays, ...) where all are alike, else a list of them."""
    sizes = [_item_size(kind) * math.prod(shape) for kind, shape in shared.kinds]
    with open(f"/proc/{shared.process}/fd/{shared.handle}", "r+b") as file:
        memory = mmap.mmap(file.fileno(), sum(sizes))
    kinds = set(shared.kinds)
    if len(kinds) == 1:
        kind, shape = kinds.pop()
        return _view(memory, 0, kind, (len(sizes), *shape))
    places = np.cumsum([0, *sizes[:-1]]).tolist()
    return [_view(memory, place, *kind) for place, kind in zip(places, shared.kinds, strict=True)]


def stacked(arrays: Sequence[Any]) -> Any:
    """The same, of arrays of this process: stacked where all are alike, else a list."""
    if not all(hasattr(a, "dtype") and hasattr(a, "shape") for a in arrays):
        return list(arrays)
    if len({(type(a), str(a.dtype), tuple(a.shape)) for a in arrays}) != 1:
        return list(arrays)
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays)
    import torch

    return torch.stack(list(arrays))


def _bytes(array: Any) -> np.ndarray[Any, Any] | None:
    """The memory of an array or tensor, row by row; None where it is something else."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if hasattr(array, "data_ptr"):
        import torch

        flat = array.detach().cpu().contiguous().reshape(-1)
        found: np.ndarray[Any, Any] = flat.view(torch.uint8).numpy()
        return found
    return None


def _item_size(kind: str) -> int:
    if kind.startswith(_TORCH):
        import torch

        return int(getattr(torch, kind.removeprefix(_TORCH)).itemsize)
    return np.dtype(kind).itemsize


def _view(memory: mmap.mmap, place: int, kind: str, shape: tuple[int, ...]) -> Any:
    count = math.prod(shape)
    if kind.startswith(_TORCH):
        import torch

        dtype = getattr(torch, kind.removeprefix(_TORCH))
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=place).reshape(shape)
    return np.frombuffer(memory, kind, count, place).reshape(shape)
