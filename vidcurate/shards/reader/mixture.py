"""From which data set of a mixture the next batch comes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vidcurate.errors import UserError
from vidcurate.shards.reader.order import Order


class Mixture:
    """Chooses data sets in whole runs of `neighbours` batches, so that ranks work on the same one.

    After n runs each data set has had its share of n to within one run (R. Tijdeman, "The chairman
    assignment problem", Discrete Mathematics 32, 1980).

    Args:
        shares: of the runs, of sum 1. run: batches in one.
    """

    def __init__(self, shares: Sequence[float], run: int) -> None:
        self._shares, self._run = list(shares), run
        self._runs = [0] * len(self._shares)  # begun of each
        self._source, self._left = 0, 0  # of the current run

    @classmethod
    def of(cls, orders: Sequence[Order], weights: Sequence[float] | None) -> Mixture:
        """The mixture of some orders.

        Raises:
            UserError: weights that are not one positive number a data set, or plans that differ in
                `neighbours`.
        """
        if weights is None:
            weights = [float(len(order.table)) for order in orders]
        if len(weights) != len(orders) or not all(math.isfinite(w) and w > 0 for w in weights):
            raise UserError(
                f"weights are {list(weights)} for {len(orders)} data sets; give one positive "
                "number each"
            )
        runs = sorted({order.plan.neighbours for order in orders})
        if len(runs) > 1:
            raise UserError(
                f"the data sets' batch plans have {runs} neighbours; give all the same number"
            )
        return cls([w / sum(weights) for w in weights], runs[0])

    def next(self) -> int:
        """The data set of the next batch."""
        if not self._left:
            self._source, self._left = self._choose(), self._run
            self._runs[self._source] += 1
        self._left -= 1
        return self._source

    def _choose(self) -> int:
        number = sum(self._runs) + 1
        slack = 1 / (2 * len(self._shares) - 2)
        due = [share * number - n for share, n in zip(self._shares, self._runs, strict=True)]
        _, chosen = min(
            ((1 - slack - late) / self._shares[i], i)
            for i, late in enumerate(due)
            if late >= slack - 1e-9  # rounding
        )
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shares": self._shares,
            "run": self._run,
            "runs": list(self._runs),
            "source": self._source,
            "left": self._left,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state stands.

        Raises:
            UserError: it is damaged or of other weights.
        """
        try:
            shares, runs = [float(w) for w in state["shares"]], [int(n) for n in state["runs"]]
            run, source, left = (int(state[k]) for k in ("run", "source", "left"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the mixture in the reader's state is damaged ({error!r}); load an earlier one, "
                "or begin without"
            ) from error
        if shares != self._shares or run != self._run:
            raise UserError(
                f"the reader's state was saved with shares {shares} of runs of {run} batches, now "
                f"they are {self._shares} and {self._run}; set the weights as they were, or begin "
                "without the state"
            )
        number = sum(runs)
        off = [abs(n - share * number) for n, share in zip(runs, shares, strict=False)]
        sound = len(runs) == len(shares) and max(off) <= 1 + 1e-6
        if not sound or not 0 <= left < run or not 0 <= source < len(shares):
            raise UserError(
                "the mixture in the reader's state is damaged; load an earlier one, or begin "
                "without"
            )
        self._runs, self._source, self._left = runs, source, left
