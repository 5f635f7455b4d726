"""mosaicml streaming as a peer: its environment, and a process of it that takes turns with us.

It wants older versions of transformers and numpy than vidcurate, so it cannot be imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from benchmark_turns import Taken

MOSAIC = "mosaicml-streaming==0.13.0"
_CHILD = Path(__file__).with_name("mosaic_peer.py")


def environment(folder: Path) -> Path:
    """The Python of an environment with mosaicml streaming, made by pip where it is not there.

    It gets this process's version of torch.

    Raises:
        subprocess.CalledProcessError: pip could not get it (it says why).
    """
    python, stamp = folder / "bin" / "python", folder / "mosaicml"
    if not stamp.exists() or stamp.read_text() != MOSAIC:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        same = f"torch=={torch.__version__.partition('+')[0]}"
        subprocess.run([*pip, MOSAIC, same], check=True, stdout=sys.stderr)
        stamp.write_text(MOSAIC)
    return python


class Mosaic:
    """A process that reads and writes the samples of a folder by mosaicml streaming, on request.

    Args:
        python: of `environment`. samples: the folder of their files. work: for its shards.
    """

    def __init__(self, python: Path, samples: Path, work: Path) -> None:
        work.mkdir(parents=True)
        self._child = subprocess.Popen(
            [str(python), str(_CHILD), str(samples), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()

    def task(self, job: str) -> Callable[[], Taken]:
        """What does a job ("read", "shuffled", "write 100") and says what it took."""

        def work() -> Taken:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(f"{job}\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
            if not line:
                raise SystemExit(f"mosaicml streaming ended at {job!r} (see its message above)")
            return Taken(**json.loads(line))

        return work
