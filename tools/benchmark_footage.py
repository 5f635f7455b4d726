"""The benchmark's videos: long ones of real footage, many known cuts, two hours without a cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from encode_footage import Encoding, encode
from pictures import joined, scene

Size = tuple[int, int]
"""(width, height) in pixels."""

GOPS = {
    "x264's default": {},
    "fixed GOP of 48": {"g": "48", "keyint_min": "48", "sc_threshold": "0"},
}
"""Options of x264 by name: key frames at the cuts, and key frames anywhere."""
_RATE = 25
_LONG_RATE = 5
_LOOP = 20  # seconds of encoded video that the long one repeats


def real(source: Path, size: Size, seconds: float, folder: Path) -> Path:
    """Real footage of that size and length: the source forward, backward, forward, ...

    H.264 by x264's preset medium at crf 23 and 25 frames a second. Like the others here it is
    made once and found in the folder the next time.
    """
    width, height = size

    def write(path: Path) -> None:
        with av.open(str(source)) as container:
            frames = list(container.decode(video=0))
        there_and_back = [*frames, *reversed(frames)]
        count = round(seconds * _RATE)
        wanted = (there_and_back[n % len(there_and_back)] for n in range(count))
        _encode_frames(path, wanted, size, _RATE, {"preset": "medium", "crf": "23"})

    return _once(folder / f"real_{width}x{height}_{seconds:g}s.mp4", write)


def cuts(gop: str, scenes: int, size: Size, folder: Path) -> tuple[Path, list[int]]:
    """Made footage with hard cuts: its path and the first frame of each scene but the first.

    Scenes last 1.2 to 3.2 s, at 25 frames a second. `gop` is a name in GOPS.
    """
    lengths = [int(n) for n in np.random.default_rng(1).integers(30, 80, scenes)]
    shown = joined([(n, scene(i, *size, n)) for i, n in enumerate(lengths)])
    options = {"preset": "medium", "crf": "23", **GOPS[gop]}

    def write(path: Path) -> None:
        pictures = (shown(n) for n in range(sum(lengths)))
        encode(path, pictures, size, Encoding(options=options, fps=_RATE))

    style = list(GOPS).index(gop)
    path = _once(folder / f"cuts_{size[0]}x{size[1]}_{scenes}_{style}.mp4", write)
    return path, [int(n) for n in np.cumsum(lengths)[:-1]]


def without_cuts(source: Path, size: Size, seconds: float, folder: Path) -> Path:
    """A long still picture of the source, 5 frames a second: 20 s of packets over and over.

    It shows whether what a worker holds grows with the length, in minutes and not in half an hour.
    """

    def write_loop(path: Path) -> None:
        with av.open(str(source)) as container:
            first = next(container.decode(video=0))
        count = _LOOP * _LONG_RATE
        _encode_frames(path, (first for _ in range(count)), size, _LONG_RATE, {"crf": "23"})

    name = f"still_{size[0]}x{size[1]}"
    loop = _once(folder / f"{name}_loop.mp4", write_loop)
    return _once(folder / f"{name}_{seconds:g}s.mp4", lambda path: _repeat(loop, seconds, path))


def _repeat(loop: Path, seconds: float, path: Path) -> None:
    """Write the loop's packets until the video is that long; nothing is encoded."""
    with av.open(str(path), "w") as writer:
        track: Any = None
        for turn in range(max(1, round(seconds / _LOOP))):
            with av.open(str(loop)) as reader:
                stream = reader.streams.video[0]
                if track is None:
                    track = writer.add_stream_from_template(stream)
                assert stream.time_base is not None
                shift = int(turn * _LOOP / stream.time_base)
                for packet in reader.demux(stream):
                    if packet.pts is None or packet.dts is None:
                        continue  # the empty packet at the end
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = track
                    writer.mux(packet)


def _encode_frames(
    path: Path, frames: Iterator[VideoFrame], size: Size, rate: int, options: dict[str, str]
) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            scaled = frame.reformat(*size, format="yuv420p", interpolation="BICUBIC")
            scaled.pts, scaled.time_base = number, Fraction(1, rate)
            scaled.pict_type = PictureType.NONE  # else x264 keeps the source's choice
            container.mux(stream.encode(scaled))
        container.mux(stream.encode())


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{os.getpid()}.{path.name}")
        write(draft)
        draft.replace(path)
    return path
