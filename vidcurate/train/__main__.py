"""`python -m vidcurate.train RECIPE [--set path.to.key=value]`: what torchrun starts.

    torchrun --nproc-per-node 8 -m vidcurate.train recipes/train/dit.yaml

The same as `vidcurate train` on each rank. Exit status: 0 done, or ended by SIGTERM with its
checkpoint saved; 2 a mistake in the recipe; 1 any other error; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys

from vidcurate.errors import VidcurateError
from vidcurate.media.frame_files import save_frames
from vidcurate.train.config import load
from vidcurate.train.loop import train


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m vidcurate.train")
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="PATH.TO.KEY=VALUE")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(
            load(given.recipe, overrides=given.set),
            show=lambda line: print(line, flush=True),
            write=save_frames,
        )
    except VidcurateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
