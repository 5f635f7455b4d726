import pytest
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.operator import registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """User operators of one test are not there in the next."""
    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})


@pytest.fixture
def command():
    """command("ops", "--json") runs the command line in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])
