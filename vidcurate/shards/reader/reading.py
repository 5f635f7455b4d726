"""Reading the samples of one batch: bytes, check, frames, sound, caption. Runs in any process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from vidcurate.errors import (
    DamagedSampleError,
    DataError,
    StoreError,
    UserError,
    WorkerCrashError,
)
from vidcurate.media.clip_frames import read_frames
from vidcurate.media.clip_request import ClipRequest
from vidcurate.shards.reader.batch import Batch, Fault, Sample
from vidcurate.shards.reader.captions import Captions
from vidcurate.shards.reader.plans import positive
from vidcurate.shards.reader.shapes import Fit, Rows, Shapes
from vidcurate.shards.reader.store import Store
from vidcurate.shards.reader.table import IndexTable
from vidcurate.shards.reader.transforms import seeded
from vidcurate.shards.tar_samples import DERIVED_SUFFIX

VIDEO = "video"
"""In place of a suffix: the member that holds the video, whatever its suffix."""

_Place = tuple[int, int]
_CENTRE = (0.5, 0.5)
_SOUND = "m4a"
_AT_ONCE = 8  # samples whose bytes are held at a time


@dataclass(frozen=True)
class Decode:
    """How a clip's bytes become a tensor of its bucket's size and number of frames.

    backend: "av" (default) or "decord".
    window: which frames of a clip that has more than its bucket: "random" draws a window for each
        epoch, "middle" and "first" are fixed. Samples of the split val always have the middle.
    crop: where a picture of another aspect is cut: "center", or "random" for each epoch (centred in
        val).
    audio_rate: samples a second of the sound that goes with the frames; None reads no sound.
    max_pixels: a larger picture is refused.

    Raises:
        UserError: a value that is none of these.
    """

    backend: Literal["av", "decord"] = "av"
    window: Literal["random", "middle", "first"] = "random"
    crop: Literal["center", "random"] = "center"
    audio_rate: int | None = None
    max_pixels: int = 8192 * 8192

    def __post_init__(self) -> None:
        known = {
            "backend": ("av", "decord"),
            "window": ("random", "middle", "first"),
            "crop": ("center", "random"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise UserError(
                    f"Decode: {name} is {getattr(self, name)!r}; choose one of {', '.join(values)}"
                )
        for name in ("audio_rate", "max_pixels"):
            value = getattr(self, name)
            if value is not None:
                positive(value, f"Decode: {name}")


@dataclass(frozen=True)
class Source:
    """One packed set: its index, and where its shards are read."""

    table: IndexTable
    store: Store


@dataclass(frozen=True)
class ReadSpec:
    """All that reading takes besides the order; travels to worker processes.

    fit: what is read of each clip; None: the size and frames of its bucket. members: suffixes that
        are given as bytes, VIDEO among them. transform: makes of a uint8 tensor
        (frames, 3, height, width) what the batch holds. verify: compare checksums. stop: a bad
        sample is an error.
    """

    sources: tuple[Source, ...]
    decode: Decode | None
    fit: Fit | None
    members: tuple[str, ...]
    captions: Captions | None
    transform: Callable[[Any], Any] | None
    seed: int
    verify: bool
    stop: bool


@dataclass(frozen=True)
class ReadTask:
    """One batch to read.

    idle: for a rank without work: all weights are 0. left_out: rows that no batch can hold, with
        the reason. dropped: rows of batches that would not be full. crashed: slots that are not
        to be read, as they ended a process, with the reason.
    """

    source: int
    epoch: int
    rows: Rows
    cost: float = 0.0
    idle: bool = False
    left_out: Sequence[tuple[int, str]] = ()
    dropped: Sequence[int] = ()
    crashed: Mapping[int, str] = field(default_factory=dict)


def read_batch(spec: ReadSpec, task: ReadTask, at: Callable[[int], None]) -> Batch:
    """Read the samples of a batch; a bad one leaves a slot of weight 0 and a fault.

    Args:
        at: called with each slot before it is read.

    Returns:
        a batch of numpy arrays; `video` is a list, one a slot.

    Raises:
        DataError: a sample cannot be read, and `spec.stop` is set.
    """
    source = spec.sources[task.source]
    rows = source.table.samples(task.rows)
    wanted = _wanted(spec, source.table.shapes(task.rows)) if spec.decode is not None else None
    samples: list[Sample | None] = []
    faults: list[Fault] = []
    for first in range(0, len(rows), _AT_ONCE):
        slots = range(first, min(first + _AT_ONCE, len(rows)))
        at(first)
        data = _members(spec, source.store, [rows[slot] for slot in slots])
        for slot, found in zip(slots, data, strict=True):
            at(slot)
            try:
                if slot in task.crashed:
                    raise WorkerCrashError(task.crashed[slot])
                samples.append(_sample(spec, task.epoch, rows[slot], found, wanted, slot))
            except DataError as error:
                if spec.stop:
                    raise
                samples.append(None)
                faults.append(_fault(rows[slot], error))
    if task.left_out:
        left = source.table.samples(np.array([r for r, _ in task.left_out], np.int64))
        faults += [
            Fault(row["sample_id"], row["shard"], "LeftOut", why)
            for row, (_, why) in zip(left, task.left_out, strict=True)
        ]
    batch = Batch(
        sample_ids=[row["sample_id"] for row in rows],
        weight=np.array([s is not None and not task.idle for s in samples], np.float32),
        bucket=_common([row["bucket"] for row in rows]),
        captions=[s.caption if s is not None else "" for s in samples],
        samples=samples,
        source=task.source,
        cost=task.cost,
        # A rank without work reads what the first one reports.
        faults=[] if task.idle else faults,
        dropped=len(task.dropped),
        uncaptioned=0 if task.idle else sum(_lacks_caption(spec.captions, s) for s in samples),
    )
    if spec.decode is not None:
        assert wanted is not None
        batch.video = [
            s.video if s is not None else _blank(spec, wanted.shapes, i)
            for i, s in enumerate(samples)
        ]
        none = np.zeros(0)
        batch.times = [s.times if s is not None and s.times is not None else none for s in samples]
        if spec.decode.audio_rate is not None:
            batch.audio = [s.audio if s is not None else None for s in samples]
        for sample in filter(None, samples):
            sample.video = None
    return batch


@dataclass(frozen=True)
class _Wanted:
    """What is decoded of the samples of a batch.

    shapes: of each. span: frames of its window, of which every step-th is taken.
    """

    shapes: Shapes
    span: Sequence[int]
    step: Sequence[int]


def _wanted(spec: ReadSpec, shapes: Shapes) -> _Wanted:
    span = shapes.frames.tolist()
    if spec.fit is None:
        return _Wanted(shapes, span, [1] * len(span))
    return _Wanted(spec.fit.shapes(shapes), span, [spec.fit.step(frames) for frames in span])


def sample_seed(seed: int, epoch: int, sample_id: str) -> int:
    """64 bits of all that is random about a sample in an epoch."""
    text = f"{seed}:{epoch}:{sample_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _members(
    spec: ReadSpec, store: Store, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, bytes] | DataError]:
    """The bytes of the members that are needed of each sample, or what is wrong with one."""
    names = [_needed(spec, row) for row in rows]
    read = iter(
        store.read_many(
            [
                (row["shard"], *row["members"][name])
                for row, needed in zip(rows, names, strict=True)
                for name in needed
            ]
        )
    )
    found: list[dict[str, bytes] | DataError] = []
    for needed in names:
        data: dict[str, bytes] = {}
        fault: StoreError | None = None
        for name in needed:
            part = next(read)
            if isinstance(part, StoreError):
                fault = fault or part
            else:
                data[name] = part
        found.append(fault or data)
    return found


def _needed(spec: ReadSpec, row: Mapping[str, Any]) -> list[str]:
    video, places = row["video"], row["members"]
    needed = [video if name == VIDEO else name for name in spec.members]
    if spec.decode is not None:
        needed.append(video)
        if spec.decode.audio_rate is not None:
            needed.append(_SOUND)
    return [name for name in dict.fromkeys(needed) if name in places]


def _sample(
    spec: ReadSpec,
    epoch: int,
    row: Mapping[str, Any],
    data: dict[str, bytes] | DataError,
    wanted: _Wanted | None,
    slot: int,
) -> Sample:
    if isinstance(data, DataError):
        raise data
    if spec.verify:
        for name, content in data.items():
            _check(row, name, content)
    kept = {row["video"] if name == VIDEO else name for name in spec.members}
    seed = sample_seed(spec.seed, epoch, row["sample_id"])
    sample = Sample({name: data[name] for name in data if name in kept}, row, seed=seed)
    if spec.captions is None and spec.decode is None:
        return sample
    rng = np.random.default_rng(seed)
    if spec.captions is not None:
        sample.caption = spec.captions.render(row["captions"], row["scores"], rng)
    if spec.decode is not None:
        assert wanted is not None
        _decode(spec.decode, sample, data, wanted, slot, rng)
        if spec.transform is not None:
            sample.video = _transformed(spec.transform, sample.video, seed)
    return sample


def _check(row: Mapping[str, Any], name: str, data: bytes) -> None:
    main = row["video"] or DERIVED_SUFFIX
    said = {main: row["sha256"], _SOUND: row["audio_sha256"]}.get(name)
    if said and hashlib.sha256(data).hexdigest() != said:
        raise DamagedSampleError(
            f"{row['shard']}: the bytes of {row['sample_id']}.{name} are not those that were "
            "packed (sha256 differs); `vidcurate inspect --verify` lists all such samples"
        )


def _decode(
    how: Decode,
    sample: Sample,
    data: Mapping[str, bytes],
    wanted: _Wanted,
    slot: int,
    rng: np.random.Generator,
) -> None:
    """Set the sample's video, times and audio."""
    row, shapes = sample.row, wanted.shapes
    count = int(shapes.frames[slot])
    name = f"{row['shard']}: {row['sample_id']}.{row['video']}"
    if row["video"] not in data:
        raise DamagedSampleError(f"{name}: the index names no file with its video; index again")
    step = row["frame_step"]
    spare = max(0, row["n_frames"] - ((wanted.span[slot] - 1) * step + 1))
    fixed = row["split"] == "val"
    first = 0 if how.window == "first" and not fixed else spare // 2
    if how.window == "random" and not fixed:
        first = int(rng.integers(0, spare + 1))
    crop = _CENTRE
    if how.crop == "random" and not fixed:
        crop = (float(rng.random()), float(rng.random()))
    fps = Fraction(row["fps_num"], row["fps_den"])
    request = ClipRequest(
        first=first,
        count=count,
        step=step * wanted.step[slot],
        n_frames=row["n_frames"],
        fps=fps,
        vfr=row["vfr"],
        preroll=row["preroll_frames"],
        size=(int(shapes.width[slot]), int(shapes.height[slot])),
        crop=crop,
    )
    sample.video, sample.times = read_frames(
        data[row["video"]], request, backend=how.backend, name=name, max_pixels=how.max_pixels
    )
    if how.audio_rate is not None and row["has_audio"]:
        from vidcurate.media.clip_sound import read_sound

        sample.audio = read_sound(
            data.get(_SOUND, data[row["video"]]),
            float(sample.times[0]),
            count * request.step / float(fps),
            how.audio_rate,
            name=name,
        )


def _transformed(transform: Callable[[Any], Any], video: Any, seed: int) -> Any:
    """What the user's transform makes of (frames, height, width, 3) pixels."""
    import torch

    with seeded(seed):
        return transform(torch.from_numpy(video).permute(0, 3, 1, 2))


def _blank(spec: ReadSpec, shapes: Shapes, slot: int) -> Any:
    """What stands in the slot of a sample that cannot be read: black frames of its size."""
    size = (shapes.frames[slot], shapes.height[slot], shapes.width[slot], 3)
    black = np.zeros(size, np.uint8)
    return black if spec.transform is None else _transformed(spec.transform, black, 0)


def _lacks_caption(captions: Captions | None, sample: Sample | None) -> bool:
    if captions is None or sample is None or sample.caption:
        return False
    return bool(captions.lacks(sample.row["captions"], sample.row["scores"]))


def _common(names: Sequence[str]) -> str:
    return names[0] if len(set(names)) == 1 else ""


def _fault(row: Mapping[str, Any], error: DataError) -> Fault:
    return Fault(row["sample_id"], row["shard"], type(error).__name__, str(error))
