"""What the reader hands to a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fault:
    """A sample that could not be read. error: the class of the error; message: with the remedy."""

    sample_id: str
    shard: str
    error: str
    message: str


@dataclass
class Sample:
    """One sample as it was read. In a batch, `video` stands with the batch.

    members: suffix ("mp4", "json", "txt", "m4a") -> its bytes, of those that were asked for.
    video: uint8 (frames, height, width, 3), or what the transform made of it; None where members
        are not decoded. times: float64 (frames,), seconds from the clip's first frame.
    audio: float32 (samples,), mono, of the time of those frames; None where it was not asked for or
        the clip has none.
    caption: rendered by the caption template; "" without one. row: its index row.
    seed: 64 bits of all that is random about it: a function of the data set's seed, the epoch and
        its id, for what a training loop draws itself.
    """

    members: Mapping[str, bytes]
    row: Mapping[str, Any]
    caption: str = ""
    video: Any = None
    times: npt.NDArray[np.float64] | None = None
    audio: npt.NDArray[np.float32] | None = None
    seed: int = 0


@dataclass
class Batch:
    """One batch of one rank: samples of one bucket, or one pack of tokens.

    sample_ids: one a slot. weight: float32 (slots,), 1 or, where the slot holds nothing to learn
        from (a sample that could not be read; a rank without work), 0.
    bucket: its name; "" for a pack of several.
    video: uint8 tensor (slots, frames, 3, height, width), what the transform made of these, or a
        list of (frames, 3, height, width) where sizes differ (bucket `native`, packs). numpy arrays
        where torch is not installed. None for raw bytes.
    captions: one a slot. samples: raw bytes and index rows, one a slot; None where it failed.
    audio: float32 arrays (samples,), one a slot, or None. times: float64 (frames,), one a slot:
        seconds from the clip's first frame.
    source: place of its data set among those that are mixed. cost: predicted.
    faults: samples of it that could not be read, and why; with a window's first batch those that
        no batch can hold. dropped: samples that `remainder="drop"` left out since the batch before.
    uncaptioned: samples whose caption is empty as they lack what every template needs.
    state: give it to `load_state_dict` to go on after this batch.
    """

    sample_ids: list[str]
    weight: Any
    bucket: str
    captions: list[str]
    samples: list[Sample | None]
    video: Any = None
    audio: list[npt.NDArray[np.float32] | None] | None = None
    times: list[npt.NDArray[np.float64]] | None = None
    source: int = 0
    cost: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    dropped: int = 0
    uncaptioned: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def pin_memory(self) -> Batch:
        """The same with pinned tensors, as torch's DataLoader asks for (pin_memory=True)."""
        video = self.video
        if isinstance(video, list):
            video = [v.pin_memory() if hasattr(v, "pin_memory") else v for v in video]
        elif hasattr(video, "pin_memory"):
            video = video.pin_memory()
        return replace(self, weight=self.weight.pin_memory(), video=video)
