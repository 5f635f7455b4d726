"""The walk of all ranks over one data set or a mixture, step by step, and its state."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidcurate.errors import UserError
from vidcurate.shards.reader.mixture import Mixture
from vidcurate.shards.reader.order import Order
from vidcurate.shards.reader.plans import positive
from vidcurate.shards.reader.stream import Entry, Position, Stream, with_report

_VERSION = 1
_log = logging.getLogger("vidcurate.shards")


@dataclass(frozen=True)
class Step:
    """What all ranks read at a time.

    batches: one a rank; None for a rank without work (at an epoch's end, never the first rank).
    epoch: of the batches; in a mixture that of the first. state: of the position after the step.
    """

    batches: list[Entry | None]
    epoch: int
    state: dict[str, Any]


class Cursor:
    """Deals batches to ranks: each step takes the next `world_size` of a flat sequence.

    The sequence does not depend on the number of ranks. Of one data set each epoch begins with a
    step; the last one may lack batches, and then gives None to the last ranks ("keep"), or is
    dropped and reported by the step before ("drop"). In a mixture each data set's next pass follows
    its last, without an end.

    Args:
        orders: of each data set, all with the same `neighbours`.
        weights: shares of the batches, of any sum. None: as many as there are samples.
        world_size: ranks. epochs: after so many there are no more steps; None: without an end.

    Raises:
        UserError: arguments that do not fit together.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        weights: Sequence[float] | None = None,
        *,
        world_size: int,
        epochs: int | None = None,
    ) -> None:
        positive(world_size, "world_size")
        if epochs is not None:
            positive(epochs, "epochs")
        if not orders:
            raise UserError("Cursor: no data set; give at least one")
        self._ranks, self._epochs = world_size, epochs
        self._streams = [Stream(i, o, endless=len(orders) > 1) for i, o in enumerate(orders)]
        mixture = Mixture.of(orders, weights)
        self._mixture = mixture if len(orders) > 1 else None
        if self._mixture is not None and epochs is not None:
            raise UserError("a mixture of data sets has no epochs; leave epochs out")

    def next_step(self) -> Step | None:
        """The next batches of all ranks; None after the last epoch.

        Raises:
            UserError: an epoch gives no batch, or with "drop" not one for each rank.
        """
        if self._mixture is not None:
            streams = [self._streams[self._mixture.next()] for _ in range(self._ranks)]
            entries: list[Entry | None] = [stream.take(1)[0] for stream in streams]
        else:
            entries = []
            while not entries:
                if self._epochs is not None and self._streams[0].at.epoch >= self._epochs:
                    return None
                entries = [*self._of_one(self._streams[0])]
            entries += [None] * (self._ranks - len(entries))
        assert entries[0] is not None
        return Step(entries, entries[0].epoch, self.state_dict())

    def _of_one(self, stream: Stream) -> list[Entry]:
        """The entries of one step of a single data set; goes on to the next epoch at its end.

        None of them where the rest of the epoch is dropped.
        """
        drop = stream.order.remainder == "drop"
        epoch, window, batch, *_ = stream.at
        entries = stream.take(self._ranks)
        if drop and len(entries) < self._ranks:
            if window == batch == 0:
                raise UserError(
                    f"an epoch has {len(entries)} batches, not one for each of {self._ranks} "
                    'ranks; use remainder="keep", smaller batches or fewer ranks'
                )
            _log.warning(
                "epoch %d has %d batches left for %d ranks: they are dropped (the state was saved "
                "on fewer ranks)",
                *(epoch, len(entries), self._ranks),
            )
            stream.report_dropped(entries)
            entries = []
        elif drop and len(stream.ahead) < self._ranks:
            rest = [row for entry in stream.ahead for row in entry.rows.tolist()]
            entries[-1] = with_report(entries[-1], (), rest)
            stream.ahead.clear()
        if not stream.ahead:
            stream.next_epoch()
        return entries

    def skip_to(self, epoch: int) -> None:
        """Stand at the beginning of an epoch, unless this or a later one is reached already."""
        for stream in self._streams:
            if epoch > stream.at.epoch:
                stream.go_to(Position(epoch))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The position after the last step: small, plain values that JSON holds."""
        state: dict[str, Any] = {
            "version": _VERSION,
            "sources": [
                {
                    "digest": s.order.table.digest,
                    "settings": dict(s.order.settings),
                    **s.at._asdict(),
                }
                for s in self._streams
            ],
        }
        if self._mixture is not None:
            state["mixture"] = self._mixture.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the step that the state is of, on any number of ranks.

        Raises:
            UserError: the state is damaged, or of another index, plan, seed, cost or mixture;
                names what differs, both values, and what to do.
        """
        version = state.get("version") if isinstance(state, Mapping) else None
        if version != _VERSION:
            raise UserError(
                f"the reader's state is of version {version!r}, this is {_VERSION}; load it with "
                "the version of vidcurate that saved it, or begin without it"
            )
        try:
            sources = list(state["sources"])
            positions = [Position(**{k: s[k] for k in Position._fields}) for s in sources]
            described = [(str(s["digest"]), dict(s["settings"])) for s in sources]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the reader's state is damaged ({error!r}); load an earlier one, or begin without"
            ) from error
        if len(sources) != len(self._streams) or ("mixture" in state) != bool(self._mixture):
            raise UserError(
                f"the reader's state is of {len(sources)} data sets, and {len(self._streams)} are "
                "read; give the same"
            )
        for stream, (digest, settings), position in zip(
            self._streams, described, positions, strict=True
        ):
            stream.compare(digest, settings)
            stream.compare_window(position)
        if self._mixture is not None:
            self._mixture.load_state_dict(state["mixture"])
        for stream, position in zip(self._streams, positions, strict=True):
            stream.go_to(position)
