import subprocess
import sys

import vidcurate

HEAVY = ("av", "cv2", "duckdb", "numpy", "pyarrow", "pydantic", "ray", "scenedetect", "torch")


def imported_by(*arguments: str) -> set[str]:
    """The heavy packages that a fresh Python has after running the code."""
    code = arguments[0] + f"\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_every_public_name_is_there():
    for name in vidcurate.__all__:
        assert getattr(vidcurate, name) is not None, name
    assert set(vidcurate.__all__) == {*vidcurate._MODULES, "__version__"}
    assert set(vidcurate.__all__) <= set(dir(vidcurate))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(vidcurate, "nonsense")


def test_importing_the_package_is_light():
    assert imported_by("import vidcurate") == set()


def test_help_loads_no_engine():
    code = (
        "import vidcurate.cli.main as m\n"
        "try: m.app(['--help'], prog_name='vidcurate')\n"
        "except SystemExit as end: assert end.code == 0"
    )
    assert not imported_by(code) & {"av", "cv2", "duckdb", "ray", "pyarrow", "numpy"}
