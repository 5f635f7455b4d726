"""Clips to tokens and back, and what is known of each token."""

from __future__ import annotations

import math

import pytest
import torch

from vidcurate.errors import DataError
from vidcurate.train.model.layout import patchify, unpatchify


def clip(t: int, h: int, w: int, fps: float = 8.0):
    """A latent of three channels whose numbers all differ, and its times."""
    count = t * 3 * h * w
    return torch.arange(count).reshape(t, 3, h, w).float(), torch.arange(t).double() / fps


@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1), (2, 2, 4)])
def test_there_and_back_is_exact(patch):
    latents, times = zip(clip(2, 4, 8), clip(4, 8, 4), clip(2, 2, 4), strict=True)
    tokens, layout = patchify(latents, times, patch)
    width = 3 * math.prod(patch)
    assert tokens.shape == (sum(x.numel() for x in latents) // width, width)
    back = unpatchify(tokens, layout, patch, 3)
    assert all(torch.equal(a, b) for a, b in zip(latents, back, strict=True))


def test_a_token_is_its_patch():
    latent, times = clip(2, 4, 6)
    tokens, _ = patchify([latent], [times], (1, 2, 2))
    # Frame 1, second row of patches, third column.
    assert torch.equal(
        tokens[1 * 6 + 1 * 3 + 2].reshape(2, 2, 3), latent[1, :, 2:4, 4:6].permute(1, 2, 0)
    )


def test_what_is_known_of_each_token():
    (wide, wide_times), (image, image_times) = clip(2, 2, 4), clip(1, 4, 2)
    tokens, layout = patchify([wide, image], [wide_times + 3, image_times], (1, 2, 2))
    assert tokens.shape == (6, 12)
    assert layout.grids == [(2, 1, 2), (1, 2, 1)]
    assert layout.position.dtype == layout.place.dtype == torch.float32
    assert layout.position.tolist() == [
        [3, 0.5, 0.5],
        [3, 0.5, 1.5],
        [3.125, 0.5, 0.5],
        [3.125, 0.5, 1.5],
        [0, 0.5, 0.5],
        [0, 1.5, 0.5],
    ]
    frame = [[0.5, 0.25], [0.5, 0.75]]
    assert layout.place.tolist() == [*frame, *frame, [0.25, 0.5], [0.75, 0.5]]
    assert layout.frame.tolist() == [0, 0, 1, 1, 2, 2]
    assert layout.frame_sample.tolist() == [0, 0, 1]
    assert layout.sample.tolist() == [0, 0, 0, 0, 1, 1]
    assert layout.offsets.tolist() == [0, 4, 6]
    assert layout.offsets.dtype == layout.time_offsets.dtype == torch.int32
    assert layout.space_offsets.tolist() == [0, 2, 4, 6]
    assert layout.time_order.tolist() == [0, 2, 1, 3, 4, 5]
    assert layout.time_order[layout.time_back].tolist() == list(range(6))
    assert layout.time_offsets.tolist() == [0, 2, 4, 5, 6]


def test_a_patch_of_frames_stands_at_their_middle():
    latent, times = clip(4, 2, 2)
    _, layout = patchify([latent], [times], (2, 2, 2))
    assert layout.position[:, 0].tolist() == [0.0625, 0.3125]
    assert layout.frame_sample.tolist() == [0, 0]  # a frame row is a step of tokens


def test_texts_are_given_to_samples():
    _, layout = patchify(*zip(clip(1, 2, 2), clip(1, 2, 2), strict=True), (1, 2, 2))
    assert layout.text_offsets.tolist() == [0, 1, 2]
    assert layout.text_longest == 1
    told = layout.with_text(torch.tensor([0, 3, 8]))
    assert told.text_offsets.tolist() == [0, 3, 8]
    assert told.text_offsets.dtype == torch.int32
    assert told.text_longest == 5
    assert told.to("meta").position.is_meta
    assert told.to("meta").text_longest == 5
    with pytest.raises(AssertionError, match="empty prompt"):
        layout.with_text(torch.tensor([0, 3, 3]))
    with pytest.raises(AssertionError, match="one text a sample"):
        layout.with_text(torch.tensor([0, 3]))


@pytest.mark.parametrize("size", [(1, 3, 4), (1, 4, 5), (2, 0, 4)])
def test_a_latent_of_broken_patches_is_refused(size):
    latent, times = clip(*size)
    with pytest.raises(DataError, match=f"{size[1]} rows and {size[2]} columns has no whole"):
        patchify([latent], [times], (1, 2, 2))
