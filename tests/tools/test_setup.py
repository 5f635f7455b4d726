"""tools/setup refuses what it cannot do before it touches anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup(tmp_path):
    for name in ("tools/setup", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)

    def run(*arguments, python=sys.executable):
        return subprocess.run(
            [tmp_path / "tools/setup", *arguments], cwd="/", env=os.environ | {"PYTHON": python},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    yield run
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["now"], "unknown argument 'now' (usage: tools/setup [--extras a,b])"),
        (["--extras"], "--extras needs a list, such as --extras ocr,test"),
        (["--extras", "ocr,orc"], "pyproject.toml has no extra 'orc'"),
        (["--extras=ocr;ls"], "--extras takes names and commas, not 'ocr;ls'"),
    ],
)
def test_wrong_usage_is_named(setup, arguments, message):
    done = setup(*arguments)
    assert (done.returncode, done.stderr) == (2, f"tools/setup: {message}\n")


def test_without_a_new_python_it_says_how_to_get_one(setup):
    done = setup(python="/bin/false")
    assert done.returncode == 1
    assert "no Python 3.11 or later found (tried /bin/false)" in done.stderr
    assert "apt install python3" in done.stderr


def test_help_tells_the_extras(setup):
    done = setup("--help")
    assert done.returncode == 0
    assert "tools/setup [--extras a,b]" in done.stdout
    extras = "ocr, models, train, decord, http, download, hubs, test"
    assert f"Extras of pyproject.toml: {extras}." in done.stdout


def test_all_that_pyproject_asks_is_pinned():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    del extras["vllm"]  # brings a CUDA build of torch of its own: nothing here installs it
    asked = {
        re.split(r"[^\w.-]", line)[0]
        for part in (project["dependencies"], *extras.values())
        for line in part
    }
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pins = {re.fullmatch(r"([\w.-]+)==\d[\w.]*", line)[1] for line in lines if line[0] != "#"}
    assert {canonical(name) for name in asked} <= {canonical(name) for name in pins}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()
