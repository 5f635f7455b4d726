"""Opening a file that nobody vouches for.

FFmpeg guesses a container from content and from the file's name, and some of its "containers"
(concat lists, HLS and DASH playlists, image sequences, lavfi graphs) open other files and
URLs. Here only real containers are allowed, only the `file:` protocol, and one decoder thread.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.error import err_check
from av.stream import Disposition
from av.video.stream import VideoStream

from vidcurate.errors import (
    AcquireError,
    DecodeError,
    MissingSectionError,
    RefusedMediaError,
    UnsupportedMediaError,
)
from vidcurate.media.blocks import Blocks, open_blocks, open_bytes

# Containers that hold their own bytes. Those of sound alone are here so that a song is told
# from a file that is no media at all. MP4's external references stay off (FFmpeg's default).
_FORMATS = (
    "3g2 3gp aac ac3 aiff amr asf av1 avi avs2 cavsvideo dirac dnxhd dv eac3 flac flv gif gxf "
    "h261 h263 h264 hevc ivf kux m4v matroska mjpeg mov mp3 mp4 mpeg mpegts mpegvideo mxf nsv "
    "nut obu ogg rm swf vc1 vc1test vvc wav webm wtv yuv4mpegpipe"
)
_OPTIONS = {
    "format_whitelist": ",".join(_FORMATS.split()),
    "protocol_whitelist": "file",
    # Bounds of the search for streams: transport streams may start their video late.
    "probesize": str(20 * 2**20),
    "analyzeduration": "10000000",  # microseconds
}
# Their headers say all of a stream that a decoder must be told. A search for more decodes frames,
# which costs a tenth to a third of a short clip (skip_frame: the first one is asked for anyway).
_WHOLE_HEADERS = {4: b"ftyp", 0: b"\x1aE\xdf\xa3"}
_NO_SEARCH = {"probesize": "32", "fpsprobesize": "0", "skip_frame": "all"}
_NO_EDITS = {"ignore_editlist": "1"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_NO_PICTURES = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


def open_video(
    path: Path, *, motion_vectors: bool = False, fast: bool = False, edits: bool = True
) -> InputContainer:
    """Open a media file for reading; the caller closes it (it is a context manager).

    Args:
        path: a regular local file; its name is never trusted. Of a file of sections (see
            `media.blocks`) only these can be read.
        motion_vectors: video decoders export the codec's motion vectors with each frame.
        fast: decode with the loop filter off and without the frames that no other refers to.
        edits: False shows all that an MP4 holds, what its edit list hides included.

    Raises:
        AcquireError: the file is missing or may not be read.
        RefusedMediaError: not a regular file, empty, a playlist or list of files, or no media.
        DecodeError: an MP4 whose index is missing.
        MissingSectionError: a section that it takes is not there; any later read may raise it.
    """
    head = _head(path)
    options = {}
    if motion_vectors:
        options["flags2"] = "+export_mvs"
    if fast:
        options["skip_loop_filter"] = "all"
        options["skip_frame"] = "noref"
    try:
        return open_container(
            open_blocks(path) or f"file:{path}", options, {} if edits else _NO_EDITS
        )
    except av.FFmpegError as error:
        raise _explained(path, head, error) from error


def open_data(
    data: bytes,
    name: str,
    *,
    search: bool = True,
    decoder_options: Mapping[str, str] | None = None,
) -> InputContainer:
    """Open a media file that is in memory; the caller closes it.

    No other file is ever read: no protocol is allowed.

    Args:
        name: of the file, for messages.
        search: look for what the header may not say of the streams. Without it MP4, MOV and
            Matroska open in a tenth of the time, and `pix_fmt` is unknown until a frame is decoded;
            other containers are searched all the same.
        decoder_options: FFmpeg's options of the video decoders.

    Raises:
        RefusedMediaError, DecodeError: as `open_video`.
    """
    if not data:
        raise RefusedMediaError(f"{name}: the file is empty (0 bytes)")
    options = {"protocol_whitelist": ""}
    if not search and has_whole_header(data):
        options |= _NO_SEARCH
    try:
        return open_container(io.BytesIO(data), decoder_options, options)
    except av.FFmpegError as error:
        raise _explained(name, data[:512], error) from error


def has_whole_header(data: bytes) -> bool:
    """Whether a file is MP4, MOV or Matroska by its first bytes."""
    return any(data.startswith(mark, at) for at, mark in _WHOLE_HEADERS.items())


def open_container(
    file: str | Blocks | BinaryIO,
    decoder_options: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> InputContainer:
    """The container of a file as `open_video` opens it, with one decoder thread.

    Args:
        decoder_options: FFmpeg's options of the video decoders.
        options: of the container, besides those that are always set.

    Raises:
        av.FFmpegError: FFmpeg cannot. And what the reads of `file` raise.
    """
    # Titles and names in the header are not always the UTF-8 that they should be.
    opened = _Reads(file) if isinstance(file, Blocks) else file
    container = av.open(
        opened, "r", options={**_OPTIONS, **(options or {})}, metadata_errors="replace"
    )
    for stream in container.streams.video:
        context = stream.codec_context
        if context is not None:  # None: FFmpeg has no decoder for it
            context.options = {"threads": "1", **(decoder_options or {})}
            context.thread_count = 1
            context.thread_type = "NONE"
    return container


class _Reads:
    """Blocks as PyAV reads them. It keeps what a read raises until FFmpeg returns, and raises it
    then, whatever FFmpeg made of it."""

    def __init__(self, blocks: Blocks) -> None:
        self.name = blocks.name
        self.seek = blocks.seek
        self.tell = blocks.tell
        self._blocks = blocks

    def read(self, count: int) -> bytes:
        try:
            return self._blocks.read(count) or b""
        except MissingSectionError:
            # FFmpeg reads on after an error. Only one can be kept, and PyAV prints others: this
            # raises the one before, if there is one.
            err_check(0)
            raise


def video_stream(container: InputContainer, path: Path | str) -> VideoStream:
    """The video stream that is used: the one with the most pixels, the first of equals.

    Cover art and thumbnails are no video streams.

    Raises:
        UnsupportedMediaError: there is none.
    """
    streams = [s for s in container.streams.video if not s.disposition & _NO_PICTURES]
    if not streams:
        kinds = sorted({s.type for s in container.streams if s not in container.streams.video})
        raise UnsupportedMediaError(
            f"{path}: no video stream (it holds {', '.join(kinds) or 'cover art only'})"
        )
    return max(streams, key=_area)


def _area(stream: VideoStream) -> int:
    return stream.width * stream.height if stream.codec_context is not None else 0


def _head(path: Path) -> bytes:
    """The file's first bytes; refuses what is not a file with content."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RefusedMediaError(f"{path}: not a regular file")
        with open_bytes(path) as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise AcquireError(f"{path}: no such file") from error
    except OSError as error:
        raise AcquireError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise RefusedMediaError(f"{path}: the file is empty (0 bytes)")
    return head


def _explained(
    path: Path | str, head: bytes, error: av.FFmpegError
) -> RefusedMediaError | DecodeError | AcquireError:
    if isinstance(error, PermissionError):
        return AcquireError(f"{path}: cannot be read: permission denied")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"#EXTM3U", b"ffconcat", b"[playlist]", b"[Reference]")) or (
        text.startswith(b"<") and any(tag in text for tag in (b"<MPD", b"<smil", b"<asx", b"<ASX"))
    ):
        return RefusedMediaError(
            f"{path}: a playlist or a list of files, not a video; name the videos themselves"
        )
    if head[4:8] in _MP4_BOXES:
        return DecodeError(
            f"{path}: an MP4 whose index (moov) is missing or broken: cut short or never "
            "finished; fetch it again"
        )
    return RefusedMediaError(f"{path}: not a video file of a known container ({error.strerror})")
