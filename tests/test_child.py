"""The CPU time of a child's jobs, however they end."""

import pytest

from vidcurate.child import Child
from vidcurate.errors import DataError, WorkerCrashError
from vidcurate.recipe.model import Limits

BURN = """
import os, signal, time

def burn(end):
    while time.process_time() < 0.5:
        pass
    yield 1
    if end == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if end == "raise":
        raise ValueError
"""


@pytest.mark.parametrize(("end", "error"), [("crash", WorkerCrashError), ("raise", DataError)])
def test_cpu_time_of_a_job_that_fails_counts(tmp_path, monkeypatch, end, error):
    (tmp_path / "burning.py").write_text(BURN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    child = Child(Limits())
    try:
        with pytest.raises(error):
            list(child.run("burning:burn", end))
    finally:
        child.close()
    assert 0.48 <= child.cpu_seconds() < 5  # ticks of 10 ms
