import pytest

from vidcurate.operator import registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """User operators of one test are not there in the next."""
    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})
