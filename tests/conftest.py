"""Footage for all tests: made once a session and shared by its workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

import fetch_footage  # noqa: E402
import footage as made  # noqa: E402


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """footage("cuts") is the path of that made video. Never write to it or beside it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has its own folder in the session's
        folder = folder.parent
    return lambda name: made.make(name, folder / "footage")


@pytest.fixture(scope="session")
def truth() -> Callable[[str], dict[str, Any]]:
    """truth("cuts") is what is known of that made video; see tools/footage.py."""
    return made.truth


def _real(name: str) -> Path:
    path = fetch_footage.FOLDER / name
    assert path.exists(), f"{path} is missing: tools/setup --extras test fetches it"
    return path


@pytest.fixture(scope="session")
def bbb() -> Path:
    """Big Buck Bunny: H.264, 1280x720, 25 fps, 132 frames, AAC. Never write to it."""
    return _real("bigbuckbunny.mp4")


@pytest.fixture(scope="session")
def bikes() -> Path:
    """Real footage with 5 cuts: H.264, 640x272, 25 fps, 250 frames, no sound."""
    return _real("bikes.mp4")
