"""Files that nobody vouches for: each refusal has its class and its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidcurate.errors import AcquireError, DecodeError, RefusedMediaError
from vidcurate.media.open import open_video, video_stream

from .conftest import gray_frames

PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n",
    "concat": b"ffconcat version 1.0\nfile real.mp4\n",
    "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "smil": b"<smil><body/></smil>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_list_named_mp4_opens_nothing(kind, make, tmp_path):
    make("real.mp4", gray_frames(3))
    path = tmp_path / "list.mp4"
    path.write_bytes(PLAYLISTS[kind])
    with pytest.raises(RefusedMediaError, match="a playlist or a list of files"):
        open_video(path)


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (b"", RefusedMediaError, "empty"),
        (b"just some words\n" * 50, RefusedMediaError, "not a video file"),
        (bytes(range(256)) * 64, RefusedMediaError, "not a video file"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", DecodeError, "moov"),
    ],
)
def test_content_that_is_no_video(content, error, reason, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(error, match=reason):
        open_video(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(AcquireError, match="no such file"):
        open_video(tmp_path / "none.mp4")
    with pytest.raises(RefusedMediaError, match="not a regular file"):
        open_video(tmp_path)


def test_an_image_is_no_video(tmp_path):
    import cv2
    import numpy as np

    path = tmp_path / "still.mp4"
    path.write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    with pytest.raises(RefusedMediaError, match="not a video file"):
        open_video(path)


@pytest.mark.parametrize("name", ["a b.mp4", "http:x.mp4", "concat:a|b.mp4", "%03d.mp4", "x.txt"])
def test_the_name_means_nothing(name, make, tmp_path):
    make("real.mp4", gray_frames(3)).rename(tmp_path / name)
    with open_video(tmp_path / name) as container:
        assert video_stream(container, Path(name)).width == 64


def test_metadata_need_not_be_utf8(make):
    path = make("a.mp4", gray_frames(3))
    data = path.read_bytes()
    assert b"VideoHandler" in data
    path.write_bytes(data.replace(b"VideoHandler", b"Vide\xf6Handler"))
    with open_video(path) as container:
        assert video_stream(container, path).width == 64


def test_one_decoder_thread(make):
    with open_video(make("a.mp4", gray_frames(3))) as container:
        context = container.streams.video[0].codec_context
        assert context.thread_count == 1
        assert context.thread_type.name == "NONE"
