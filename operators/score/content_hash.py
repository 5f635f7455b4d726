"""`content_hash`: equal for clips whose decoded pictures are equal, bit for bit."""

from __future__ import annotations

import hashlib

import numpy as np

from vidcurate import Clip, Frames, column, scorer


@scorer(
    "content_hash",
    frames=Frames(count=4, short_side="native", color="gray"),
    columns=column(
        "string", unit="32 hex digits", description="hash of decoded pictures, for exact duplicates"
    ),
)
def content_hash(clip: Clip) -> str:
    """BLAKE2b (RFC 7693, 16 bytes) over the number of frames, the picture's size and the luma of
    4 frames spread over the clip.

    The same stream under another name, in another container, with other metadata or sound has
    the same hash. Limits: any re-encode, crop or trim changes it (`phash` is for those); colour
    and the frames between the 4 are not looked at; clips cut at other places of their source, or
    decoded by an FFmpeg that rounds differently, may take other frames or pixels.
    """
    pixels = clip.pixels
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{clip.n_frames}:{pixels.shape}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
