"""A file of pictures and a file of sound put into one, as video hosts serve them apart."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from vidcurate.errors import DecodeError, StorageError, UnsupportedMediaError
from vidcurate.media.mp4 import create_mp4
from vidcurate.media.open import open_video, video_stream

_MP4_VIDEO = frozenset({"av1", "h264", "hevc", "mpeg4", "vp9"})
_MP4_AUDIO = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
_MKV_OPTIONS = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}

_Timed = tuple[Fraction, int, Any]  # when it is decoded, number of its track, the packet


def join(video: Path, audio: Path, out: Path) -> None:
    """Copy the packets of a video track and of an audio track into one new file.

    Nothing is encoded, and each keeps its own times: tracks of unequal length stay so. The file is
    MP4, whose times are exact (of sound that starts late to 0.1 ms). It is Matroska where both
    files are (its times are whole milliseconds, which theirs then are already, and it says how
    much of the last Opus packet is heard) and where MP4 does not hold a codec.

    Args:
        video: its largest video stream is taken, sound in it is left out.
        audio: its first audio stream is taken.
        out: where the file is written, over what is there.

    Raises:
        UnsupportedMediaError: one of the two has no such track.
        RefusedMediaError, DecodeError: a file that is no media, or damaged.
        StorageError: the disk is full.
    """
    with open_video(video) as pictures, open_video(audio) as sound:
        shown = video_stream(pictures, video)
        if not sound.streams.audio:
            raise UnsupportedMediaError(f"{audio}: no audio stream")
        heard = sound.streams.audio[0]
        try:
            with _create(out, (pictures, shown), (sound, heard)) as writer:
                packets = []
                for number, (reader, stream) in enumerate(((pictures, shown), (sound, heard))):
                    # opaque: FFmpeg needs no encoder of the codec to copy its packets
                    track = writer.add_stream_from_template(stream, opaque=True)
                    track.time_base = stream.time_base
                    packets.append(_packets(reader, stream, track, number))
                for _, _, packet in heapq.merge(*packets, key=lambda timed: timed[:2]):
                    writer.mux(packet)
        except av.FFmpegError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(f"{out.parent}: {error.strerror}; free space") from error
            raise DecodeError(
                f"{video.name} and {audio.name} cannot be put into one file ({error.strerror})"
            ) from error


def _create(
    out: Path, pictures: tuple[InputContainer, Any], sound: tuple[InputContainer, Any]
) -> OutputContainer:
    matroska = all("matroska" in reader.format.name for reader, _ in (pictures, sound))
    if (
        not matroska
        and _codec(pictures[1]) in _MP4_VIDEO
        and _codec(sound[1]) in _MP4_AUDIO
        and pictures[1].time_base is not None
    ):
        return create_mp4(out, pictures[1].time_base)
    return av.open(str(out), "w", format="matroska", options=_MKV_OPTIONS)


def _codec(stream: Any) -> str | None:
    """The codec's own name (of AV1 `av1`, not that of its decoder)."""
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else None


def _packets(reader: InputContainer, stream: Any, track: Any, number: int) -> Iterator[_Timed]:
    for packet in reader.demux(stream):
        if not packet.size:
            continue  # the mark of the end
        if packet.dts is None or packet.time_base is None:
            raise DecodeError("a track has packets without time stamps")
        packet.stream = track
        yield packet.dts * packet.time_base, number, packet
