"""The frames of one packed clip, from the bytes of its file: what training reads.

Frames are known by their presentation times. No more is decoded than those that are wanted need:
from the key frame before the first to the last, and of the frames between, those that no other
refers to are skipped; what is decoded stays the same bit for bit. A frame is never given in place
of another: one that is missing or damaged is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidcurate.errors import DecodeError
from vidcurate.media.clip_packets import ClipPackets
from vidcurate.media.clip_request import ClipRequest, chosen_frames, clip_stream, window
from vidcurate.media.convert import Converter
from vidcurate.media.decode import uses_dts
from vidcurate.media.frames import Pixels, Times
from vidcurate.media.open import open_data
from vidcurate.media.probe import describe
from vidcurate.recipe.model import Limits

Backend: TypeAlias = Literal["av", "decord"]

# Decoders that can be told at each packet to skip it where no other frame refers to it.
_SKIPPING = frozenset({"h264", "hevc"})

MAX_PIXELS = Limits().max_pixels
"""Of a picture, where the caller says nothing else."""


def read_frames(
    data: bytes,
    request: ClipRequest,
    *,
    backend: Backend = "av",
    name: str,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Pixels, Times]:
    """Frames of a clip, scaled to cover the wanted size and cut there.

    As `Converter` does: one resampling, rotation and sample aspect ratio applied, one field of
    interlaced frames, HDR tone-mapped.

    Args:
        data: the bytes of a video file: MP4 as pack writes it, or any that FFmpeg reads.
        backend: "decord" is for comparison with others' loaders; see `clip_frames_decord`.
        name: of the sample, for messages.
        max_pixels: a larger picture is refused.

    Returns:
        uint8 RGB (count, height, width, 3), and seconds from the clip's first shown frame
        (count,).

    Raises:
        RefusedMediaError: no video file, a playlist, or too large a picture.
        UnsupportedMediaError: no video stream, or none that the back end can decode rightly.
        DecodeError: damaged, or it has not the frames that are wanted.
        MissingExtraError: decord is not installed.
    """
    if request.first < 0 or request.count < 1 or request.step < 1 or request.last < 0:
        raise ValueError(f"{request} asks for no frames")
    if request.last >= request.n_frames:
        raise DecodeError(
            f"{name}: frame {request.last} is wanted, and by the index the clip has only "
            f"{request.n_frames}"
        )
    if backend == "decord":
        from vidcurate.media.clip_frames_decord import read_with_decord

        return read_with_decord(data, request, name=name, max_pixels=max_pixels)
    for is_last_try in (False, True):
        # A header can leave the decoder's delay open, and a frame need more than the key frame
        # before it: then the streams are searched, and decoding begins with the first packet.
        with _open(data, name, max_pixels, search=is_last_try) as container:
            stream = clip_stream(container, name, max_pixels)
            packets = ClipPackets.read(container, stream, None if request.vfr else request.last)
            if packets is None:
                break
            chosen = chosen_frames(request, packets.seconds(stream), packets.fault, name)
            pictures = _Pictures(container, stream, request, chosen, len(data), name, max_pixels)
            try:
                _decode(packets, stream, pictures, near=not is_last_try)
                return pictures.result()
            except _InterlacedError:
                break
            except DecodeError:
                if is_last_try:
                    raise
    return _counted(data, request, name, max_pixels)


class _InterlacedError(Exception):
    """Interlaced video: a packet may be half a frame."""


def _open(data: bytes, name: str, max_pixels: int, *, search: bool) -> InputContainer:
    options = {"max_pixels": str(max_pixels), "err_detect": "explode"}
    return open_data(data, name, search=search, decoder_options=options)


class _Pictures:
    """The result, filled frame by frame.

    Args:
        chosen: number of a wanted frame -> its places.
        size: bytes of the file.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        request: ClipRequest,
        chosen: dict[int, list[int]],
        size: int,
        name: str,
        max_pixels: int,
    ) -> None:
        self.name = name
        self.missing = set(chosen)
        self._chosen = chosen
        self._request = request
        self._about = (container, stream, size, max_pixels)
        self._times = np.empty(request.count, np.float64)
        self._pixels: Pixels | None = None

    def put(self, number: int, time: float, frame: VideoFrame) -> None:
        """Frame `number` of the clip, which is wanted, with its time in seconds.

        Raises:
            DecodeError: it is damaged.
        """
        if frame.is_corrupt:
            raise DecodeError(f"{self.name}: frame {number} is damaged")
        if self._pixels is None:
            self._pixels = self._prepared(frame)
        picture = self._converter.rgb(frame, *self._size, self._box)
        for place in self._chosen[number]:
            self._pixels[place] = picture
            self._times[place] = time
        self.missing.discard(number)

    def result(self) -> tuple[Pixels, Times]:
        """Pixels and times.

        Raises:
            DecodeError: frames are missing.
        """
        if self.missing or self._pixels is None:
            raise DecodeError(
                f"{self.name}: {len(self.missing)} of {len(self._chosen)} wanted frames are "
                f"missing, frame {min(self.missing)} the first: damaged or cut short"
            )
        return self._pixels, self._times

    def _prepared(self, frame: VideoFrame) -> Pixels:
        container, stream, size, max_pixels = self._about
        info = describe(Path(self.name), container, stream, frame, size=size, max_pixels=max_pixels)
        self._converter = Converter(info, hdr="tonemap")
        self._size = self._request.size or (info.width, info.height)
        self._box = window(info.width, info.height, self._size, self._request.crop)
        return np.empty((self._request.count, self._size[1], self._size[0], 3), np.uint8)


