"""What each of two ranks does: `python two_ranks.py RANK PORT FOLDER OUTPUT [RECIPE]`.

Without a recipe (as JSON) it is what test_parallel.py is about.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def recipe(folder: str, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "data": {
            "shards": folder,
            "split": "all",
            "budget": 160,
            "captions": "source",
            "workers": 0,
        },
        "model": {"width": 32, "depth": 2, "heads": 2, "patch": [1, 4, 4], "text_width": 16},
        "optimizer": {"lr": 1e-3, "weight_decay": 0.1},
        "ema": 0.9,
        "precision": "fp32",
        "device": "cpu",
        "checkpoint": {"every": None},
        "log": {"every": 1},
        "steps": 4,
        "output": output,
    } | changes


def both(script: str, *arguments: str) -> None:
    """Start a script as two ranks, `python script RANK PORT arguments`, and wait for them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(port), *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=300)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def join(rank: str, port: str) -> None:
    """Be one of the two ranks, on one thread."""
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")


def two_ranks(folder: str, output: str, *recipe: str) -> list[dict[str, Any]]:
    """Start both ranks, wait for them, and give what each one said."""
    both(__file__, folder, output, *recipe)
    return [json.loads(Path(output, f"rank{rank}.json").read_text()) for rank in range(2)]


def main(rank: str, port: str, folder: str, output: str, given: str = "") -> None:
    join(rank, port)
    import torch.distributed as dist

    from vidcurate.train import loop
    from vidcurate.train.config import from_raw

    seen: list[list[str]] = []
    real = loop.pack_of

    def noted(own: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(own.ids if own.weight.any() else [])
        return real(own, *arguments, **named)

    loop.pack_of = noted
    if given:
        done = loop.train(
            from_raw(json.loads(given)),
            show=lambda _: None,
            write=lambda path, frames, fps: None,
        )
        said = {"seen": seen, "step": done.step}
        Path(output, f"rank{rank}.json").write_text(json.dumps(said))
        dist.destroy_process_group()
        return
    said = {}
    validate = {"every": 4, "batches": 1, "timesteps": [0.5], "videos": 1, "sampling_steps": 1}
    for how in ("ddp", "fsdp2"):
        seen.clear()
        changes = {"parallel": how, "validate": validate}
        summary = loop.train(
            from_raw(recipe(folder, f"{output}/{how}", **changes)),
            show=lambda _: None,
            write=lambda path, frames, fps: None,
        )
        said[how] = {"seen": list(seen), "step": summary.step}
    # What FSDP2 saved goes on under DDP, and a bad number of one rank is known to both.
    name = seen[0][0]
    poison = {"rank": 1, "step": 4}

    def poisoned(own: Any, *arguments: Any, **named: Any) -> Any:
        if named["step"] == poison["step"] and dist.get_rank() == poison["rank"]:
            own.latents[0][0, 0, 0, 0] = float("inf")
            said["poisoned"] = own.ids[0]
        return real(own, *arguments, **named)

    loop.pack_of = poisoned
    raw = recipe(folder, f"{output}/fsdp2", parallel="ddp", steps=6, on_nan="skip")
    summary = loop.train(from_raw(raw), show=lambda _: None)
    said["gone_on"] = {"step": summary.step, "not_finite": summary.not_finite, "first": name}
    Path(output, f"rank{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
