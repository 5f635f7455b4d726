"""How fast the trainer trains: MFU, real tokens a second, memory, and the wait for data.

    python tools/benchmark_train.py [--quick] [--device cuda|cpu] [--folder FOLDER] [--json FILE]

For a CUDA GPU with 80 GB; `--quick` runs a tiny model, also on a CPU. In bfloat16, on a generated
mix of clips and pictures of native sizes, with AdamW and averaged weights, as the trainer does:

- a DiT-XL with full attention and with each of Latte's variants, on the trainer's packs;
- the same with and without compiled blocks (torch.compile), and with activations recomputed;
- packs beside the two other ways to make batches: by bucket (clips are cut to a size, full batches
  alone), and padded to the largest of a batch; real tokens and operations alone count;
- the trainer itself on a precached set, which is made for it: the share of the time that it waits.

Warm-up (compilation too) is left out; the device has done its work when a clock is read. MFU counts
the operations of real tokens, attention within samples, nothing twice, against the maker's figure
for dense bfloat16: n/a where that is not known (`--peak-tflops`). What does not fit says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import benchmark_train_work as work
import torch
from benchmark import machine
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from vidcurate.train.config import from_raw
from vidcurate.train.loop import train
from vidcurate.train.metrics import Meter, peak_tflops, read
from vidcurate.train.model.config import ModelConfig, Variant
from vidcurate.train.model.flops import TRAINING, flops
from vidcurate.train.network import Average, Network, Pack, optimizer_of, pack_of
from vidcurate.train.objective import Objective, errors
from vidcurate.train.parallel import Place


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    size: of the model, as a recipe's `model` gives it. budget: tokens of a batch. sides, frames:
    short sides and most frames of the mix. clips: of it. texts: rows of a text at most. warm_up,
    steps: of each case, and of the trainer at the end. workers: of its reader. backend: that
    compiles.
    """

    size: dict[str, Any]
    budget: int = 16_384
    sides: tuple[int, ...] = (256, 320, 480)
    frames: int = 81
    clips: int = 2000
    texts: int = 128
    warm_up: int = 8
    steps: int = 20
    train_steps: int = 60
    workers: int = 4
    backend: str = "inductor"


FULL = Effort({"preset": "DiT-XL", "text_width": 4096})
QUICK = Effort(
    {"width": 48, "depth": 2, "heads": 2, "text_width": 32},
    budget=512,
    sides=(48, 64),
    frames=9,
    clips=120,
    texts=16,
    warm_up=2,
    steps=4,
    train_steps=4,
    workers=0,
    backend="aot_eager",
)


@dataclass(frozen=True)
class Case:
    """One row: what is trained on which batches. compiled, recompute: the blocks."""

    batches: str
    blocks: Variant = "full"
    compiled: bool = True
    recompute: bool = False

    @property
    def name(self) -> str:
        """In words."""
        words = [self.batches, f"attention {self.blocks}"]
        words.append("compiled" if self.compiled else "eager")
        return ", ".join([*words, "recomputed"] if self.recompute else words)


CASES = (
    *(Case("packed", blocks) for blocks in ("full", "interleaved", "late", "both", "split")),
    Case("packed", compiled=False),
    Case("packed", recompute=True),
    Case("packed", compiled=False, recompute=True),
    Case("bucketed", recompute=True),
    Case("padded", recompute=True),
)


@dataclass(frozen=True)
class Row:
    """What was measured of a case; shares are of 1, None is not known.

    tokens: real ones. padding: share of the tokens that are paid for. computed: operations for one
    real token beside those of a pack's. note: why there is nothing else.
    """

    name: str
    tokens: int = 0
    tokens_per_s: float | None = None
    mfu: float | None = None
    padding: float | None = None
    memory_gib: float | None = None
    data_wait: float | None = None
    flops_per_token: float | None = None
    ratio: float | None = None
    note: str = ""