def _decode(packets: ClipPackets, stream: VideoStream, pictures: _Pictures, *, near: bool) -> None:
    """Decode what the wanted frames need.

    Args:
        near: from the key frame before the first of them, and without the frames that no other
            refers to; else all from the first packet on.

    Raises:
        DecodeError: a packet that is needed is damaged.
        _InterlacedError: the video is interlaced.
    """
    context, seconds = stream.codec_context, packets.seconds(stream)
    numbers = {packets.times[number]: number for number in pictures.missing}
    entry, end = packets.span(numbers, near=near)
    begin = packets.packets[entry].pts
    assert begin is not None
    can_skip = near and context.codec.canonical_name in _SKIPPING
    skips = False
    for packet in (*packets.packets[entry:end], None):  # None drains the decoder
        if can_skip and packet is not None and skips != (packet.pts not in numbers):
            skips = not skips
            context.skip_frame = "NONREF" if skips else "DEFAULT"
        try:
            frames = context.decode(packet)
        except av.FFmpegError as error:
            if packet is not None and packet.pts is not None and packet.pts < begin:
                continue  # shown before the key frame: its references are missing
            raise _damaged(pictures.name, error) from error
        for frame in frames:
            if frame.interlaced_frame:
                raise _InterlacedError
            if frame.pts in numbers:
                number = numbers[frame.pts]
                pictures.put(number, seconds[number], frame)


def _counted(data: bytes, request: ClipRequest, name: str, max_pixels: int) -> tuple[Pixels, Times]:
    """The frames of a video whose packets do not tell them: all are decoded, to the last wanted.

    Twice where the rate is not constant, as all times must be known.
    """
    seconds: Sequence[float] = range(request.n_frames)
    if request.vfr:
        with _open(data, name, max_pixels, search=True) as container:
            stream = clip_stream(container, name, max_pixels)
            seconds = [time for time, _ in _all_frames(container, stream, name)]
    chosen = chosen_frames(request, seconds, "", name)
    with _open(data, name, max_pixels, search=True) as container:
        stream = clip_stream(container, name, max_pixels)
        pictures = _Pictures(container, stream, request, chosen, len(data), name, max_pixels)
        for number, (time, frame) in enumerate(_all_frames(container, stream, name)):
            if number in chosen:
                pictures.put(number, time, frame)
            if not pictures.missing:
                break
    return pictures.result()


def _all_frames(
    container: InputContainer, stream: VideoStream, name: str
) -> Iterator[tuple[float, VideoFrame]]:
    """All frames that can be decoded, with their seconds from the first one.

    Raises:
        DecodeError: damage after the first of them: numbers are not known from there on.
    """
    base, by_dts = stream.time_base, uses_dts(container.format.name)
    assert base is not None
    step = max(1, round(1 / ((stream.average_rate or 25) * base)))
    zero: int | None = None
    last = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except av.FFmpegError as error:
            if zero is None:  # it may begin in the middle of a group of pictures
                continue
            raise _damaged(name, error) from error
        for frame in frames:
            own = frame.dts if by_dts or frame.pts is None else frame.pts
            if zero is None:
                zero = last = own or 0
            else:
                last = own if own is not None and own > last else last + step
            yield float((last - zero) * base), frame


def _damaged(name: str, error: av.FFmpegError) -> DecodeError:
    return DecodeError(f"{name}: damaged, it cannot be decoded ({error.strerror})")
