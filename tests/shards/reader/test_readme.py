"""The README's training loop runs as it is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[3] / "README.md"


def test_the_loop_trains(packed: Path, tmp_path: Path) -> None:
    [code] = re.findall(
        r"```python\n(import torch\nfrom vidcurate\.shards.*?)```", README.read_text(), re.S
    )
    assert '"demo/out/shards/base"' in code
    code = code.replace("demo/out/shards/base", str(packed)).replace("(64)", "(32)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(re.fullmatch(r"32p_\w+ \(\d, 3, \d, \d+, \d+\) \d\.\d{3}", line) for line in lines)
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert losses[-1] < losses[0]
    assert (tmp_path / "last.pt").is_file()
