"""The wheel and the source archive hold all that the checkout holds, symbolic links followed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
NOT_BUILT = shutil.ignore_patterns(
    ".*", "build", "dist", "demo", "tests", "*.egg-info", "__pycache__"
)
SHIPPED = (".py", ".yaml", ".j2", ".txt", ".typed", ".css", ".js", ".html")


def shipped_files() -> set[str]:
    """Paths of the package's files as an import sees them: under vidcurate/."""
    found = set()
    for root, prefix in ((REPO / "vidcurate", ""), *links()):
        for path in root.rglob("*"):
            if path.suffix in SHIPPED and "__pycache__" not in path.parts:
                found.add(f"vidcurate/{prefix}{path.relative_to(root).as_posix()}")
    return found


def links() -> list[tuple[Path, str]]:
    return [(REPO / name, f"{name}/") for name in ("operators", "recipes")]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("build")
    # A copy: a build leaves files beside the source, where other tests and old builds meet them.
    shutil.copytree(REPO, folder / "source", symlinks=True, ignore=NOT_BUILT)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "out"],
        cwd=folder / "source", check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return folder / "out"


def test_links_lead_out_of_the_package():
    for target, _ in links():
        link = REPO / "vidcurate" / target.name
        assert link.is_symlink()
        assert link.resolve() == target


def test_wheel_holds_operators_recipes_and_all_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = archive.read("vidcurate-0.1.0.dist-info/entry_points.txt").decode()
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == shipped_files()
    assert "vidcurate/py.typed" in packaged
    assert "vidcurate/operators/score/__init__.py" in packaged
    assert "vidcurate-0.1.0.dist-info/licenses/LICENSE" in names
    assert "vidcurate = vidcurate.cli.main:app" in points


def test_source_archive_holds_the_same(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {m.name.split("/", 1)[1] for m in archive if m.isfile() or m.islnk()}
    assert shipped_files() <= members
    assert {"LICENSE", "README.md", "pyproject.toml"} <= members
