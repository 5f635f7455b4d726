"""Files as they are met in the wild that cannot be read whole, or are not what they claim."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from encode_footage import RATE, Encoding, click_track, encode
from pictures import scene

HUGE = (16_384, 16_000)
"""Claimed by the crafted header: the largest that FFmpeg itself lets through, near enough."""

WHY = {
    "truncated": "the second half is missing and with it the index: it cannot be opened",
    "truncated_tail": "the index is whole, the last 40 % of the media are missing",
    "bitflip": "bits of the compressed pictures in its middle are flipped",
    "zero": "it has no bytes",
    "text": "it is plain text",
    "playlist": "it is an HLS playlist that names another file",
    "concat": "it is an FFmpeg concat list that names another file",
    "audio_only": "it has sound and no video stream",
    "huge_dimensions": f"its header claims {HUGE[0]}x{HUGE[1]} pixels",
    "damaged_audio": "its sound is damaged, its pictures are whole",
    "duplicate": "it has the same bytes as cuts.mp4",
}
FILES = {name: f"{name}.mp4" for name in WHY} | {"huge_dimensions": "huge_dimensions.mkv"}

_TEXTS = {
    "zero": "",
    "text": "This is not a video.\n" * 40,
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.5,\ncuts.mp4\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile cuts.mp4\n",
}


def _damage(
    source: Path, path: Path, kind: str, *, between: tuple[float, float], every: int
) -> None:
    """Flip a bit in every so many bytes of the packets of one kind in a share of the file."""
    first, last = between
    data = bytearray(source.read_bytes())
    rng = random.Random(1)
    with av.open(str(source)) as container:
        stream: Any = next(s for s in container.streams if s.type == kind)
        spans = [(p.pos, p.size) for p in container.demux(stream) if p.size and p.pos is not None]
    for start, size in spans[int(first * len(spans)) : int(last * len(spans))]:
        for at in range(start + 8, start + size, every):
            data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _huge(path: Path) -> None:
    # FFV1 in Matroska has its size in the container only, so a decoder believes the header.
    small = (512, 512)
    shown = scene(0, *small, 4)
    lossless = Encoding("ffv1", options={"level": "1"})
    encode(path, (shown(n) for n in range(4)), small, lossless)
    data = path.read_bytes()
    for element, value in ((b"\xb0", HUGE[0]), (b"\xba", HUGE[1])):  # PixelWidth, PixelHeight
        old = element + b"\x82" + (512).to_bytes(2, "big")
        assert data.count(old) == 1
        data = data.replace(old, element + b"\x82" + value.to_bytes(2, "big"))
    path.write_bytes(data)


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("aac", rate=RATE, layout="mono")
        stream.codec_context.thread_count = 1
        sound = click_track((0.5, 1.5), 2.0)
        for start in range(0, len(sound), 1024):
            block = np.ascontiguousarray(sound[None, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _truncated_tail(path: Path) -> None:
    shown = scene(0, 320, 180, 96)
    encode(path, (shown(n) for n in range(96)), (320, 180), Encoding(), faststart=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def make(name: str, path: Path, good: Callable[[str], Path]) -> None:
    """Write the named bad file. `good` gives the path of a made good video.

    Raises:
        KeyError: no such name.
    """
    if name in _TEXTS:
        path.write_text(_TEXTS[name])
    elif name == "truncated":
        data = good("cuts").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif name == "truncated_tail":
        _truncated_tail(path)
    elif name == "bitflip":
        _damage(good("cuts"), path, "video", between=(0.4, 0.6), every=11)
    elif name == "damaged_audio":
        _damage(good("cuts_sound"), path, "audio", between=(0.2, 0.8), every=3)
    elif name == "audio_only":
        _audio_only(path)
    elif name == "huge_dimensions":
        _huge(path)
    elif name == "duplicate":
        shutil.copyfile(good("cuts"), path)
    else:
        raise KeyError(name)
