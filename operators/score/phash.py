"""`phash`: a perceptual hash, for near duplicates."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vidcurate import FrameBatch, Frames, column, scorer

_FLAT = 2.0  # standard deviation of luma below which the bits would be noise


@scorer(
    "phash",
    frames=Frames(count=3, short_side=128, color="gray"),
    columns=column(
        "list<string>",
        unit="16 hex digits a frame",
        description="perceptual hash of 3 frames in order of time; null for a flat frame",
    ),
)
def phash(frames: FrameBatch) -> dict[str, list[str | None]] | None:
    """The 64-bit DCT hash of pHash (Zauner 2010, "Implementation and benchmarking of perceptual
    image hash functions") of 3 frames spread over the clip.

    Each frame is shrunk to 32x32; of its 2-D cosine transform the 8x8 lowest frequencies without
    the first row and column are compared with their median, row by row, the first being the
    highest bit. A frame of almost one tone (standard deviation below 2 of 255) has no hash but a
    null in its place; a clip of such frames only is null.

    Compare two clips by the Hamming distance of the hashes in the same place. Re-encoding,
    scaling and a change of brightness move 0 to 8 of the 64 bits, other pictures differ by about
    32; the usual threshold of 10 or less applies. A crop, a mirror or a turn gives another hash.
    """
    hashes = [_hash(picture) for picture in frames.pixels]
    return {"": hashes} if any(hashes) else None


def _hash(picture: npt.NDArray[np.uint8]) -> str | None:
    small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < _FLAT:
        return None
    low = cv2.dct(small)[1:9, 1:9].ravel()
    return np.packbits(low > np.median(low)).tobytes().hex()
