"""What went wrong with a video page: yt-dlp's exceptions told apart, as errors of vidcurate.

yt-dlp says the same in several ways: by a class of exception (few), by the status of the answer
that is its cause, and by words, often those of the host itself.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    UserNotLive,
)

from vidcurate.errors import (
    AcquireError,
    StorageError,
    ThrottledError,
    TransferError,
    VidcurateError,
    VideoGoneError,
    VideoPrivateError,
    VideoRegionError,
)

# What a host's status says, before its words are read. 403 says too little for that.
_STATUS: Mapping[int, type[AcquireError]] = {
    401: VideoPrivateError,
    402: VideoPrivateError,
    404: VideoGoneError,
    410: VideoGoneError,
    451: VideoRegionError,
    408: TransferError,
    425: TransferError,
    429: ThrottledError,
}
# What the words of hosts and extractors mean, the first that fits; 403 and the network come last.
_WORDS: Sequence[tuple[type[AcquireError], str]] = (
    (AcquireError, r"not a public address"),
    (ThrottledError, r"not a bot|too many requests|rate.?limit|try again later|captcha"),
    (VideoRegionError, r"\b(your|this|certain) (country|countries|region|location)\b|geo.?(block|"
                       r"restrict)|outside (of )?(the )?[A-Z]|blocked .*\b(country|government)"),
    (VideoPrivateError, r"\bprivate\b|members.only|channel's members|\b(log|sign)(ged)?.?in\b|"
                        r"\blogin\b|registered users|password|your age|age.restrict|requires "
                        r"payment|subscri(be|ption)|premium|\bpaid\b|purchase|inappropriate for"),
    (VideoGoneError, r"\b(removed|deleted|terminated|suspended|taken down|no longer|has expired)\b|"
                     r"does(n.t| not) exist|\b(video|content|clip|media|file|page|post|account|"
                     r"episode|item) ?(is |was |are )?(unavailable|not (available|found))|"
                     r"\bisn.t available"),
    (ThrottledError, r"HTTP Error 403"),
    (TransferError, r"Got error:|timed out|connection (reset|refused)|temporary failure|"
                    r"network error|unable to resolve"),
)  # fmt: skip


# What yt-dlp adds to errors that it did not expect.
_REPORT = re.compile(r"; please report this issue on .*", re.S)


@dataclass(frozen=True)
class Reply:
    """How it ended. `file` holds the video, or `kind` names the class of error to raise.

    retry_after: the host's header of that name, as it was.
    """

    file: str = ""
    rights: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    message: str = ""
    retry_after: str | None = None


class RefusedError(OSError):
    """Raised in the place of a connection: yt-dlp expects an OSError there."""


def classify(error: BaseException, failure: BaseException | None = None) -> Reply:
    """What an exception of yt-dlp means: by its class, then the HTTP status, then its words.

    Args:
        error: of `Page.fetch`, or any that an extractor raises.
        failure: the last failed request; it counts where the error is its text alone.

    Returns:
        the class of vidcurate's error, the first line of the message without the query parts of
        URLs, and the Retry-After of the answer.
    """
    chain = list(_chain(error))
    text = str(error)
    if failure is not None and str(failure) in text:
        chain.extend(_chain(failure))
    answer = next((e for e in chain if isinstance(e, HTTPError)), None)
    retry_after = answer.response.headers.get("Retry-After") if answer is not None else None
    return Reply(
        kind=_kind(chain, text, answer).__name__,
        message=_first_line(chain, text),
        retry_after=retry_after,
    )


def _kind(
    chain: Sequence[BaseException], text: str, answer: HTTPError | None
) -> type[VidcurateError]:
    for known in chain:
        if isinstance(known, (AcquireError, StorageError)):
            return type(known)
        if isinstance(known, OSError) and known.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError
        if isinstance(known, GeoRestrictedError):
            return VideoRegionError
        if isinstance(known, (UnsupportedError, UserNotLive, RefusedError)):
            return AcquireError
    if "No space left" in text:
        return StorageError
    found = re.search(r"HTTP Error (\d{3})\b", text)
    status = answer.status if answer is not None else int(found[1]) if found else 0
    if status in _STATUS:
        return _STATUS[status]
    if status >= 500:
        return TransferError
    words = " ".join(_REPORT.sub("", str(e)) for e in chain)
    words = words.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for kind, pattern in _WORDS:
        if re.search(pattern, words, re.I):
            return kind
    broken = (TransportError, IncompleteRead, ContentTooShortError, TimeoutError)
    return TransferError if any(isinstance(e, broken) for e in chain) else AcquireError


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it; yt-dlp keeps them in several places."""
    todo: list[Any] = [error]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop(0)
        if not isinstance(one, BaseException) or any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        inner = getattr(one, "exc_info", None) or (None, None, None)
        todo += [inner[1], getattr(one, "cause", None), getattr(one, "reason", None)]
        todo += [one.__cause__, one.__context__]


def _first_line(chain: Sequence[BaseException], text: str) -> str:
    told = next((e.orig_msg for e in chain if isinstance(e, ExtractorError)), text)
    told = re.sub(r"^ERROR: ", "", told.lstrip("\r\n ")).lstrip("\r\n ")
    told = _REPORT.sub("", told.removeprefix("[download] Got error: "))
    line = (told.splitlines() or [""])[0].split(" (caused by ")[0]
    line = re.sub(r"(https?://)([^\s/@]*@)?([^\s?#]*)[?#]\S*", r"\1\3", line)
    return line.strip()[:500] or type(chain[0]).__name__
