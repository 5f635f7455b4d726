"""yt-dlp's real exceptions, as its extractors raise them, with the words of real hosts."""

import errno
import logging
from email.message import Message
from io import BytesIO

import pytest
from yt_dlp import YoutubeDL
from yt_dlp.networking.common import Response
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, SSLError, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    DownloadError,
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    UserNotLive,
    YoutubeDLError,
)

from vidcurate.acquire.page_errors import RefusedError, classify
from vidcurate.errors import AcquireError

YDL = YoutubeDL({"logger": logging.getLogger("nobody reads this")}, auto_init=False)


def http(status: int, **headers: str) -> HTTPError:
    told = Message()
    for name, value in headers.items():
        told[name.replace("_", "-")] = value
    return HTTPError(Response(BytesIO(), "https://host.example/x", told, status))


def reported(error: YoutubeDLError) -> DownloadError:
    """As YoutubeDL tells of an extractor's error: from within its handler."""
    try:
        try:
            raise error
        except YoutubeDLError:
            YDL.report_error(str(error))
    except DownloadError as outer:
        return outer
    raise AssertionError


def youtube(words: str) -> DownloadError:
    return reported(ExtractorError(words, expected=True, video_id="-abcdefghij", ie="youtube"))


def caused(words: str, cause: Exception) -> DownloadError:
    return reported(ExtractorError(words, cause=cause, expected=True))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (reported(GeoRestrictedError("The uploader has not made this video available in your "
                                     "country", countries=["DE"])), "VideoRegionError"),
        (youtube("Video unavailable. This video contains content from X, who has blocked it in "
                 "your country on copyright grounds"), "VideoRegionError"),
        (youtube("This video may be deleted or geo-restricted"), "VideoRegionError"),
        (caused("Unable to download JSON metadata", http(451)), "VideoRegionError"),
        (youtube("Private video. Sign in if you've been granted access to this video"),
         "VideoPrivateError"),
        (youtube("Join this channel to get access to members-only content like this video, and "
                 "other exclusive perks."), "VideoPrivateError"),
        (youtube("This video is available to this channel's members on level: Fan"),
         "VideoPrivateError"),
        (youtube("Sign in to confirm your age. This video may be inappropriate for some users."),
         "VideoPrivateError"),
        (youtube("This video requires payment to watch."), "VideoPrivateError"),
        (youtube("This video is protected by a password, use the --video-password option"),
         "VideoPrivateError"),
        (youtube("This video is only available for registered users. Use --cookies"),
         "VideoPrivateError"),
        (caused("Unable to download webpage", http(401)), "VideoPrivateError"),
        (caused("This video is private", http(403)), "VideoPrivateError"),  # words say more
        (youtube("Video unavailable. This video has been removed by the uploader"),
         "VideoGoneError"),
        (youtube("Video unavailable. This video is no longer available because the YouTube account "
                 "associated with this video has been terminated."), "VideoGoneError"),
        (youtube("Video unavailable"), "VideoGoneError"),
        (youtube("This video isn\N{RIGHT SINGLE QUOTATION MARK}t available anymore"),
         "VideoGoneError"),
        (youtube("The page does not exist"), "VideoGoneError"),
        (youtube("This account has been suspended"), "VideoGoneError"),
        (caused("Unable to download webpage", http(404)), "VideoGoneError"),
        (caused("Unable to download webpage", http(410)), "VideoGoneError"),
        (youtube("Sign in to confirm you\N{RIGHT SINGLE QUOTATION MARK}re not a bot. Use "
                 "--cookies-from-browser or --cookies for the authentication"), "ThrottledError"),
        (youtube("Video unavailable. This content isn't available, try again later. Your account "
                 "has been rate-limited by YouTube for up to an hour."), "ThrottledError"),
        (caused("Unable to download webpage", http(429)), "ThrottledError"),
        (http(403), "ThrottledError"),
        (DownloadError("ERROR: \r[download] Got error: HTTP Error 403: Forbidden"),
         "ThrottledError"),
        (caused("Unable to download webpage", http(502)), "TransferError"),
        (DownloadError("ERROR: \r[download] Got error: HTTP Error 503: Service Unavailable"),
         "TransferError"),
        (DownloadError("ERROR: \r[download] Got error: 1000 bytes read, 99 more expected"),
         "TransferError"),
        (caused("A network error has occurred.", IncompleteRead(10, 20)), "TransferError"),
        (caused("Unable to download webpage", TransportError(cause=OSError("boom"))),
         "TransferError"),
        (SSLError("handshake failure"), "TransferError"),
        (ContentTooShortError(10, 20), "TransferError"),
        (reported(UnsupportedError("https://host.example/x")), "AcquireError"),
        (reported(UserNotLive()), "AcquireError"),
        (youtube("This live event will begin in 3 days."), "AcquireError"),
        (youtube("This video is DRM protected"), "AcquireError"),
        (youtube("Requested format is not available"), "AcquireError"),
        (reported(ExtractorError("Unable to extract title")), "AcquireError"),
        (caused("Unable to download webpage", http(400)), "AcquireError"),
        (caused("x", TransportError(cause=RefusedError("10.0.0.1 is not a public address"))),
         "AcquireError"),
        (KeyError("streams"), "AcquireError"),
        (AcquireError("a page of several videos"), "AcquireError"),
        (DownloadError("ERROR: unable to write data: [Errno 28] No space left on device"),
         "StorageError"),
        (OSError(errno.ENOSPC, "No space left on device"), "StorageError"),
    ],
)  # fmt: skip
def test_failures_are_told_apart(error: Exception, kind: str) -> None:
    assert classify(error).kind == kind


def test_the_message_is_the_hosts_first_line_without_secrets() -> None:
    error = reported(ExtractorError("Unable to extract title", video_id="abc", ie="youtube"))
    assert "please report this issue" in str(error)
    assert classify(error).message == "Unable to extract title"
    error = caused("Unable to download https://me:word@host.example/a?token=secret now\nmore",
                   http(404))  # fmt: skip
    assert classify(error).message == "Unable to download https://host.example/a now"
    error = DownloadError("ERROR: \r[download] Got error: HTTP Error 503: Busy")
    assert classify(error).message == "HTTP Error 503: Busy"
    assert classify(KeyError()).message == "KeyError"


def test_the_wish_of_the_host_is_kept() -> None:
    assert classify(caused("no", http(429, Retry_After="7"))).retry_after == "7"
    # yt-dlp's downloaders tell of a failed request by its text alone.
    failure = http(503, Retry_After="9")
    error = DownloadError(f"ERROR: \r[download] Got error: {failure}")
    assert classify(error, failure).retry_after == "9"
    assert classify(error).retry_after is None
    assert classify(DownloadError("ERROR: another"), failure).retry_after is None
