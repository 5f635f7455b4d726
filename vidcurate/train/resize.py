"""Clips at sizes of whole patches. Imports no torch: the reader's workers start without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vidcurate.errors import UserError
from vidcurate.shards.reader.shapes import Shapes
from vidcurate.train.codes import PIXELS
from vidcurate.train.model.flops import Compression


@dataclass(frozen=True)
class Resize:
    """Fits clips to whole patches: what the reader decodes of each.

    patch: of the model. short_side: pixels at most. frames: at most; None: no limit. compression:
    of the VAE whose latents are cut in patches; its first latent frame is of one frame, so that
    clips have 1 + k * compression[0]. every: of more frames, one in so many is taken from the first
    on, closer where the clip is too short for that; None: evenly over the clip. Pictures are never
    enlarged.

    Raises:
        UserError: from `shapes`, a clip smaller than one patch.
    """

    patch: tuple[int, int, int]
    short_side: int | None = None
    frames: int | None = None
    compression: Compression = PIXELS
    every: int | None = None

    def shapes(self, shapes: Shapes) -> Shapes:
        """What clips of some shapes become."""
        ph, pw = (p * c for p, c in zip(self.patch[1:], self.compression[1:], strict=True))
        least = np.minimum(shapes.height, shapes.width)
        scale = np.minimum(1.0, (self.short_side or least) / least)
        # rounding: 64 / 96 * 96 must not be 63
        height = (shapes.height * scale / ph + 1e-6).astype(np.int32) * ph
        width = (shapes.width * scale / pw + 1e-6).astype(np.int32) * pw
        frames = self._whole(shapes.frames).astype(np.int32)
        small = np.flatnonzero((height == 0) | (width == 0) | (frames == 0))
        if small.size:
            at = int(small[0])
            coded = "" if self.compression == PIXELS else f" of a VAE's {self.compression}"
            raise UserError(
                f"a clip of {shapes.frames[at]} frames of {shapes.width[at]}x{shapes.height[at]} "
                f"pixels is smaller than one patch {self.patch}{coded}, as {small.size} of "
                f"{len(shapes)} are; set a smaller model.patch, larger data.resize, or leave these "
                "out by data.buckets"
            )
        return replace(shapes, frames=frames, height=height, width=width)

    def _whole(self, frames: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """How many of so many frames are taken; 0 where they are too few for a patch."""
        along, patch = self.compression[0], self.patch[0]
        most = np.minimum(frames, self.frames or frames).astype(np.int64)
        latent = (1 + (most - 1) // along) // patch * patch
        return np.maximum(1 + (latent - 1) * along, 0)

    def step(self, frames: int) -> int:
        """Which of so many frames are taken: every step-th from the first on."""
        keep = int(self._whole(np.array(frames, np.int32)))
        return min(frames // keep, self.every or frames)
