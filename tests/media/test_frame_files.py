"""Frames to files that people look at, and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vidcurate.errors import DataError, StorageError, UserError
from vidcurate.media.frame_files import at_rate, load_frames, save_frames


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
    (tmp_path / "bad.png").write_bytes(b"text")
    (tmp_path / "bad.mp4").write_bytes(b"text")
    for name in ("bad.png", "bad.mp4"):
        with pytest.raises(DataError, match=name):
            load_frames(tmp_path / name)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        save_frames(tmp_path / "file" / "a.mp4", square(), 8)
