"""What the model reads of a caption.

`TextEncoder` is what the trainer asks of any encoder; `ByteText` needs no weights and is trained
with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

_BEGIN = 256
_OUTSIDE = 257
_IDS = 258


class TextEncoder(Protocol):
    """Captions to rows of text.

    width: of a row.
    """

    width: int

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(rows (L, width) on the encoder's device, offsets int32 (S + 1,) on the CPU).

        Rows offsets[i]:offsets[i + 1] are caption i's, at least one, also of the empty caption.
        """
        ...


class ByteText(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A learned embedding of a caption's UTF-8 bytes, one row a byte after a row that begins it.

    A row sees the `window` bytes that end with its own, about a word: attention has no order of
    its own, and bytes out of order say little. It is the sum of one embedding for each place in
    the window, through one layer, to which the place in the caption is added as sines (Vaswani et
    al. 2017).

    Args:
        width: of a row.
        max_bytes: longer captions end there; `shortened` counts them.
        window: bytes that a row sees.
    """

    def __init__(self, width: int, max_bytes: int = 2048, window: int = 8) -> None:
        super().__init__()
        self.width = width
        self.max_bytes = max_bytes
        self.window = window
        self.shortened = 0
        self.table = nn.Embedding(_IDS * window, width)
        self.mix = nn.Linear(width, width)
        nn.init.normal_(self.table.weight, std=window**-0.5)  # the sum of a window has about 1

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows and offsets of captions; see `TextEncoder`. Not for use inside DDP or FSDP.

        There, `tokenize`, and call the module that is wrapped on what it gives.
        """
        ids, places, offsets = self.tokenize(captions)
        device = self.table.weight.device
        rows: Tensor = self(ids.to(device), places.to(device))
        return rows, offsets

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` takes, on the CPU: (ids int64 (L, window), places int64 (L,), offsets).

        offsets: int32 (S + 1,), as of `TextEncoder`.
        """
        ids = []
        lengths = [0]
        for caption in captions:
            data = caption.encode("utf-8", "replace")  # a lone surrogate has no UTF-8
            self.shortened += len(data) > self.max_bytes
            own = torch.tensor([_BEGIN, *data[: self.max_bytes]])
            before = torch.full((self.window - 1,), _OUTSIDE)
            ids.append(torch.cat([before, own]).unfold(0, self.window, 1))
            lengths.append(len(own))
        places = torch.cat([torch.arange(n) for n in lengths])
        offsets = torch.tensor(lengths).cumsum(0).to(torch.int32)
        return torch.cat(ids) + torch.arange(self.window) * _IDS, places, offsets

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """Rows (L, width) of what `tokenize` gives."""
        summed = self.table(ids).sum(1)
        rows: Tensor = summed + self.mix(nn.functional.gelu(summed))
        return rows + _sines(places, self.width).to(rows.dtype)


def _sines(places: Tensor, width: int) -> Tensor:
    """(L, width): sines, then cosines of places, by waves of 2 pi to 10,000 times that."""
    waves = torch.arange((width + 1) // 2, device=places.device, dtype=torch.float32)
    angles = places[:, None] * torch.exp(-waves * (9.21034 * 2 / width))  # log 10,000
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
