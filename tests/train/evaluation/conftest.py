"""One thread: the models are tiny."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vidcurate.models import prepare_torchvision


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    prepare_torchvision()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