def rows(
    effort: Effort,
    device: torch.device,
    peak: float | None,
    folder: Path,
    cases: Sequence[Case] = CASES,
) -> Iterator[Row]:
    """Measure one after the other.

    Args:
        peak: operations a second, or None. folder: empty, for the precached set and the trainer.
    """
    best: dict[bool, float] = {}
    for case in cases:
        row = measured(case, effort, device, peak)
        if case.batches == "packed" and case.blocks == "full" and case.compiled and row.tokens:
            assert row.tokens_per_s is not None
            best[case.recompute] = row.tokens_per_s
        if case.recompute in best and row.tokens_per_s is not None:
            row = replace(row, ratio=row.tokens_per_s / best[case.recompute])
        yield row
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    yield precached(effort, device, peak, folder)


def batches_of(case: Case, model: ModelConfig, effort: Effort) -> list[work.Batch]:
    """The batches of a case, all of the same mix."""
    sizes = sizes_of(model, effort)
    if case.batches == "packed":
        return work.packed(model, sizes, effort.budget)
    if case.batches == "bucketed":
        return work.bucketed(model, sizes, effort.budget, effort.sides, effort.frames)
    return work.padded(model, sizes, effort.budget)


def sizes_of(model: ModelConfig, effort: Effort) -> list[work.Size]:
    """The mix: no clip takes more than half of a batch."""
    return work.mix(model, effort.clips, effort.budget // 2, effort.sides, effort.frames)


def model_of(case: Case, effort: Effort) -> ModelConfig:
    """The model of a case."""
    return ModelConfig(**effort.size, channels=work.CHANNELS, blocks=case.blocks)


def measured(case: Case, effort: Effort, device: torch.device, peak: float | None) -> Row:
    """A case's figures; where the memory is too small, a row that says so."""
    try:
        return _measured(case, effort, device, peak)
    except torch.OutOfMemoryError:
        return Row(case.name, note="out of memory")


def _measured(case: Case, effort: Effort, device: torch.device, peak: float | None) -> Row:
    model = model_of(case, effort)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    network = Network(model, rows=True).to(device)
    for block in network.dit.blocks:
        if case.compiled:
            block.forward = torch.compile(block.forward, dynamic=True, backend=effort.backend)
        if case.recompute:
            block.forward = partial(recomputed, block.forward, use_reentrant=False)
    config = from_raw({"data": {"shards": "-"}, "model": effort.size, "steps": 1, "output": "-"})
    optimizer, average = optimizer_of(network, config), Average(network, 0.999)
    every = batches_of(case, model, effort)
    chosen = [every[i % len(every)] for i in range(effort.warm_up + effort.steps)]
    given = [
        work.clips_of(batch, model.text_width, effort.texts, seed)
        for seed, batch in enumerate(chosen)
    ]
    meter = Meter(Place(0, 1, device), budget=None, peak=peak)
    real = operations = 0
    for i, (batch, clips) in enumerate(zip(chosen, given, strict=True)):
        if i == effort.warm_up:
            _finish(device)
            meter = Meter(Place(0, 1, device), budget=None, peak=peak)
            real = operations = 0
        pack = pack_of(clips, network, Objective(), device, seed=0, step=i)
        _train_on(pack, network, optimizer, device)
        average.update(i)
        tokens = work.counted(model, batch.real)
        own = TRAINING * flops(model, list(work.grids(model, batch.real)), pack.texts)
        meter.pack(samples=len(batch.real), seconds=clips.seconds, tokens=tokens, flops=own)
        meter.add(room=batch.room or 0)
        real += tokens
        operations += TRAINING * flops(model, pack.layout.grids, pack.texts)
    _finish(device)
    line = meter.line()
    return Row(
        case.name,
        real,
        line["tokens_per_s"],
        line["mfu"],
        line["padding"],
        line["memory_gib"],
        flops_per_token=operations / real,
    )


def _train_on(
    pack: Pack, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    """One step, as the trainer's loop does it."""
    autocast = (
        torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext()
    )
    with autocast:
        predicted = pack.through(network)
    (errors(predicted, pack.noised).sum() / max(1, pack.real)).backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0).item()
    assert math.isfinite(norm), "the benchmark's loss is not finite"
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def precached(effort: Effort, device: torch.device, peak: float | None, folder: Path) -> Row:
    """The trainer itself, with its reader, on a precached set; its first lines are left out."""
    model = model_of(Case("packed"), effort)
    sizes = sizes_of(model, effort)
    work.write_precached(folder / "shards", sizes, model.text_width, effort.texts)
    config = from_raw(
        {
            "data": {
                "shards": str(folder / "shards"),
                "budget": effort.budget,
                "workers": effort.workers,
            },
            "model": {**effort.size, "channels": work.CHANNELS},
            "optimizer": {"recompute": True},
            "precision": "bf16" if device.type == "cuda" else "fp32",
            "device": device.type,
            "checkpoint": {"every": None},
            "log": {"every": 1, "peak_tflops": peak and peak / 1e12},
            "steps": effort.warm_up + effort.train_steps,
            "output": str(folder / "out"),
        }
    )
    name = "the trainer on a precached set, packed, attention full, eager, recomputed"
    try:
        train(config, show=lambda _: None)
    except torch.OutOfMemoryError:
        return Row(name, note="out of memory")
    lines = read(folder / "out" / "metrics.jsonl")[effort.warm_up :]
    seconds = [line["samples_per_s"] for line in lines]
    assert len(seconds) == effort.train_steps

    def middle(key: str) -> float | None:
        found = [line[key] for line in lines if line[key] is not None]
        return statistics.median(found) if found else None

    return Row(
        name,
        tokens_per_s=middle("tokens_per_s"),
        mfu=middle("mfu"),
        padding=middle("padding"),
        memory_gib=max(line["memory_gib"] for line in lines),
        data_wait=statistics.fmean(line["data_wait"] for line in lines),
    )


# --------------------------------------------------------------------------- output


def table(found: Sequence[Row], facts: dict[str, str], command: str) -> str:
    """The rows as a Markdown table, with the command and the machine below it."""
    head = ("", "real tokens/s", "x packs", "MFU", "padding", "data wait", "GiB", "")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in found:
        cells = [
            row.name,
            _shown(row.tokens_per_s, ",.0f"),
            _shown(row.ratio, ".2f"),
            _shown(row.mfu, ".1%"),
            _shown(row.padding, ".1%"),
            _shown(row.data_wait, ".1%"),
            _shown(row.memory_gib, ".1f"),
            row.note,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"`{command}` on {facts['device']}, {facts['versions']}. {facts['model']}."]
    return "\n".join(lines)


def _shown(value: float | None, how: str) -> str:
    return "n/a" if value is None else format(value, how)


def facts_of(effort: Effort, device: torch.device, peak: float | None) -> dict[str, str]:
    """The device, the versions and the model."""
    facts = machine()
    name = f"a CPU ({facts['cpu']}, load {facts['load']} at the start)"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    size = ", ".join(f"{key} {value}" for key, value in effort.size.items())
    shown = "unknown" if peak is None else f"{peak / 1e12:g} TFLOPS"
    return facts | {
        "device": name,
        "versions": f"{facts['versions'].split(',')[0]}, torch {torch.__version__}",
        "model": f"{size}; batches of {effort.budget} tokens, {effort.steps} steps after "
        f"{effort.warm_up}; peak {shown}",
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure the trainer.")
    parser.add_argument("--quick", action="store_true", help="a tiny model: its figures say little")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=int, help="tokens of a batch")
    parser.add_argument("--peak-tflops", type=float, help="of the device in dense bfloat16")
    parser.add_argument("--folder", type=Path, help="for a precached set and a checkpoint (20 GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU; see --quick --device cpu")
    device = torch.device(chosen.device)
    effort = QUICK if chosen.quick else FULL
    if chosen.budget:
        effort = replace(effort, budget=chosen.budget)
    known = chosen.peak_tflops or peak_tflops(device, "bf16")
    peak = known and known * 1e12
    facts = facts_of(effort, device, peak)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        for row in rows(effort, device, peak, Path(temporary)):
            print(f"{_shown(row.tokens_per_s, ',.0f'):>12} tokens/s  {row.name}", file=sys.stderr)
            found.append(row)
    command = "tools/benchmark_train.py" + (" --quick" if chosen.quick else "")
    print(table(found, facts, f"{command} --device {chosen.device}"))
    if chosen.json:
        result = {"machine": facts, "quick": chosen.quick, "rows": [asdict(row) for row in found]}
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
