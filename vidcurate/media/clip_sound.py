"""The sound of one packed clip, from the bytes of its file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from av.container import InputContainer

from vidcurate.errors import UnsupportedMediaError
from vidcurate.media.audio import Samples, interval
from vidcurate.media.clip_packets import ClipPackets
from vidcurate.media.open import open_data, video_stream
from vidcurate.media.probe import first_pts


def read_sound(
    data: bytes, start: float, seconds: float, rate: int, *, name: str = "the clip"
) -> Samples | None:
    """The sound from `start` on, all channels mixed into one by their mean.

    Args:
        data: the bytes of the clip's video file, or of a sound file beside it (.m4a).
        start: seconds from the clip's first shown frame; in a sound file its own time.
        seconds: how long. rate: samples a second to give.
        name: of the sample, for messages.

    Returns:
        float32 (round(seconds * rate),), -1 to 1: silence where the track begins later, ends
        earlier, has a gap or is damaged. None where the file has no sound track.

    Raises:
        RefusedMediaError: no media file, or a playlist.
        UnsupportedMediaError: FFmpeg has no decoder for the sound.
        DecodeError: there is sound, and none of it can be decoded; or the picture, which time
            counts from, cannot.
    """
    with open_data(data, name, search=False) as container:
        if not container.streams.audio:
            return None
        zero = _zero(container, data, name)
    return interval(lambda: open_data(data, name, search=False), name, zero, start, seconds, rate)


def _zero(container: InputContainer, data: bytes, name: str) -> Fraction:
    """Seconds of the first shown frame on the file's clock; 0 where it has no pictures."""
    try:
        stream = video_stream(container, name)
    except UnsupportedMediaError:
        return Fraction(0)
    assert stream.time_base is not None
    if stream.codec_context is None:  # FFmpeg has no decoder for it
        return Fraction(stream.start_time or 0) * stream.time_base
    packets = ClipPackets.read(container, stream, 0)
    if packets is not None and packets.times:
        return packets.times[0] * stream.time_base
    with open_data(data, name) as searched:
        stream = video_stream(searched, name)
        assert stream.time_base is not None
        return first_pts(searched, stream, Path(name)) * stream.time_base
