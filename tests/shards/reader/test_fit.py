"""Clips read smaller and with fewer frames than their buckets have."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from vidcurate.shards import Decode, Shapes, ShardDataset

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # for the reader's workers


@dataclass(frozen=True)
class Half:
    """Half the size where it is told to, and every second frame."""

    sides: int = 2

    def shapes(self, shapes: Shapes) -> Shapes:
        return replace(
            shapes,
            frames=(shapes.frames + 1) // 2,
            height=shapes.height // self.sides,
            width=shapes.width // self.sides,
        )

    def step(self, frames: int) -> int:
        return 2


def clips(packed: Path, folder: Path, **settings):
    dataset = ShardDataset(packed, split=None, index_folder=folder, **settings)
    return {b.sample_ids[0]: (b.video[0], b.times[0]) for b in dataset}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("backend", ["av", "decord"])
def test_every_second_frame_of_the_same_window(packed, tmp_path, workers, backend):
    how = {"decode": Decode(backend=backend), "workers": workers}
    whole, half = clips(packed, tmp_path, **how), clips(packed, tmp_path, fit=Half(1), **how)
    assert whole.keys() == half.keys()
    for sample, (video, times) in half.items():
        every, at = whole[sample]
        assert len(video) == (len(every) + 1) // 2 > 1
        np.testing.assert_array_equal(times, at[::2])
        np.testing.assert_array_equal(video, every[::2])


def test_pictures_are_scaled_as_they_are_decoded(packed, tmp_path):
    whole, half = clips(packed, tmp_path), clips(packed, tmp_path, fit=Half())
    for sample, (video, _) in half.items():
        every = whole[sample][0].double()
        count, channels, height, width = every.shape
        assert video.shape == ((count + 1) // 2, channels, height // 2, width // 2)
        blocks = every[::2].reshape(len(video), channels, height // 2, 2, width // 2, 2)
        assert (video.double() - blocks.mean(dim=(3, 5))).abs().mean() < 6


def test_a_sample_that_cannot_be_read_leaves_a_slot_of_the_size_that_was_asked(packed, tmp_path):
    dataset = ShardDataset(
        packed, split=None, index_folder=tmp_path, fit=Half(), decode=Decode(max_pixels=4)
    )
    batch = next(iter(dataset))
    assert batch.weight.tolist() == [0]
    assert batch.faults[0].error == "RefusedMediaError"
    assert (
        batch.video.shape[-2:]
        == clips(packed, tmp_path, fit=Half())[batch.sample_ids[0]][0].shape[-2:]
    )
    assert not batch.video.any()
