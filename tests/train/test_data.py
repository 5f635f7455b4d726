"""Clips as the loop takes them: sizes, packs, slots that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidcurate.errors import UserError
from vidcurate.shards import Shapes
from vidcurate.train.codes import Codes
from vidcurate.train.config import Data
from vidcurate.train.data import clips, dataset, rate_of, seconds_of
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.resize import Resize

MODEL = ModelConfig(width=32, depth=1, heads=2, patch=(1, 4, 4))
MIXED = ((5, 16, 16), (5, 32, 16), (1, 16, 48))


def shapes_of(*sizes: tuple[int, int, int]) -> Shapes:
    frames, height, width = (np.array(n, np.int32) for n in zip(*sizes, strict=True))
    number = len(frames)
    return Shapes(frames, height, width, np.ones(number), np.zeros(number, np.int16), ("native",))


def config(folder, **settings) -> Data:
    return Data(shards=str(folder), workers=0, captions="source", drop_captions=0, **settings)


@pytest.mark.parametrize(
    ("every", "frames", "step"),
    [(None, 97, 24), (3, 97, 3), (3, 10, 2), (3, 5, 1), (3, 3, 1)],
)
def test_frames_are_spread_over_the_clip_or_some_apart(every, frames, step):
    assert Resize((1, 4, 4), frames=4, every=every).step(frames) == step


@pytest.mark.parametrize(
    ("resize", "given", "made"),
    [
        (Resize((1, 4, 4)), (5, 64, 96), (5, 64, 96)),
        (Resize((1, 4, 4)), (5, 66, 99), (5, 64, 96)),
        (Resize((1, 4, 4), short_side=32), (5, 64, 96), (5, 32, 48)),
        (Resize((1, 8, 8), short_side=32), (5, 72, 128), (5, 32, 56)),
        (Resize((1, 4, 4), short_side=128), (5, 64, 96), (5, 64, 96)),
        (Resize((1, 4, 4), frames=4), (17, 16, 16), (4, 16, 16)),
        (Resize((2, 4, 4)), (5, 16, 16), (4, 16, 16)),
        (Resize((1, 2, 2), compression=(4, 8, 8)), (17, 64, 96), (17, 64, 96)),
        (Resize((1, 2, 2), compression=(4, 8, 8)), (20, 72, 90), (17, 64, 80)),
        (Resize((1, 2, 2), frames=16, compression=(4, 8, 8)), (81, 64, 96), (13, 64, 96)),
        (Resize((2, 2, 2), compression=(4, 8, 8)), (17, 64, 96), (13, 64, 96)),
        (Resize((1, 2, 2), compression=(4, 8, 8)), (1, 64, 96), (1, 64, 96)),
        (Resize((1, 2, 2), compression=(1, 8, 8)), (6, 64, 96), (6, 64, 96)),
    ],
)
def test_clips_are_scaled_down_to_whole_patches(resize, given, made):
    planned = resize.shapes(shapes_of(given))
    assert (planned.frames[0], planned.height[0], planned.width[0]) == made
    latents = 1 + (made[0] - 1) // resize.compression[0]
    assert (made[0] - 1) % resize.compression[0] == latents % resize.patch[0] == 0
    step = resize.step(given[0])
    assert (made[0] - 1) * step < given[0] < made[0] * (step + 1)


def test_a_clip_below_one_patch_is_refused():
    with pytest.raises(UserError, match="1 frames of 16x8 pixels is smaller than one patch"):
        Resize((1, 16, 16)).shapes(shapes_of((1, 32, 32), (1, 8, 16)))
    with pytest.raises(UserError, match=r"patch \(2, 2, 2\) of a VAE's \(4, 8, 8\), as 2 of 3"):
        Resize((2, 2, 2), compression=(4, 8, 8)).shapes(
            shapes_of((5, 16, 16), (4, 16, 16), (5, 8, 16))
        )


def test_packs_hold_clips_of_all_sizes_within_the_budget(shapes):
    data = config(shapes(9, MIXED), budget=200)
    seen = []
    for batch in dataset(data, MODEL, split="all"):
        own = clips(batch, MODEL.patch)
        tokens = sum(t.shape[0] * t.shape[2] * t.shape[3] // 16 for t in own.latents)
        assert tokens <= 200
        seen += own.ids
        for latent, times, caption in zip(own.latents, own.times, own.captions, strict=True):
            assert -1 <= latent.min() < -0.5 < 0.5 < latent.max() <= 1
            np.testing.assert_allclose(times, np.arange(len(latent)) / 8, atol=1e-6)
            assert caption.startswith("a ")
        assert own.seconds == pytest.approx(sum(len(t) / 8 for t in own.times if len(t) > 1))
    assert sorted(seen) == [f"clip{i:03d}" for i in range(9)]


def test_a_clip_longer_than_the_budget_stops_or_is_counted(shapes):
    folder = shapes(3, MIXED)
    stop = dataset(config(folder, budget=100), MODEL, split="all")
    with pytest.raises(UserError, match="160 tokens, more than the budget of 100"):
        next(iter(stop))
    skip = list(dataset(config(folder, budget=100, too_long="skip"), MODEL, split="all"))
    assert [f.sample_id for batch in skip for f in batch.faults] == ["clip001"]
    assert sorted(i for batch in skip for i in batch.sample_ids) == ["clip000", "clip002"]


def test_a_sample_that_cannot_be_read_is_left_out(shapes):
    data = config(shapes(2, broken=1), budget=160)
    (batch,) = dataset(data, MODEL, split="all")
    own = clips(batch, MODEL.patch)
    assert own.ids == ["clip000"]
    assert own.weight.tolist() == [1.0]
    assert [f.sample_id for f in batch.faults] == ["clip001"]


def test_a_rank_without_work_takes_part_with_a_blank_clip(shapes):
    data = config(shapes(2, broken=1), budget=80)
    batches = [clips(b, MODEL.patch) for b in dataset(data, MODEL, split="all")]
    weights = {own.ids[0]: own.weight.tolist() for own in batches}
    assert weights == {"clip000": [1.0], "": [0.0]}
    idle = next(own for own in batches if own.ids == [""])
    assert idle.seconds == 0
    assert idle.latents[0].shape == (1, 3, 4, 4), "one token"


def test_buckets_are_the_other_way_to_batch(shapes):
    data = config(shapes(8), batching="bucket", batch={"native": 3})
    assert sorted(len(b) for b in dataset(data, MODEL, split="all")) == [2, 3, 3]


def test_no_samples_are_told(shapes):
    with pytest.raises(UserError, match="no samples of the split 'val'"):
        dataset(config(shapes(2)), MODEL, split="val")


@pytest.mark.parametrize("along", [1, 4])
def test_the_rate_of_a_video_is_known_from_its_latent_frames(along):
    frames = torch.arange(17, dtype=torch.float64) / 24
    times = torch.cat([frames[:1], frames[1:].reshape(-1, along).mean(1)])
    assert rate_of(times, along) == pytest.approx(24)
    assert seconds_of(times, along) == pytest.approx(17 / 24)
    assert rate_of(times[:1], along) == 1
    assert seconds_of(times[:1], along) == 0


def test_latents_are_counted_as_such_in_packs(shapes):
    """16 x 16 pixels of 5 frames are 2 latent frames of 2 x 2: one token each."""
    model = ModelConfig(width=32, depth=1, heads=2, channels=16)
    codes = Codes(channels=16, compression=(4, 8, 8), causal=True)
    batches = list(dataset(config(shapes(9), budget=6), model, codes, split="all"))
    assert sorted(len(batch) for batch in batches) == [3, 3, 3]
    with pytest.raises(UserError, match="2 tokens, more than the budget of 1"):
        next(iter(dataset(config(shapes(9), budget=1), model, codes, split="all")))


def test_a_sample_carries_its_seed(shapes):
    """Of the data's seed, the epoch and the sample, so that what is drawn by it is the same."""
    data = config(shapes(3), budget=80)
    reader = dataset(data, MODEL, split="all")
    epochs = [{b.sample_ids[0]: b.samples[0].seed for b in reader} for _ in range(2)]
    again = dataset(data.model_copy(update={"budget": 240}), MODEL, split="all")
    (batch,) = again
    assert dict(zip(batch.sample_ids, (s.seed for s in batch.samples), strict=True)) == epochs[0]
    assert len({*epochs[0].values(), *epochs[1].values()}) == 6
