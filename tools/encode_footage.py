"""Encoding of the made footage: one thread, bit-exact muxing, colours tagged as BT.709."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

RATE = 48_000
"""Samples a second of made sound."""
PQ_TAGS = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited"

Sound = npt.NDArray[np.float32]

os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints its settings each time


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded. `times_ms` gives the time of each frame (else they are even)."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    fps: int = 24
    options: dict[str, str] = field(default_factory=dict)
    times_ms: tuple[int, ...] = ()
    interlaced: bool = False
    rotation: int = 0  # clockwise degrees that a player turns it by
    sar: str = "1/1"


def click_track(clicks: Iterable[float], seconds: float) -> Sound:
    """A quiet tone of 220 Hz with loud 2 kHz clicks of 10 ms that start at the given seconds."""
    t = np.arange(round(seconds * RATE)) / RATE
    sound = 0.02 * np.sin(2 * np.pi * 220 * t)
    for click in clicks:
        on = (t >= click) & (t < click + 0.01)
        sound[on] = 0.9 * np.sin(2 * np.pi * 2000 * (t[on] - click))
    return sound.astype(np.float32)


def _add_sound(container: Any, stream: Any, sound: Sound) -> None:
    for start in range(0, len(sound), 1024):
        block = np.ascontiguousarray(sound[None, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _frame(picture: npt.NDArray[Any], pix_fmt: str) -> av.VideoFrame:
    if picture.ndim == 2:  # luma codes of a 10-bit grey picture
        height, width = picture.shape
        planes = np.full((height * 3 // 2, width), 512, np.uint16)
        planes[:height] = picture
        return av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = frame.reformat(
        format=pix_fmt, dst_colorspace=Colorspace.ITU709, interpolation="BICUBIC"
    )
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
    return frame


def encode(
    path: Path,
    pictures: Iterable[npt.NDArray[Any]],
    size: tuple[int, int],
    encoding: Encoding,
    sound: Sound | None = None,
    *,
    faststart: bool = False,
) -> None:
    """Write pictures (RGB, or 10-bit luma) and mono sound as a file whose suffix says the format.

    `faststart` puts an MP4's index before its media.
    """
    options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if faststart else {})
    base = Fraction(1, 1000) if encoding.times_ms else Fraction(1, encoding.fps)
    with av.open(str(path), "w", options=options) as container:
        chosen = dict(encoding.options)
        if encoding.codec == "libx264":
            chosen = {"preset": "veryfast", "x264-params": "threads=1"} | chosen
        if encoding.interlaced:
            chosen["x264-params"] = "threads=1:tff=1"
            chosen["flags"] = "+ildct+ilme"
        stream: Any = container.add_stream(encoding.codec, rate=encoding.fps, options=chosen)
        stream.width, stream.height = size
        stream.pix_fmt = encoding.pix_fmt
        context = stream.codec_context
        context.time_base = base
        context.thread_count = 1
        context.sample_aspect_ratio = Fraction(encoding.sar)
        if encoding.pix_fmt != "yuv420p10le":
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if encoding.rotation:
            stream.set_display_rotation(-encoding.rotation)  # FFmpeg counts anticlockwise
        heard: Any = None
        if sound is not None:
            heard = container.add_stream("aac", rate=RATE, layout="mono")
            heard.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = _frame(picture, encoding.pix_fmt)
            frame.pts = encoding.times_ms[number] if encoding.times_ms else number
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _add_sound(container, heard, sound)
