"""Frames to files that people look at, and back."""

from __future__ import annotations

import struct
from zlib import crc32

import cv2
import numpy as np
import pytest

from vidcurate.errors import DataError, StorageError, UserError
from vidcurate.media.frame_files import at_rate, check_output, load_frames, save_frames


def square(frames: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    video = np.full((frames, height, width, 3), 40, np.uint8)
    for i in range(frames):
        video[i, 8:24, 4 * i : 4 * i + 16] = (220, 60, 30)
    return video


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("fps", [8.0, 12.5])
def test_what_is_written_is_read(tmp_path, suffix, fps):
    video = square()
    save_frames(tmp_path / f"a{suffix}", video, fps)
    frames, rate = load_frames(tmp_path / f"a{suffix}")
    assert rate == pytest.approx(fps, rel=0.05)  # GIF counts hundredths of a second
    assert frames.shape == video.shape
    assert np.abs(frames.astype(int) - video).mean() < 6


def test_odd_sizes_are_filled_up_in_mp4_only(tmp_path):
    video = square(2, 33, 47)
    for suffix, shape in ((".mp4", (2, 34, 48, 3)), (".gif", (2, 33, 47, 3))):
        save_frames(tmp_path / f"a{suffix}", video, 8)
        assert load_frames(tmp_path / f"a{suffix}")[0].shape == shape


def test_pictures_and_videos_are_scaled_to_cover_a_size(tmp_path):
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 40:80] = (250, 10, 30)
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    frames, rate = load_frames(tmp_path / "a.png", size=(20, 20))
    assert (frames.shape, rate) == ((1, 20, 20, 3), 0.0)
    assert np.abs(frames.astype(int) - (250, 10, 30)).max() <= 2
    save_frames(tmp_path / "b.mp4", square(), 8)
    assert load_frames(tmp_path / "b.mp4", size=(16, 16), count=3)[0].shape == (3, 16, 16, 3)


def test_a_single_frame_is_a_picture_without_loss(tmp_path):
    picture = square(1)
    save_frames(tmp_path / "a.png", picture, 8)
    assert (load_frames(tmp_path / "a.png")[0] == picture).all()


def test_a_video_is_thinned_to_what_it_shows_at_fewer_frames_a_second():
    video = np.arange(10, dtype=np.uint8)[:, None, None, None]

    def places(fps, wanted):
        return at_rate(video, fps, wanted).ravel().tolist()

    assert places(8, 8) == list(range(10))
    assert places(8, 4) == [0, 2, 4, 6, 8]
    assert places(8, 3) == [0, 2, 5, 8]  # at 0, 1/3, 2/3 and 1 second
    assert places(30000 / 1001, 10) == [0, 2, 5, 8]  # 2.997 frames on each time: the one shown
    assert at_rate(video[:1], 8, 2).shape == (1, 1, 1, 1)
    with pytest.raises(UserError, match="8 frames a second has no 12; interpolate it"):
        places(8, 12)


def test_what_cannot_be_is_told(tmp_path):
    with pytest.raises(UserError, match=r"written as \.mp4 or \.gif"):
        save_frames(tmp_path / "a.avi", square(), 8)
    with pytest.raises(UserError, match="a picture is of one frame"):
        save_frames(tmp_path / "a.png", square(), 8)
    with pytest.raises(UserError, match="no picture or video"):
        load_frames(tmp_path / "none.mp4")
    with pytest.raises(UserError, match="a GIF shows 50 frames a second at most, not 60; write"):
        save_frames(tmp_path / "a.gif", square(), 60)
    save_frames(tmp_path / "a.gif", square(), 50)
    assert load_frames(tmp_path / "a.gif")[1] == pytest.approx(50)


def test_files_that_are_no_picture_or_video_are_named(tmp_path):
    for name, data, why in (
        ("bad.png", b"text", "is not a picture"),
        ("bad.mp4", b"text", "not a video file"),
        ("empty.png", b"", "the file is empty"),
        ("empty.mp4", b"", "the file is empty"),
        ("huge.png", png_of(60_000, 60_000), "cannot be read"),  # more than OpenCV takes
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.* {why}"):
            load_frames(tmp_path / name)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    save_frames(tmp_path / "a.png", square(1), 8)
    monkeypatch.setattr("vidcurate.media.frame_files.MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(DataError, match="has 48x32 pixels, more than 1,535"):
        load_frames(tmp_path / "a.png")


def png_of(width, height):
    """The head of a PNG of this size, and no picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_where_nothing_can_be_written_is_told_before_frames_are_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    for name, why in (
        ("file/a.mp4", "file is no folder that you may write to"),
        ("file/b/a.mp4", "file is no folder"),
        ("folder.mp4", "it is a folder"),
    ):
        with pytest.raises(StorageError, match=f"{name} cannot be written: .*{why}"):
            check_output(tmp_path / name)
    check_output(tmp_path / "new" / "folder" / "a.mp4")
    assert not (tmp_path / "new").exists()
