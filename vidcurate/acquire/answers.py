"""What an answer says before its body is read: its status, its headers, its first bytes."""

from __future__ import annotations

from collections.abc import Sequence

from vidcurate.errors import (
    AcquireError,
    OptOutError,
    ThrottledError,
    TransferError,
    VideoGoneError,
    VideoPrivateError,
    VideoRegionError,
)

HEAD = 512
"""Bytes of a body that tell a page or a text from a video."""

_PAGES = (b"<!doctype html", b"<html", b"#extm3u", b"<mpd")
_OPT_OUT = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))
# Directives of X-Robots-Tag with a value of their own; any other `name:` is a robot's.
_WITH_VALUE = frozenset(
    ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
)
_LOST = {
    401: VideoPrivateError,
    404: VideoGoneError,
    410: VideoGoneError,
    451: VideoRegionError,
    403: ThrottledError,  # many hosts answer too many requests so; a later try tells
    429: ThrottledError,
    408: TransferError,
    425: TransferError,
}


def refusal(status: int) -> type[AcquireError]:
    """The error that an HTTP status other than success stands for."""
    return _LOST.get(status, TransferError if status >= 500 else AcquireError)


def check_opt_out(headers: Sequence[str], robot: str, where: str) -> None:
    """Refuse what X-Robots-Tag headers mark for all robots, or for ours.

    The directives are those of img2dataset, and `none`, which is short for noindex and nofollow.

    Args:
        headers: each X-Robots-Tag of the answer. robot: our name in lower case.

    Raises:
        OptOutError: one of them asks not to use it.
    """
    for header in headers:
        meant = ""
        for item in header.lower().split(","):
            name, colon, rest = (part.strip() for part in item.partition(":"))
            if colon and name not in _WITH_VALUE:  # for one robot, to the end of the header
                meant, name = name, rest
            if meant in ("", robot) and name in _OPT_OUT:
                raise OptOutError(
                    f"{where}: its host asks not to use it (X-Robots-Tag: {name}); "
                    "acquire.download.opt_out: ignore downloads it all the same"
                )


def is_page(head: bytes, content_type: str, where: str) -> bool:
    """True where a body that begins so is a page or a playlist that names the video.

    The bytes tell, not the content type alone: hosts send videos as text/html, too.

    Args:
        head: the first `HEAD` bytes, or all of a shorter body.

    Raises:
        AcquireError: it is another text (JSON, for example), so no video.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES) or (text.startswith(b"<?xml") and b"<mpd" in text):
        return True
    is_text = not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)
    if not is_text or text.startswith(b"yuv4mpeg2"):
        return False
    if "html" in content_type.lower():
        return True
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.end < len(head) - 3:  # not a letter that the end cuts
            return False
    raise AcquireError(f"{where}: the answer is text, no video")
