"""The losses of a run as a picture, in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vidcurate.train.metrics import read

_WIDTH, _HEIGHT, _EDGE = 720, 360, 48
_COLORS = {"loss": "#1f77b4", "val_loss": "#d62728", "ema_loss": "#2ca02c"}


def draw_losses(journal: Path, path: Path) -> None:
    """Draw the lines of a metrics.jsonl over the steps, the losses in equal ratios (log scale).

    Training, validation and validation of the average, where there are any; else no picture.
    """
    lines = read(journal)
    curves = {
        name: [(int(line["step"]), float(line[name])) for line in lines if line.get(name)]
        for name in _COLORS
    }
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return
    steps = [step for step, _ in points]
    logs = [math.log(loss) for _, loss in points if loss > 0]
    left, right = min(steps), max(*steps, min(steps) + 1)
    low, high = min(logs), max(*logs, min(logs) + 1e-3)

    def place(step: int, loss: float) -> tuple[float, float]:
        x = _EDGE + (step - left) / (right - left) * (_WIDTH - 2 * _EDGE)
        y = _EDGE + (high - math.log(loss)) / (high - low) * (_HEIGHT - 2 * _EDGE)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for loss in _ticks(math.exp(low), math.exp(high)):
        y = place(left, loss)[1]
        parts.append(
            f'<path d="M{_EDGE} {y}H{_WIDTH - _EDGE}" stroke="#ddd"/>'
            f'<text x="{_EDGE - 4}" y="{y + 4}" text-anchor="end">{loss:.3g}</text>'
        )
    for step, anchor in ((left, "start"), (right, "end")):
        x = place(step, math.exp(low))[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - 24}" text-anchor="{anchor}">step {step}</text>')
    drawn = {name: [p for p in curve if p[1] > 0] for name, curve in curves.items()}
    for row, (name, curve) in enumerate((n, c) for n, c in drawn.items() if c):
        line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in curve))
        color = _COLORS[name]
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>'
            f'<text x="{_WIDTH - _EDGE}" y="{_EDGE + 16 * row}" text-anchor="end" '
            f'fill="{color}">{name.replace("_", " ")}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _ticks(low: float, high: float) -> Sequence[float]:
    ratio = (high / low) ** 0.25
    return [low * ratio**i for i in range(5)]
