"""`python -m vidcurate.train RECIPE [--set path.to.key=value]`: what torchrun starts.

    torchrun --nproc-per-node 8 -m vidcurate.train recipes/train/dit.yaml

The same as `vidcurate train` on each rank. Exit status: 0 done, or ended by SIGTERM with its
checkpoint saved; 2 a mistake in the recipe; 1 any other error; 130 after Ctrl-C. torchrun passes
signals on, kills ranks that need more than 30 seconds to save, and itself ends with 1 then.
"""

from __future__ import annotations

import argparse
import sys

from vidcurate.errors import VidcurateError
from vidcurate.train.command import start


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m vidcurate.train")
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="PATH.TO.KEY=VALUE")
    parser.add_argument("--output", help="replaces the folder of the results")
    parser.add_argument("--batching", metavar="pack|bucket", help="replaces data.batching")
    parser.add_argument(
        "--fresh", action="store_true", help="remove what the output holds of a training"
    )
    given = parser.parse_args(arguments)
    try:
        start(
            given.recipe,
            overrides=given.set,
            output=given.output,
            batching=given.batching,
            fresh=given.fresh,
            show=lambda line: print(line, flush=True),
        )
    except VidcurateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
