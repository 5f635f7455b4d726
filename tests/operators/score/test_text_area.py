import socket
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from vidcurate import Clip, FrameBatch, Frames, VideoInfo
from vidcurate.operators.score.text_area import TextArea

Footage = Callable[[str], Path]
Truth = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def text_area() -> TextArea:
    operator = TextArea()
    operator.setup()
    return operator


def clip_of(pixels: np.ndarray) -> Clip:
    n, height, width, _ = pixels.shape
    video = VideoInfo(
        path=Path("made.mp4"),
        container="mp4",
        codec="h264",
        profile="High",
        pix_fmt="yuv420p",
        bit_depth=8,
        coded_width=width,
        coded_height=height,
        width=width,
        height=height,
        sar=Fraction(1),
        rotation=0,
        fps=Fraction(24),
        time_base=Fraction(1, 12288),
        start_pts=0,
        container_start=0.0,
        duration=3.0,
        bitrate=0,
        size_bytes=0,
        interlaced=False,
        color_matrix="bt709",
        color_range="tv",
        color_transfer="bt709",
        color_primaries="bt709",
        has_audio=False,
        audio_codec="",
        audio_rate=0,
        audio_channels=0,
    )
    return Clip(
        video=video,
        start=0.0,
        end=3.0,
        n_frames=72,
        fps=24.0,
        vfr=False,
        width=width,
        height=height,
        n_bytes=0,
        frames=FrameBatch(pixels, (np.arange(n) + 0.5) * 3.0 / n),
    )


def frames_of(path: Path, n: int = 3) -> np.ndarray:
    """n frames spread over the video, at short side 540 at most."""
    with av.open(str(path)) as video:
        frames = [f.to_ndarray(format="rgb24") for f in video.decode(video=0)]
    chosen = [frames[len(frames) * (2 * i + 1) // (2 * n)] for i in range(n)]
    scale = min(1.0, 540 / min(chosen[0].shape[:2]))
    size = round(chosen[0].shape[1] * scale), round(chosen[0].shape[0] * scale)
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in chosen])


def write(pixels: np.ndarray, text: str, origins: list[tuple[int, int]], scale: float) -> float:
    """Write the text into each frame; the share of the box of its ink."""
    ink = np.zeros(pixels.shape[1:3], np.uint8)
    thickness = max(1, round(2 * scale))
    for frame, origin in zip(pixels, origins, strict=True):
        cv2.putText(frame, text, origin, 0, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    cv2.putText(ink, text, origins[0], 0, scale, 255, thickness)
    _, _, width, height = cv2.boundingRect(ink)
    return width * height / ink.size


def test_still_text_is_overlay(text_area: TextArea, footage: Footage, truth: Truth) -> None:
    scores = text_area.score(clip_of(frames_of(footage("text_overlay"))))
    assert scores["overlay"] == pytest.approx(truth("text_overlay")["text_share"], rel=0.2)
    assert scores["scene"] == 0
    assert scores["total"] == scores["overlay"]


def test_moving_text_is_scene_text(text_area: TextArea, footage: Footage, truth: Truth) -> None:
    scores = text_area.score(clip_of(frames_of(footage("text_scene"))))
    assert scores["scene"] == pytest.approx(truth("text_scene")["text_share"], rel=0.2)
    assert scores["overlay"] == 0
    assert scores["total"] == scores["scene"]


@pytest.mark.parametrize("name", ["cuts", "static", "pan_8px", "letterbox"])
def test_made_footage_without_text_is_zero(
    text_area: TextArea, footage: Footage, name: str
) -> None:
    scores = text_area.score(clip_of(frames_of(footage(name), 2)))
    assert scores == {"overlay": 0, "scene": 0, "total": 0}


def test_real_footage_without_text_is_zero(text_area: TextArea, bikes: Path) -> None:
    assert text_area.score(clip_of(frames_of(bikes)))["total"] == 0


@pytest.mark.parametrize("blob", [40, 110])
def test_smooth_texture_is_not_one_giant_letter(text_area: TextArea, blob: int) -> None:
    field = np.random.default_rng(3).integers(
        40, 200, (540 // blob, 960 // blob, 3), dtype=np.uint8
    )
    pixels = cv2.resize(field, (960, 540), interpolation=cv2.INTER_CUBIC)[None]
    assert text_area.score(clip_of(pixels))["total"] == 0


@pytest.mark.parametrize("text", ["NEWS 24", "subscribe to us", "Typing Jumps"])
@pytest.mark.parametrize("scale", [0.8, 1.6, 3.0])
def test_the_share_is_true_to_the_ink(
    text_area: TextArea, bikes: Path, text: str, scale: float
) -> None:
    pixels = frames_of(bikes, 1)
    share = write(pixels, text, [(30, 160)], scale)
    scores = text_area.score(clip_of(pixels))
    assert scores["total"] == pytest.approx(share, rel=0.2)
    assert scores["overlay"] is None  # one frame: nobody knows whether it stands still
    assert scores["scene"] is None


def test_overlay_and_moving_text_in_one_picture(text_area: TextArea, bikes: Path) -> None:
    pixels = frames_of(bikes)
    logo = write(pixels, "CHANNEL 9", [(400, 40)] * 3, 1.0)
    title = write(pixels, "The End", [(60, 240), (60, 180), (60, 120)], 1.5)
    scores = text_area.score(clip_of(pixels))
    assert scores["overlay"] == pytest.approx(logo, rel=0.2)
    assert scores["scene"] == pytest.approx(title, rel=0.2)


def test_text_that_shows_up_later_is_no_overlay(text_area: TextArea, bikes: Path) -> None:
    pixels = frames_of(bikes)
    share = write(pixels[2:], "CHANNEL 9", [(400, 40)], 1.0)
    scores = text_area.score(clip_of(pixels))
    assert scores["overlay"] == 0
    assert scores["scene"] == pytest.approx(share / 3, rel=0.2)


def test_nothing_is_downloaded_or_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    operator = TextArea()
    operator.setup()
    operator.score(clip_of(np.zeros((2, 90, 160, 3), np.uint8)))
    assert capfd.readouterr() == ("", "")


def test_request_and_extra() -> None:
    assert TextArea(frames=2).request() == Frames(count=2, short_side=540, color="rgb")
    assert TextArea.extra == "ocr"
