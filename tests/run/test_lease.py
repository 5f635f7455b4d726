import os
import signal
import socket
import subprocess
import sys

import pytest

from vidcurate.errors import RunDirectoryError
from vidcurate.run.lease import Lease, is_held

HOLD = """
import sys, time
from vidcurate.run.lease import Lease
with Lease(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(out):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_told_who_holds_it_and_a_kill_frees_it(tmp_path):
    out = tmp_path / "new" / "out"
    with holder(out) as process:
        said = f"process {process.pid} on {socket.gethostname()}"
        with pytest.raises(RunDirectoryError, match=said), Lease(out):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Lease(out) as lease:
            assert lease.held


def test_it_ends_with_the_block_and_is_not_inherited(tmp_path):
    with Lease(tmp_path) as lease:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        with pytest.raises(RunDirectoryError, match=f"process {os.getpid()}"), Lease(tmp_path):
            pass
    assert not lease.held
    with child, Lease(tmp_path):  # the child lives still
        child.communicate(b"\n")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="choose another output"), Lease(tmp_path / "file"):
        pass
    with pytest.raises(RunDirectoryError, match="local or shared"):
        Lease("s3://bucket/out")


def test_whether_it_is_held_can_be_asked_by_anyone(tmp_path):
    out = tmp_path / "out"
    assert not is_held(out)
    with Lease(out):
        assert is_held(out)
    assert not is_held(out)


def test_a_file_is_no_output(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunDirectoryError, match="is a file; choose another"), Lease(file):
        pass
