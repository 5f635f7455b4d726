"""What a training run tells of itself: a line every few steps, as text, JSON and in TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from vidcurate.durable import replacing
from vidcurate.train.parallel import Place

_log = logging.getLogger("vidcurate.train")

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "H20": 148.0,
    "L40S": 362.05,
    "L40": 181.05,
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "L4": 121.0,
}
"""Dense bfloat16, as the maker states it, by a part of the GPU's name; the first that fits."""


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """Of one device, or None where it is not known: on CPU, in float32, on other GPUs."""
    if device.type != "cuda" or precision != "bf16":
        return None
    words = torch.cuda.get_device_name(device)
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in words), None)


class Stopwatch:
    """Seconds of the device's work between start and stop, summed; never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._pairs: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """Begin."""
        self._pairs.append((self._mark(), None))

    def stop(self) -> None:
        """End."""
        self._pairs[-1] = (self._pairs[-1][0], self._mark())

    def take(self) -> float:
        """The seconds so far, of a device that has done its work; begins anew."""
        pairs, self._pairs = self._pairs, []
        if self._cuda:
            return float(sum(a.elapsed_time(b) for a, b in pairs)) / 1000
        return float(sum(b - a for a, b in pairs))

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


_SUMS = ("samples", "seconds", "tokens", "room", "flops", "data_wait", "skipped", "uncaptioned")


class Meter:
    """Sums of one log interval, of this rank.

    Args:
        budget: tokens that a pack may hold; None where batches are of buckets: no padding is told.
        peak: FLOPS of one device, or None.
    """

    def __init__(self, place: Place, *, budget: int | None, peak: float | None) -> None:
        self._place, self._budget, self._peak = place, budget, peak
        self._clear()

    def _clear(self) -> None:
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._errors = torch.zeros(4, dtype=torch.float64, device=self._place.device)
        self._counts = torch.zeros(4, dtype=torch.float64, device=self._place.device)
        self._predicted: list[float] = []
        self._measured: list[float] = []
        self._began = time.perf_counter()

    def pack(self, *, samples: int, seconds: float, tokens: int, flops: float) -> None:
        """One forward and backward pass; without real samples only its room counts."""
        if samples:
            self.add(samples=samples, seconds=seconds, tokens=tokens, flops=flops)
            self.add(room=self._budget or 0)

    def add(self, **values: float) -> None:
        """Add to sums of these names."""
        for name, value in values.items():
            self._sums[name] += value

    def pause(self, seconds: float) -> None:
        """So much time went into something else than training, such as a validation."""
        self._began += seconds

    def losses(self, errors: Tensor, counts: Tensor) -> None:
        """Sums and numbers (4,) of the errors of tokens, by quartile of the noise level."""
        self._errors += errors
        self._counts += counts

    def balance(self, costs: Tensor, seconds: Sequence[float]) -> None:
        """Of one step, of each rank: predicted costs, and measured seconds of the step before."""
        self._predicted.append(float(costs.mean() / costs.max()) if costs.max() > 0 else 1.0)
        if max(seconds) > 0:
            self._measured.append(sum(seconds) / len(seconds) / max(seconds))

    def line(self, **said: Any) -> dict[str, Any]:
        """The interval's numbers over all ranks, and the beginning of the next. All ranks call it.

        loss: mean over the real tokens; loss_q1 to q4: of those at noise levels below 0.25, 0.5,
        0.75, 1; None where none was seen. tokens_per_s: real ones. mfu: of real tokens, attention
        within samples, without what is computed twice; None where the peak is not known.
        padding: share of the packs' budget without a token. balance_predicted, balance_measured:
        mean / max over ranks, of costs and of the time of forward passes (with FSDP2 that holds
        waits for others). data_wait: share of the time. memory_gib: of the fullest rank, on its
        GPU, or the process's. skipped: samples that could not be read or were too long.
        """
        elapsed = time.perf_counter() - self._began
        own = [*self._sums.values(), *self._errors.tolist(), *self._counts.tolist()]
        every = self._place.gathered([*own, elapsed, _memory(self._place.device)])
        total = every.sum(0).tolist()
        sums = dict(zip(_SUMS, total, strict=False))
        errors, counts = total[len(_SUMS) :][:4], total[len(_SUMS) + 4 :][:4]
        took = float(every[:, -2].max())
        room = sums["room"]
        compute = self._peak and self._peak * took * self._place.ranks
        line = {
            **said,
            "loss": _ratio(sum(errors), sum(counts)),
            **{f"loss_q{i + 1}": _ratio(errors[i], counts[i]) for i in range(4)},
            "samples_per_s": sums["samples"] / took,
            "video_s_per_s": sums["seconds"] / took,
            "tokens_per_s": sums["tokens"] / took,
            "mfu": sums["flops"] / compute if compute else None,
            "padding": 1 - sums["tokens"] / room if room else None,
            "balance_predicted": _mean(self._predicted),
            "balance_measured": _mean(self._measured),
            "data_wait": sums["data_wait"] / took / self._place.ranks,
            "memory_gib": float(every[:, -1].max()),
            "skipped": int(sums["skipped"]),
            "uncaptioned": int(sums["uncaptioned"]),
        }
        self._clear()
        return line


def _ratio(value: float, number: float) -> float | None:
    return value / number if number else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _memory(device: torch.device) -> float:
    """GiB."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30


def text_of(line: dict[str, Any]) -> str:
    """One line for people; what is not known is n/a."""
    shown = []
    for name, value in line.items():
        if name in ("skipped", "uncaptioned", "not_finite") and not value:
            continue
        if value is None:
            shown.append(f"{name} n/a")
        elif name in ("mfu", "padding", "data_wait") or name.startswith("balance"):
            shown.append(f"{name} {value:.1%}")
        else:
            shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return "  ".join(shown)


class Journal:
    """Where lines go: OUT/metrics.jsonl, TensorBoard where it is installed, and `show`.

    Lines of steps after `step`, of a run that was killed, are removed: each step stands there once.
    A disk that is full is told once, and does not end the training: it keeps its checkpoints.

    Raises:
        StorageError: the file cannot be written to begin with.
    """

    def __init__(self, folder: Path, step: int, show: Callable[[str], None]) -> None:
        self.path = folder / "metrics.jsonl"
        self._show = show
        kept = [line for line in read(self.path) if line["step"] <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", buffering=1)
        self._told = False
        self._board: Any = None
        if find_spec("tensorboard") is None:
            _log.info("no TensorBoard here (pip install tensorboard): metrics go to %s", self.path)
            return
        from torch.utils.tensorboard import SummaryWriter

        with self._bearing():
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """One line; NaN is written as null. What is shown has been written."""
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
        }
        with self._bearing():
            self._file.write(json.dumps(finite) + "\n")
        if self._board is not None:
            with self._bearing():
                for name, value in finite.items():
                    if name != "step" and isinstance(value, int | float):
                        self._board.add_scalar(name, value, line["step"])
                self._board.flush()  # else a kill loses two minutes, which are not trained again
        self._show(text_of(line))

    def close(self) -> None:
        """No more lines."""
        with self._bearing():
            self._file.close()
        if self._board is not None:
            with self._bearing():
                self._board.close()

    @contextmanager
    def _bearing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._told:
                _log.error("metrics cannot be written to %s: %s", self.path.parent, error)
            self._told = True


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one that a kill cut off is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
