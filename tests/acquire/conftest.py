"""Downloads from the fault server, with pauses cut short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_server import FaultServer

from vidcurate.acquire import limits
from vidcurate.acquire.fetch import Fetched, Fetcher
from vidcurate.acquire.limits import HostLimits
from vidcurate.operator.base import VideoRow
from vidcurate.recipe.model import Acquire


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)


@pytest.fixture
def config(fault_server: FaultServer) -> Callable[..., Acquire]:
    """config(max_size=..., download={...}): the recipe's section; the fault server is allowed."""
    return lambda **more: Acquire.model_validate({"allow_hosts": (fault_server.host,), **more})


@pytest.fixture
def fetch(
    fault_server: FaultServer, config: Callable[..., Acquire], tmp_path: Path
) -> Callable[..., Fetched]:
    """fetch("/ok/film.mp4", mirror=...): fetch a path of the fault server, or a whole row."""

    def get(what: str | VideoRow, **more: object) -> Fetched:
        row = VideoRow(fault_server.url(what)) if isinstance(what, str) else what
        fetcher = Fetcher(config(**more), tmp_path / "cache", HostLimits(), threading.Event())
        return fetcher.fetch(row)

    return get
