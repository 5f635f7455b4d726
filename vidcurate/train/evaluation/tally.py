"""How many clips there were, and of what sizes: what numbers compare by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vidcurate.train.evaluation.clips import RealClips, Video, VideoFolder
from vidcurate.train.evaluation.metrics import Side

_EVERY = 20.0  # seconds between lines of progress


class Tally:
    """How many clips there were, of what sizes."""

    def __init__(self) -> None:
        self._seconds: dict[Side, list[float]] = {"real": [], "generated": []}
        self._heights: dict[Side, list[int]] = {"real": [], "generated": []}
        self._told = time.monotonic()

    def add(self, side: Side, video: Video) -> None:
        """Count one."""
        self._seconds[side].append(len(video.frames) / video.fps if len(video.frames) > 1 else 0.0)
        self._heights[side].append(min(video.frames.shape[1:3]))

    def tell(
        self, show: Callable[[str], None], real: RealClips | None, folder: VideoFolder | None
    ) -> None:
        """A line of progress now and then, of how many there will be."""
        if time.monotonic() - self._told < _EVERY:
            return
        self._told = time.monotonic()
        parts = [f"{len(self._seconds['real'])} of {real.count} real clips"] if real else []
        made, source = len(self._seconds["generated"]), folder or real
        if made and source is not None:
            parts.append(f"{made} of {source.count} generated ones")
        show(", ".join(parts))

    def said(self) -> dict[Side, dict[str, Any]]:
        """Numbers and means."""
        return {
            side: {
                "count": len(own),
                "mean_seconds": float(np.mean(own)) if own else None,
                "mean_short_side": float(np.mean(self._heights[side])) if own else None,
            }
            for side, own in self._seconds.items()
        }

    def warnings(self) -> list[str]:
        """Where generated clips are of other lengths or sizes than real ones."""
        if not all(self._seconds.values()):
            return []
        told = []
        for what, values in (("long, in seconds", self._seconds), ("large", self._heights)):
            real, made = (float(np.mean(v)) for v in (values["real"], values["generated"]))
            if abs(made - real) > 0.1 * real:
                told.append(
                    f"generated clips are not as {what}, as real ones ({made:.3g} and {real:.3g} "
                    "on average): distances tell of that, too"
                )
        return told
