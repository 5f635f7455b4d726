"""What the benchmark of the trainer trains on: a generated mix of clips, in three kinds of batches,
and the same clips as a precached set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vidcurate.clip import INDEX_SCHEMA, INDEX_VERSION, short_hash
from vidcurate.shards import BucketBatches, TokenPacks
from vidcurate.shards.index import EMPTY_FILE, write_index
from vidcurate.shards.reader.shapes import Shapes
from vidcurate.shards.tar_samples import DERIVED_SUFFIX
from vidcurate.shards.writer import TarWriter
from vidcurate.train.data import Clips
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.flops import Compression, cost, tokens
from vidcurate.train.precache.derived import VERSION, Encoded, write_empty, write_sample

VAE: Compression = (4, 8, 8)
CHANNELS = 16
RATE = 24
_ASPECTS = (16 / 9, 4 / 3, 1.0, 9 / 16)
_STEP = 16  # pixels: a latent's 8, and patches of 2
_TAR = 200  # samples

Size = tuple[int, int, int]
"""Frames, height and width of a clip in pixels."""


@dataclass(frozen=True)
class Batch:
    """One forward and backward pass.

    computed: the size of each clip as the model gets it. real: what of it is a clip's own: less,
    where it is padded. room: tokens that are paid for; None where nothing says how many fit.
    """

    computed: list[Size]
    real: list[Size]
    room: int | None


def mix(
    model: ModelConfig, count: int, longest: int, sides: Sequence[int], most: int, seed: int = 0
) -> list[Size]:
    """Sizes as clips have them where nothing was scaled: 30 % pictures, the rest of 1 + 4 k frames.

    Args:
        longest: tokens of a clip at most; it ends there. sides: short sides, up to a third
            longer. most: frames.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        short = int(rng.choice(sides) * rng.uniform(1, 4 / 3))
        aspect = rng.choice(_ASPECTS, p=[0.6, 0.15, 0.1, 0.15]) * rng.uniform(0.9, 1.1)
        height = int(short * max(1 / aspect, 1)) // _STEP * _STEP
        width = int(short * max(aspect, 1)) // _STEP * _STEP
        frames = 1 if rng.random() < 0.3 else 4 * int(rng.integers(1, most // 4 + 1)) + 1
        own = (frames, height, width)
        while (over := _tokens(model, [own])[0]) > longest:
            assert own[0] > 1, f"a picture of {over} tokens; raise the budget"
            own = (own[0] - 4, height, width)
        found.append(own)
    return found


def packed(model: ModelConfig, sizes: Sequence[Size], budget: int) -> list[Batch]:
    """As the trainer packs, without the pack that is left over at the end of so small a set."""
    plan = TokenPacks(budget, tokens(model, VAE), cost(model, VAE))
    found = []
    for places in plan.batches(_shapes(sizes), remainder="keep").batches:
        own = [sizes[i] for i in places.tolist()]
        found.append(Batch(own, own, budget))
    return _shuffled(found[:-1])


def bucketed(
    model: ModelConfig, sizes: Sequence[Size], budget: int, sides: Sequence[int], most: int
) -> list[Batch]:
    """Batches of clips cut to one of some sizes, as many as the budget holds; full ones alone."""
    buckets = [
        (frames, *_scaled(side, aspect))
        for frames in sorted({1, *(4 * (most * part // 16) + 1 for part in range(1, 5))})
        for side in sides
        for aspect in _ASPECTS
    ]
    cut = [_bucket(size, buckets) for size in sizes]
    names = sorted({_name(size) for size in cut})
    most_of = {_name(b): max(1, budget // _tokens(model, [b])[0]) for b in cut}
    plan = BucketBatches(most_of, cost(model, VAE))
    found = []
    for places in plan.batches(_shapes(cut, names), remainder="drop").batches:
        own = [cut[i] for i in places.tolist()]
        found.append(Batch(own, own, None))
    return _shuffled(found)


def padded(model: ModelConfig, sizes: Sequence[Size], budget: int) -> list[Batch]:
    """Clips in random order, each padded to the longest, highest and widest of its batch, as many
    as the budget then holds; what is left over is none. Padding is computed all the same."""
    found: list[Batch] = []
    now: list[Size] = []
    for size in sizes:
        more = [*now, size]
        if len(more) * _tokens(model, [_largest(more)])[0] <= budget:
            now = more
            continue
        computed = [_largest(now)] * len(now)
        found.append(Batch(computed, now, sum(_tokens(model, computed))))
        now = [size]
    return found


def clips_of(batch: Batch, text_width: int, texts: int, seed: int) -> Clips:
    """Clips of noise of the sizes that are computed, with rows of text, at most `texts` each."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    latents, times, rows = [], [], []
    for frames, height, width in batch.computed:
        made = encoded((frames, height, width), generator)
        latents.append(made.latent)
        times.append(made.times)
        count = int(rng.integers(texts // 4 + 1, texts + 1))
        rows.append(torch.randn(count, text_width, generator=generator))
    count = len(latents)
    seconds = sum(frames / RATE for frames, _, _ in batch.real if frames > 1)
    ids = [f"{seed}-{i}" for i in range(count)]
    return Clips(ids, [""] * count, latents, times, torch.ones(count), seconds, rows)


def encoded(size: Size, generator: torch.Generator) -> Encoded:
    """Noise of the size of a clip's latent, with the times of its frames."""
    frames, height, width = size
    latent = (1 + (frames - 1) // VAE[0], CHANNELS, height // VAE[1], width // VAE[2])
    at = torch.arange(latent[0], dtype=torch.float64)
    times = torch.where(at > 0, VAE[0] * at - (VAE[0] - 1) / 2, 0) / RATE
    return Encoded(torch.randn(latent, generator=generator), times)


def write_precached(folder: Path, sizes: Sequence[Size], text_width: int, texts: int) -> None:
    """A set as `vidcurate precache` writes, of noise in place of what models make of clips."""
    generator = torch.Generator().manual_seed(3)
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(sizes), _TAR)):
        path = f"native/made-{number:05}.tar"
        (folder / "native").mkdir(exist_ok=True)
        own: list[dict[str, Any]] = []
        with TarWriter(folder / path) as tar:
            for size in sizes[start : start + _TAR]:
                sample = short_hash(f"{number} {len(own)}")
                made = encoded(size, generator)
                if len(made.latent) > 1:
                    made.last, made.last_time = made.latent[-1:].clone(), made.times[-1:].clone()
                made.texts = [torch.randn(texts, text_width, generator=generator)]
                member = tar.add(f"{sample}.{DERIVED_SUFFIX}", write_sample(made, "bf16"))
                own.append(_row(sample, path, size, member))
        shards.append(
            {
                "path": path,
                "bucket": "native",
                "rows": len(own),
                "bytes": (folder / path).stat().st_size,
                "sha256": "",
            }
        )
        rows += own
    empty = write_empty(torch.zeros(1, text_width), "bf16")
    (folder / EMPTY_FILE).write_bytes(empty)
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    about = {"selection": folder.name, "derived": _derived(text_width, empty)}
    write_index(folder, "made", [table], shards, about)


def _derived(text_width: int, empty: bytes) -> dict[str, Any]:
    vae, text = ({"name": f"made {n}", "key": f"made-{n}", "revision": "0"} for n in ("vae", "t"))
    return {
        "version": VERSION,
        "fingerprint": "0" * 16,
        "settings": {"vae": vae, "text": text, "dtype": "bf16", "resize": {"patch": [1, 2, 2]}},
        "parent": {"digest": "", "columns": ""},
        "vae": {"name": vae["name"], "channels": CHANNELS, "compression": VAE, "causal": True},
        "text": {
            "name": text["name"],
            "width": text_width,
            "empty": hashlib.sha256(empty).hexdigest(),
        },
    }


def _row(sample: str, shard: str, size: Size, member: Any) -> dict[str, Any]:
    frames, height, width = size
    return {
        "schema_version": INDEX_VERSION,
        **dict.fromkeys(("sample_id", "clip_id", "video_id"), sample),
        "bucket": "native",
        "shard": shard,
        "members": [{"name": DERIVED_SUFFIX, "offset": member.offset, "size": member.size}],
        "n_frames": frames,
        "preroll_frames": 0,
        "frame_step": 1,
        "fps_num": RATE,
        "fps_den": 1,
        "vfr": False,
        "duration_s": frames / RATE,
        **{"width": width, "height": height, "has_audio": False},
        **{"bucket_width": width, "bucket_height": height, "bucket_frames": frames},
        "sha256": member.sha256,
        "split": "train",
        "captions": [("long", "a made clip")],
        "scores": [],
    }


# --------------------------------------------------------------------------- sizes


def counted(model: ModelConfig, sizes: Sequence[Size]) -> int:
    """Tokens of clips."""
    return sum(_tokens(model, sizes))


def grids(model: ModelConfig, sizes: Sequence[Size]) -> Iterator[tuple[int, int, int]]:
    """Tokens of clips along time, height and width."""
    pt, ph, pw = model.patch
    for frames, height, width in sizes:
        latent = 1 + (frames - 1) // VAE[0]
        yield latent // pt, height // VAE[1] // ph, width // VAE[2] // pw


def _tokens(model: ModelConfig, sizes: Sequence[Size]) -> list[int]:
    found: list[int] = tokens(model, VAE)(_shapes(sizes)).tolist()
    return found


def _shapes(sizes: Sequence[Size], buckets: Sequence[str] = ()) -> Shapes:
    """As the reader has them; each in the bucket of its size, or all in `native`."""
    frames, height, width = np.array(sizes, np.int32).T
    codes = [buckets.index(_name(size)) for size in sizes] if buckets else [0] * len(sizes)
    return Shapes(
        frames, height, width, frames / RATE, np.array(codes, np.int16), (*buckets,) or ("native",)
    )


def _largest(sizes: Sequence[Size]) -> Size:
    frames, height, width = (max(side) for side in zip(*sizes, strict=True))
    return frames, height, width


def _scaled(side: int, aspect: float) -> tuple[int, int]:
    return tuple(int(side * max(a, 1)) // _STEP * _STEP for a in (1 / aspect, aspect))  # type: ignore[return-value]


def _bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The largest that is not longer and no larger on its short side, of the nearest aspect."""
    frames, height, width = size
    fitting = [b for b in buckets if b[0] <= frames and min(b[1:]) <= min(height, width)]
    most = max(b[0] for b in fitting)
    side = max(min(b[1:]) for b in fitting)
    alike = [b for b in fitting if b[0] == most and min(b[1:]) == side]
    return min(alike, key=lambda b: abs(np.log(b[2] / b[1] * height / width)))


def _name(size: Size) -> str:
    return "x".join(map(str, size))


def _shuffled(batches: list[Batch]) -> list[Batch]:
    order = np.random.default_rng(7).permutation(len(batches))
    return [batches[i] for i in order.tolist()]
