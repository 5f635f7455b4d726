import pytest

from vidcurate.acquire.answers import check_opt_out, is_page, refusal
from vidcurate.errors import AcquireError, OptOutError

MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"


@pytest.mark.parametrize(
    ("status", "name", "transient"),
    [
        (401, "VideoPrivateError", False),
        (403, "ThrottledError", True),
        (404, "VideoGoneError", False),
        (410, "VideoGoneError", False),
        (429, "ThrottledError", True),
        (451, "VideoRegionError", False),
        (408, "TransferError", True),
        (500, "TransferError", True),
        (503, "TransferError", True),
        (599, "TransferError", True),
        (204, "AcquireError", False),
        (400, "AcquireError", False),
    ],
)
def test_what_a_status_means(status: int, name: str, transient: bool) -> None:
    error = refusal(status)("x")
    assert (type(error).__name__, error.is_transient) == (name, transient)


@pytest.mark.parametrize(
    "headers",
    [
        ["noai"],
        ["NoImageAI"],
        ["noindex, nofollow"],
        ["none"],
        ["max-image-preview: large, noindex"],
        ["nofollow", "noimageindex"],
        ["vidcurate: nofollow, noai"],
        ["otherbot: noindex, vidcurate: noai"],
    ],
)
def test_opt_outs(headers: list[str]) -> None:
    with pytest.raises(OptOutError, match="it: its host asks not to use it") as caught:
        check_opt_out(headers, "vidcurate", "it")
    assert not caught.value.is_transient


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["all"],
        ["nofollow, noarchive"],
        ["otherbot: noai, noindex"],
        ["max-snippet: 20, unavailable_after: 25 Jun 2030 15:00:00 PST"],
        ["noaix"],
    ],
)
def test_what_is_no_opt_out(headers: list[str]) -> None:
    check_opt_out(headers, "vidcurate", "it")


@pytest.mark.parametrize(
    ("head", "kind", "page"),
    [
        (b"<!DOCTYPE html><title>x</title>", "", True),
        (b"\xef\xbb\xbf\n  <HTML>", "video/mp4", True),
        (b"<p>Sign in</p>", "Text/HTML; charset=utf-8", True),
        (b"#EXTM3U\n#EXT-X-VERSION:3", "application/x-mpegurl", True),
        (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash">', "", True),
        (MP4, "text/html", False),
        (MP4, "application/json", False),
        (b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1\nFRAME\n" + b"~" * 500, "", False),
        (b"\x1aE\xdf\xa3 webm", "", False),
        (b"caf\xe9 " * 50, "", False),  # in no encoding that is asked for: the decoder may judge
    ],
)
def test_pages_are_told_by_their_bytes(head: bytes, kind: str, page: bool) -> None:
    assert is_page(head, kind, "it") is page


@pytest.mark.parametrize("head", [b'{"error": 1}', b"not found", "é".encode()[:1] * 1, b"<Error/>"])
def test_other_text_is_no_video(head: bytes) -> None:
    with pytest.raises(AcquireError, match="it: the answer is text, no video"):
        is_page(head, "application/json", "it")
