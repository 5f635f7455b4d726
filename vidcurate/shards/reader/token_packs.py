"""Packing samples of all sizes into batches of a number of tokens, as NaViT does."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidcurate.errors import UserError
from vidcurate.shards.reader.plans import (
    NEIGHBOURS,
    Planned,
    Remainder,
    SampleCost,
    positive,
    sample_costs,
)
from vidcurate.shards.reader.shapes import Rows, Shapes


@dataclass(frozen=True)
class TokenPacks:
    """Batches ("packs") of samples of any size that hold `budget` tokens at most.

    Best fit, the largest first, over the whole window: NaViT ("Patch n' Pack", arXiv 2307.06304)
    packs greedily as samples come; knowing 8,192 of them leaves less padding. All packs are kept:
    `remainder` concerns only the last step of an epoch.

    Args:
        budget: tokens in a pack. tokens: of each sample, int (N,), at least 1.
        cost: of each sample; that of a pack is their sum. Default: frames * height * width.
        neighbours: packs in a run of near-equal cost; see `BucketBatches`.
        too_long: a sample of more tokens than the budget "stop"s the reading, or is "skip"ped and
            reported with a batch. It may be changed between a state and its loading.

    Raises:
        UserError: `budget` or `neighbours` is not a positive whole number.
    """

    budget: int
    tokens: Callable[[Shapes], npt.NDArray[Any]]
    cost: SampleCost | None = None
    neighbours: int = NEIGHBOURS
    too_long: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        positive(self.budget, "TokenPacks: budget")
        positive(self.neighbours, "TokenPacks: neighbours")

    def describe(self) -> dict[str, Any]:
        """Plain values that decide the batches."""
        return {"batches": "tokens", "budget": self.budget, "neighbours": self.neighbours}

    def batches(self, shapes: Shapes, *, remainder: Remainder) -> Planned:
        """The packs of a window; within each, samples keep the window's order.

        Raises:
            UserError: a sample is too long and `too_long` is "stop", or `tokens` or `cost` gives
                something else than numbers.
        """
        tokens = np.asarray(self.tokens(shapes))
        if tokens.shape != (len(shapes),) or tokens.dtype.kind not in "iu" or (tokens < 1).any():
            raise UserError(
                f"tokens: gave an array {tokens.shape} of {tokens.dtype} for {len(shapes)} "
                "samples, or numbers under 1; return one whole number a sample"
            )
        too_long = np.flatnonzero(tokens > self.budget)
        if too_long.size and self.too_long == "stop":
            longest = int(too_long[np.argmax(tokens[too_long])])
            raise UserError(
                f"{self._why(shapes, tokens, longest)}, as {len(too_long)} of {len(shapes)} "
                "samples are; raise the budget, limit the size and length of native samples, or "
                'set too_long="skip"'
            )
        packs = best_fit(tokens, self.budget)
        each = sample_costs(self.cost, shapes)
        return Planned(
            packs,
            np.array([each[p].sum() for p in packs], np.float64),
            [(int(place), self._why(shapes, tokens, int(place))) for place in too_long],
        )

    def _why(self, shapes: Shapes, tokens: npt.NDArray[Any], place: int) -> str:
        size = f"{shapes.width[place]}x{shapes.height[place]}"
        return (
            f"a clip of {shapes.frames[place]} frames of {size} is {tokens[place]} tokens, more "
            f"than the budget of {self.budget}"
        )


def best_fit(tokens: npt.NDArray[Any], budget: int) -> list[Rows]:
    """Places of samples, pack by pack: each, the largest first, goes where least room remains.

    Samples of more than the budget are in no pack.
    """
    pack_of = np.full(len(tokens), -1, np.int64)
    room: list[tuple[int, int]] = []  # (tokens that still fit, pack), sorted
    packs = 0
    by_size = np.argsort(-tokens.astype(np.int64), kind="stable")
    for place, size in zip(by_size.tolist(), tokens[by_size].tolist(), strict=True):
        if size > budget:
            continue
        found = bisect_left(room, (size, 0))
        if found < len(room):
            left, pack = room.pop(found)
        else:
            left, pack = budget, packs
            packs += 1
        pack_of[place] = pack
        if left > size:
            insort(room, (left - size, pack))
    by_pack = np.argsort(pack_of, kind="stable").astype(np.int64)
    ends = np.searchsorted(pack_of[by_pack], np.arange(packs + 1))
    return [by_pack[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
