"""What each rank does in test_fine_tune.py: `python lora_ranks.py RANK PORT FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from two_ranks import join


def main(rank: str, port: str, folder: str) -> None:
    join(rank, port)
    import torch.distributed as dist

    from vidcurate.train.config import from_raw
    from vidcurate.train.loop import train

    raw = json.loads(Path(folder, "recipe.json").read_text())
    for how in ("ddp", "fsdp2"):
        changes = {"parallel": how, "output": str(Path(folder, how))}
        for steps in (2, 3):  # it stops, and goes on
            train(from_raw(raw | changes | {"steps": steps}), show=lambda _: None)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
