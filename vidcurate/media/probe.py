"""What a video is, from its bytes: its header and its first decodable frame."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidcurate.errors import DecodeError, RefusedMediaError, UnsupportedMediaError
from vidcurate.media.blocks import file_size, open_bytes
from vidcurate.media.decode import uses_dts
from vidcurate.media.open import open_video, video_stream
from vidcurate.media.video import VideoInfo

# FFmpeg's names of the code points of ITU-T H.273.
MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}
TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "jedec-p22",
}
_UNKNOWN = "unknown"
_MAX_SAR = 8  # beyond it, the header is wrong
_FIELDS = range(2, 6)  # FFmpeg's field orders that are interlaced
_TAGS = re.compile(rb"vids(\w{4})|stsd.{12}(\w{4})|(V_[A-Z0-9_/]+)", re.DOTALL)
_EDGE = 2**20


def probe(path: Path, *, max_pixels: int, max_duration: float) -> VideoInfo:
    """Probe a video: read its header and decode its first frame.

    Args:
        path: a local file.
        max_pixels: a larger picture, coded or displayed, is refused.
        max_duration: a longer stated duration in seconds is refused.

    Raises:
        AcquireError, RefusedMediaError: see `open_video`; or the video is beyond a limit.
        UnsupportedMediaError: no video stream, or FFmpeg has no decoder for it.
        DecodeError: not a single frame can be decoded.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        if stream.codec_context is None:
            raise UnsupportedMediaError(
                f"{path}: no decoder for the video codec {_codec_tag(path)}; convert the file"
            )
        duration = stated_duration(container, stream)
        if duration > max_duration:
            raise RefusedMediaError(
                f"{path}: {duration:.0f} s long, more than limits.max_duration ({max_duration:g} s)"
            )
        # Before decoding: the limit guards the decoder's memory too.
        _check_size(path, stream.width, stream.height, max_pixels)
        frame = first_frame(container, stream, path)
        return describe(path, container, stream, frame, size=file_size(path), max_pixels=max_pixels)


def describe(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    frame: VideoFrame,
    *,
    size: int,
    max_pixels: int,
) -> VideoInfo:
    """What an open file and a frame of it tell; `start_pts` is that frame's.

    Args:
        path: the file, or its name where it is in memory. size: bytes of it.
        max_pixels: a larger picture is refused.

    Raises:
        RefusedMediaError: the picture is too large.
    """
    duration = stated_duration(container, stream)
    assert stream.time_base is not None
    sar = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _MAX_SAR) <= sar <= _MAX_SAR:
        sar = Fraction(1)
    # PyAV counts counterclockwise, display clockwise; odd angles go to the nearest quarter turn.
    rotation = round(-frame.rotation / 90) * 90 % 360
    width, height = display_size(frame.width, frame.height, sar, rotation)
    _check_size(path, frame.width, frame.height, max_pixels)
    _check_size(path, width, height, max_pixels)
    bitrate = stream.bit_rate or container.bit_rate or (size * 8 / duration if duration else 0)
    audio = next((s for s in container.streams.audio if _decodable(s)), None)
    context = stream.codec_context
    yuv_full = frame.format.name.startswith("yuvj")
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=context.codec.canonical_name,
        profile=context.profile or "",
        pix_fmt=frame.format.name,
        bit_depth=_bit_depth(frame.format),
        coded_width=frame.width,
        coded_height=frame.height,
        width=width,
        height=height,
        sar=sar,
        rotation=rotation,
        fps=stream.average_rate or stream.guessed_rate or Fraction(0),
        time_base=stream.time_base,
        start_pts=_first_pts(frame, container.format.name),
        container_start=(container.start_time or 0) / av.time_base,
        duration=duration,
        bitrate=int(bitrate),
        size_bytes=size,
        interlaced=context.field_order in _FIELDS or frame.interlaced_frame,
        color_matrix=MATRICES.get(frame.colorspace, _UNKNOWN),
        color_range="pc" if yuv_full or frame.color_range == 2 or frame.format.is_rgb else "tv",
        color_transfer=TRANSFERS.get(frame.color_trc, _UNKNOWN),
        color_primaries=PRIMARIES.get(frame.color_primaries, _UNKNOWN),
        has_audio=bool(container.streams.audio),
        audio_codec=audio.codec_context.codec.canonical_name if audio else "",
        audio_rate=audio.codec_context.sample_rate if audio else 0,
        audio_channels=audio.codec_context.channels if audio else 0,
    )


def display_size(width: int, height: int, sar: Fraction, rotation: int) -> tuple[int, int]:
    """Width and height of the picture as displayed, square pixels, nothing shrunk.

    The side that the sample aspect ratio stretches grows; a quarter turn swaps the sides.
    """
    if sar > 1:
        width = round(width * sar)
    elif sar < 1:
        height = round(height / sar)
    return (height, width) if rotation % 180 else (width, height)


def first_pts(container: InputContainer, stream: VideoStream, path: Path) -> int:
    """The pts of the first frame that can be decoded: source time 0.

    Raises:
        DecodeError: there is none.
    """
    return _first_pts(first_frame(container, stream, path), container.format.name)


def stated_duration(container: InputContainer, stream: VideoStream) -> float:
    """Seconds that the header states; 0 where it does not."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else 0.0


def _first_pts(frame: VideoFrame, container: str) -> int:
    pts = frame.dts if uses_dts(container) or frame.pts is None else frame.pts
    return 0 if pts is None else pts


def first_frame(container: InputContainer, stream: VideoStream, path: Path | str) -> VideoFrame:
    """The first frame that can be decoded.

    Raises:
        DecodeError: there is none.
    """
    reason = "it has no video packets"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = packet.decode()
        except av.FFmpegError as error:
            # A broken packet is skipped; a broken container ends the generator.
            reason = error.strerror or type(error).__name__
            continue
        for frame in frames:
            return frame
        if packet.size:
            reason = "its packets decode to nothing"
    raise DecodeError(f"{path}: not a single frame can be decoded: {reason}")


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise RefusedMediaError(
            f"{path}: a picture of {width}x{height} is more than limits.max_pixels ({max_pixels})"
        )


def _decodable(stream: AudioStream) -> bool:
    return stream.codec_context is not None


def _bit_depth(pixels: VideoFormat) -> int:
    return 8 if pixels.has_palette else max(c.bits for c in pixels.components)


def _codec_tag(path: Path) -> str:
    """The codec's name in the container's own words: PyAV tells none without a decoder."""
    with open_bytes(path) as file:
        data = file.read(_EDGE)
        file.seek(max(len(data), file.seek(0, os.SEEK_END) - _EDGE))
        found = _TAGS.search(data + file.read(_EDGE))
    return repr(next(g for g in found.groups() if g).decode()) if found else "of its stream"
