"""The few fields of an MP4 file that a muxer cannot be asked for: the length of its edits.

Layout after ISO/IEC 14496-12: boxes of (size, type, content); an edit list (`elst`) of a track
says which part of its media is shown.
"""

from __future__ import annotations

import errno
import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.container import OutputContainer

from vidcurate.errors import CutError, StorageError, VidcurateError

_PARENTS = (b"moov", b"trak", b"edts")
_OPTIONS = {
    "avoid_negative_ts": "disabled",  # the pre-roll stays before 0, where the edit list hides it
    "use_editlist": "1",
    "fflags": "+bitexact",  # no version strings and dates: the same clip is the same bytes
}


def create_mp4(path: Path, time_base: Fraction) -> OutputContainer:
    """Open an MP4 file for writing whose edit lists are exact in that time base of the video."""
    return av.open(
        str(path),
        "w",
        format="mp4",
        options=_OPTIONS | {"movie_timescale": str(movie_timescale(time_base))},
    )


def muxing_error(path: Path, text: str, error: av.FFmpegError) -> VidcurateError:
    """The error to raise when writing failed: a full disk is no fault of the clip."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path.parent}: {error.strerror}; free space and run again")
    return CutError(f"{text} ({error.strerror})")


def movie_timescale(time_base: Fraction) -> int:
    """The timescale that FFmpeg's MP4 muxer gives a video track of that time base.

    The whole movie gets the same, so that the length of an edit is exact.
    """
    scale = time_base.denominator
    while scale < 10000:
        scale *= 2
    return scale


def trim_edits(path: Path, length: int) -> None:
    """Let every track of the file end after `length` at the latest, in movie timescale units.

    A copied clip holds reference frames from after its end, and its last audio packet lasts
    longer than it: both stay in the file and are hidden by the edit list. The file is changed in
    place; only fields of fixed size are touched.

    Args:
        path: an MP4 file written by FFmpeg with edit lists.
        length: the clip's length in units of the movie's timescale.
    """
    with path.open("r+b") as file:
        file.seek(0, 2)
        longest = 0
        movie: tuple[int, int] | None = None
        for kind, start, _ in list(_boxes(file, 0, file.tell())):
            if kind == b"mvhd":
                movie = _duration_field(file, start, before=4)
            if kind == b"tkhd":  # always comes before its track's edit list
                track = _duration_field(file, start, before=8)
            if kind == b"elst":
                shown = _trim(file, start, length)
                _write_number(file, *track, shown)
                longest = max(longest, shown)
        assert movie is not None, "a file that the muxer closed has a movie header"
        _write_number(file, *movie, longest)


def without_edits(data: bytes) -> bytes:
    """The same MP4 file with all of its frames shown: its edit lists are called free space."""
    file = io.BytesIO(data)
    plain = bytearray(data)
    for kind, content, _ in _boxes(file, 0, len(data)):
        if kind == b"elst":
            plain[content - 4 : content] = b"free"
    return bytes(plain)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start of content and end of each box, those inside the known parents included."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
            content += 8
        elif size == 0:  # up to the end
            size = end - start
        if start + size < content:
            return  # broken
        if kind in _PARENTS:
            yield from _boxes(file, content, min(start + size, end))
        else:
            yield kind, content, start + size
        start += size


def _duration_field(file: BinaryIO, content: int, before: int) -> tuple[int, int]:
    """Place and width of a header's duration; `before`: bytes between its dates and it (the
    timescale of mvhd; the track id and a reserved word of tkhd)."""
    file.seek(content)
    wide = file.read(1) == b"\x01"
    dates = 16 if wide else 8  # two of them, after version and flags
    return content + 4 + dates + before, 8 if wide else 4


def _write_number(file: BinaryIO, place: int, width: int, value: int) -> None:
    file.seek(place)
    file.write(value.to_bytes(width, "big"))


def _trim(file: BinaryIO, content: int, length: int) -> int:
    """Shorten the edits of one list to `length` in all; the length that is shown."""
    file.seek(content)
    version = file.read(4)[0]
    width = 8 if version == 1 else 4
    count = struct.unpack(">I", file.read(4))[0]
    place, shown = content + 8, 0
    for _ in range(count):
        file.seek(place)
        duration = min(int.from_bytes(file.read(width), "big"), length - shown)
        _write_number(file, place, width, duration)
        shown += duration
        place += 2 * width + 4
    return shown
