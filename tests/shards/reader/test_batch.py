"""A batch as torch's DataLoader treats it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from vidcurate.shards import Batch


def test_a_loader_pins_all_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a GPU nothing can be pinned: what would be is noted.
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t.numel()) or t + 1)
    weight, video = torch.zeros(2), torch.zeros(2, 3)
    common = {"sample_ids": ["a", "b"], "bucket": "x", "captions": ["", ""], "samples": [None] * 2}
    one = pin_memory(Batch(weight=weight, video=video, **common))
    assert (one.weight.sum(), one.video.sum()) == (2, 6)
    many = pin_memory(Batch(weight=weight, video=[video, "mine"], **common))
    assert (many.video[0].sum(), many.video[1]) == (6, "mine")
    assert pin_memory(Batch(weight=weight, **common)).video is None
    assert pinned == [6, 2, 6, 2, 2]
    assert (len(one), weight.sum(), one.captions) == (2, 0, ["", ""])
