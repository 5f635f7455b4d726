import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import vidcurate
from vidcurate.cli.main import _Group
from vidcurate.errors import DataError, RecipeError


def app_that(error):
    app = typer.Typer(cls=_Group, pretty_exceptions_enable=False)

    @app.callback()
    def options(debug: bool = False): ...

    @app.command()
    def work():
        raise error

    @app.command()
    def rest(): ...

    return app


@pytest.mark.parametrize(
    ("error", "status"),
    [(RecipeError("one", "two"), 2), (DataError("lost"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_become_messages_and_statuses(error, status):
    result = CliRunner().invoke(app_that(error), ["work"])
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_each_problem_stands_on_its_line():
    result = CliRunner().invoke(app_that(RecipeError("one", "two")), ["work"])
    assert result.stderr.splitlines() == ["error: one", "       two"]


def test_debug_shows_the_traceback():
    result = CliRunner().invoke(app_that(DataError("lost")), ["--debug", "work"])
    assert isinstance(result.exception, DataError)


def test_an_error_of_no_kind_of_ours_is_not_hidden():
    result = CliRunner().invoke(app_that(ZeroDivisionError("bug")), ["work"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_version_and_unknown_commands(command):
    assert command("--version").stdout == f"vidcurate {vidcurate.__version__}\n"
    assert command("nonsense").exit_code == 2
    assert "Usage" in command("--help").stdout


def test_a_real_process(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("source: {folder: {path: .}}\noutput: out\nscore:\n  - motoin\n")
    done = subprocess.run(
        [sys.executable, "-m", "vidcurate", "validate", str(recipe)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"error: {recipe}:4: score.motoin: unknown scorer 'motoin'; did you mean 'motion'?"
    )
