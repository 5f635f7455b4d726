"""Packed shards: writing them, and streaming them into training.

The public names of the reader; loaded on first use, as torch is slow to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidcurate.shards.reader import transforms as transforms
    from vidcurate.shards.reader.batch import Batch as Batch
    from vidcurate.shards.reader.batch import Fault as Fault
    from vidcurate.shards.reader.batch import Sample as Sample
    from vidcurate.shards.reader.cache import Cache as Cache
    from vidcurate.shards.reader.captions import Captions as Captions
    from vidcurate.shards.reader.dataset import ShardDataset as ShardDataset
    from vidcurate.shards.reader.plans import BatchPlan as BatchPlan
    from vidcurate.shards.reader.plans import BucketBatches as BucketBatches
    from vidcurate.shards.reader.plans import Planned as Planned
    from vidcurate.shards.reader.reading import Decode as Decode
    from vidcurate.shards.reader.shapes import Fit as Fit
    from vidcurate.shards.reader.shapes import Shapes as Shapes
    from vidcurate.shards.reader.table import NativeLimit as NativeLimit
    from vidcurate.shards.reader.token_packs import TokenPacks as TokenPacks

_HOME = {
    "batch": ["Batch", "Fault", "Sample"],
    "cache": ["Cache"],
    "captions": ["Captions"],
    "dataset": ["ShardDataset"],
    "plans": ["BatchPlan", "BucketBatches", "Planned"],
    "reading": ["Decode"],
    "shapes": ["Fit", "Shapes"],
    "table": ["NativeLimit"],
    "token_packs": ["TokenPacks"],
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Batch",
    "BatchPlan",
    "BucketBatches",
    "Cache",
    "Captions",
    "Decode",
    "Fault",
    "Fit",
    "NativeLimit",
    "Planned",
    "Sample",
    "Shapes",
    "ShardDataset",
    "TokenPacks",
    "transforms",
]


def __getattr__(name: str) -> Any:
    if name == "transforms":
        return import_module("vidcurate.shards.reader.transforms")
    if name not in _MODULES:
        raise AttributeError(f"module 'vidcurate.shards' has no attribute {name!r}")
    value = getattr(import_module(f"vidcurate.shards.reader.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
