"""The trainer's model and loop stand on the reader and the models alone."""

from __future__ import annotations

import subprocess
import sys


def test_the_loop_imports_no_run_no_report_and_no_command_line():
    code = (
        "import sys, vidcurate.train.loop\n"
        "rooms = ('vidcurate.run', 'vidcurate.report', 'vidcurate.cli', 'vidcurate.operators')\n"
        "found = [m for m in sys.modules if m.startswith(tuple(r + '.' for r in rooms))]\n"
        "heavy = ('ray', 'peft', 'diffusers', 'transformers')\n"
        "print(found + [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
