"""How much memory a process has taken."""

from __future__ import annotations

import re
from pathlib import Path


def peak_bytes() -> int:
    """The most memory that this process has held at once (resident set).

    Of this program alone: getrusage would count what the parent held when it was started.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
