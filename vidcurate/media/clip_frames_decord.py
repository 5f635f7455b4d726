"""The frames of one packed clip by decord, as many trainers read them: for comparison.

decord brings an FFmpeg of its own (4.x in its wheels). What it does by itself with an edit list
depends on where it stood before (frames are numbered with the hidden ones, decoded without them);
past the last frame it repeats that one; `skip_frames` goes wrong at key frames; and it tells no
times. So the edit list is taken out, frames are asked for by their numbers, and their times are the
packets'. A file that it would read wrongly is refused, naming the remedy.

Colour: its own conversion and bicubic scaling, BT.601 where the file gives no matrix.
"""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from vidcurate.errors import DecodeError, MissingExtraError, UnsupportedMediaError
from vidcurate.media.clip_packets import ClipPackets
from vidcurate.media.clip_request import ClipRequest, chosen_frames, clip_stream, window
from vidcurate.media.frames import Pixels, Times
from vidcurate.media.mp4 import without_edits
from vidcurate.media.open import open_data
from vidcurate.media.probe import describe, first_frame
from vidcurate.media.video import Box, VideoInfo

_CODECS = ("h264", "hevc", "vp9")  # of those that ClipPackets reads


def read_with_decord(
    data: bytes, request: ClipRequest, *, name: str, max_pixels: int
) -> tuple[Pixels, Times]:
    """As `read_frames`, of MP4 files that are progressive SDR.

    Damage that costs the decoder a frame goes unnoticed, and shifts those after it: check the
    bytes before.

    Raises:
        MissingExtraError: decord is not installed.
        UnsupportedMediaError: decord would read the file wrongly or not at all.
        RefusedMediaError, DecodeError: as `read_frames`.
    """
    try:
        decord: Any = importlib.import_module("decord")
    except ImportError as error:
        raise MissingExtraError(
            "the back end decord needs decord: pip install 'vidcurate[decord]', or use the back "
            "end av"
        ) from error
    with open_data(data, name, search=False) as container:
        is_mp4 = data[4:8] == b"ftyp" and container.format.name.startswith("mov,mp4")
        stream = clip_stream(container, name, max_pixels)
        packets = ClipPackets.read(container, stream, None) if is_mp4 else None
        if packets is None:
            raise _unsupported(name, "it is not H.264, HEVC or VP9 in MP4")
        seconds = packets.seconds(stream)
    chosen = chosen_frames(request, seconds, packets.fault, name)
    plain = without_edits(data)
    with open_data(plain, name, search=False) as container:
        stream = clip_stream(container, name, max_pixels)
        frame = first_frame(container, stream, name)
        info = describe(Path(name), container, stream, frame, size=len(data), max_pixels=max_pixels)
    _check(info, packets, request, name)
    try:
        return _read(decord, plain, request, chosen, info, packets, seconds, name)
    except (decord.DECORDError, RuntimeError) as error:
        # "[time] file:line: what" and a stack.
        reason = str(error).strip().split("\n")[0].split(": ", 1)[-1][:200]
        raise DecodeError(
            f"{name}: decord cannot decode it: {reason}; see whether the back end av does"
        ) from error


def _read(
    decord: Any,
    data: bytes,
    request: ClipRequest,
    chosen: dict[int, list[int]],
    info: VideoInfo,
    packets: ClipPackets,
    seconds: list[float],
    name: str,
) -> tuple[Pixels, Times]:
    size = request.size or (info.width, info.height)
    box = window(info.width, info.height, size, request.crop) or Box(0, 0, info.width, info.height)
    # All of the picture is scaled so that the window has the wanted size, and is cut then.
    wide = max(size[0], round(info.width * size[0] / box.width))
    high = max(size[1], round(info.height * size[1] / box.height))
    x = min(wide - size[0], round(box.x * size[0] / box.width))
    y = min(high - size[1], round(box.y * size[1] / box.height))
    reader = decord.VideoReader(io.BytesIO(data), width=wide, height=high, num_threads=1)
    if len(reader) != len(packets.packets):
        raise DecodeError(
            f"{name}: decord counts {len(reader)} frames, the file has {len(packets.packets)}; use "
            "the back end av"
        )
    numbers = sorted(chosen)
    batch = reader.get_batch([packets.hidden + number for number in numbers])
    # Its bridge may be set to torch's tensors.
    pictures = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
    pixels: Pixels = np.empty((request.count, size[1], size[0], 3), np.uint8)
    times: Times = np.empty(request.count, np.float64)
    for number, picture in zip(numbers, pictures, strict=True):
        for place in chosen[number]:
            pixels[place] = picture[y : y + size[1], x : x + size[0]]
            times[place] = seconds[number]
    return pixels, times


def _check(info: VideoInfo, packets: ClipPackets, request: ClipRequest, name: str) -> None:
    """Refuse what decord would read wrongly."""
    if info.codec not in _CODECS:
        raise _unsupported(name, f"its codec is {info.codec}")
    if info.is_hdr:
        raise _unsupported(name, "it is HDR, which decord does not tone-map")
    if info.interlaced:
        raise _unsupported(name, "it is interlaced")
    times = [packet.pts for packet in packets.packets if packet.pts is not None]
    order = sorted(times)
    if any(p.is_keyframe and p.pts != order[i] for i, p in enumerate(packets.packets)):
        raise _unsupported(name, "its groups of pictures are open, which decord miscounts")
    if packets.hidden != request.preroll:
        raise DecodeError(
            f"{name}: {packets.hidden} frames stand before the shown ones, and by the index "
            f"{request.preroll}; has the file changed?"
        )


def _unsupported(name: str, reason: str) -> UnsupportedMediaError:
    return UnsupportedMediaError(f"{name}: {reason}; use the back end av, which reads it")
