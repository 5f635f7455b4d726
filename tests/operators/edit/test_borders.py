from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from vidcurate import Box, Clip, Frames
from vidcurate.operators.edit.borders import Borders

WIDTH, HEIGHT = 320, 180
ClipOf = Callable[..., Clip]


def scene(n: int, width: int, height: int, low: int = 20, high: int = 230) -> np.ndarray:
    """A picture that pans, (n, height, width) luma."""
    rng = np.random.default_rng(7)
    field = rng.integers(low, high, (9, 24), dtype=np.uint8)
    wide = cv2.resize(field, (width + 16 * n, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 16 * i : 16 * i + width] for i in range(n)])


def barred(box: Box, n: int = 5) -> np.ndarray:
    pixels = np.zeros((n, HEIGHT, WIDTH), np.uint8)
    pixels[:, box.y : box.y + box.height, box.x : box.x + box.width] = scene(
        n, box.width, box.height
    )
    return pixels


def encoded(pixels: np.ndarray, path: Path, crf: int) -> np.ndarray:
    """The luma (full range) after x264 at that quality."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for luma in pixels:
            frame = av.VideoFrame.from_ndarray(luma, format="gray").reformat(format="yuv420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with av.open(str(path)) as video:
        return np.stack([f.to_ndarray(format="gray") for f in video.decode(video=0)])


def assert_near(found: Box | None, truth: Box) -> None:
    assert found is not None
    sides = [
        (found.x, truth.x),
        (found.y, truth.y),
        (found.x + found.width, truth.x + truth.width),
        (found.y + found.height, truth.y + truth.height),
    ]
    assert all(abs(a - b) <= 2 for a, b in sides), (found, truth)
    assert all(v % 2 == 0 for v in (found.x, found.y, found.width, found.height))


@pytest.mark.parametrize("crf", [18, 35])
@pytest.mark.parametrize(
    "truth",
    [
        Box(0, 22, WIDTH, 136),  # letterbox
        Box(41, 0, 239, HEIGHT),  # pillarbox, odd
        Box(37, 21, 247, 139),  # both, odd
        Box(0, 0, WIDTH, 149),  # one bar only
    ],
)
def test_bars_are_found_to_two_pixels(
    tmp_path: Path, truth: Box, crf: int, clip_of: ClipOf
) -> None:
    pixels = encoded(barred(truth), tmp_path / "barred.mp4", crf)
    assert_near(Borders().box(clip_of(pixels)), truth)


@pytest.mark.parametrize("name", ["letterbox", "pillarbox"])
def test_made_footage(
    footage: Callable[[str], Path],
    truth: Callable[[str], dict[str, Any]],
    clip_of: ClipOf,
    name: str,
) -> None:
    with av.open(str(footage(name))) as video:
        frames = [f.to_ndarray(format="gray") for f in video.decode(video=0)]
    assert_near(Borders().box(clip_of(np.stack(frames[4::10]))), Box(*truth(name)["box"]))


def test_a_picture_without_bars_is_kept(clip_of: ClipOf) -> None:
    assert Borders().box(clip_of(scene(5, WIDTH, HEIGHT))) is None


def test_an_odd_picture_without_bars_is_kept_as_it_is(clip_of: ClipOf) -> None:
    assert Borders().box(clip_of(scene(5, 319, 179))) is None


def test_black_and_dark_scenes_are_kept(clip_of: ClipOf) -> None:
    assert Borders().box(clip_of(np.zeros((5, HEIGHT, WIDTH), np.uint8))) is None
    assert Borders().box(clip_of(scene(5, WIDTH, HEIGHT, low=2, high=14))) is None


def test_a_lit_spot_in_the_dark_is_no_box(clip_of: ClipOf) -> None:
    pixels = np.full((5, HEIGHT, WIDTH), 6, np.uint8)
    for luma in pixels:
        cv2.circle(luma, (170, 80), 30, 200, -1)
    pixels = np.stack([cv2.GaussianBlur(luma, (0, 0), 8) for luma in pixels])
    assert Borders().box(clip_of(pixels)) is None


def test_a_vignette_is_no_border(clip_of: ClipOf) -> None:
    ramp = np.minimum(np.arange(HEIGHT), np.arange(HEIGHT)[::-1])
    pixels = np.broadcast_to((4 + 2 * ramp).clip(0, 120)[:, None], (5, HEIGHT, WIDTH))
    assert Borders().box(clip_of(pixels.astype(np.uint8))) is None


def test_a_bar_is_judged_by_all_frames(clip_of: ClipOf) -> None:
    truth = Box(0, 22, WIDTH, 136)
    pixels = barred(truth)
    pixels[:4, 22:100] = 0  # the upper half lights up in the last frame only
    assert Borders().box(clip_of(pixels)) == truth


def test_noise_in_the_bars_does_not_hide_them(clip_of: ClipOf) -> None:
    truth = Box(0, 22, WIDTH, 136)
    noise = np.random.default_rng(1).integers(0, 11, (5, HEIGHT, WIDTH), dtype=np.uint8)
    assert Borders().box(clip_of(np.maximum(barred(truth), noise))) == truth


def test_threshold_says_what_is_black(clip_of: ClipOf) -> None:
    truth = Box(0, 22, WIDTH, 136)
    grayish = np.maximum(barred(truth), 24)
    assert Borders().box(clip_of(grayish)) is None
    assert_near(Borders(threshold=40).box(clip_of(grayish)), truth)


def test_subtitles_in_a_bar_keep_it(clip_of: ClipOf) -> None:
    pixels = barred(Box(0, 22, WIDTH, 136))
    cv2.putText(pixels[2], "subtitle", (100, 176), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 230, 1)
    found = Borders().box(clip_of(pixels))
    assert found is not None
    assert found.y == 22
    assert found.y + found.height == HEIGHT


def test_the_box_stays_inside_an_earlier_crop(clip_of: ClipOf) -> None:
    pixels = barred(Box(0, 22, WIDTH, 136))
    assert Borders().box(clip_of(pixels, Box(10, 30, 200, 100))) == Box(10, 30, 200, 100)
    assert Borders().box(clip_of(pixels, Box(11, 0, 200, 150))) == Box(12, 22, 198, 128)


def test_frames_are_asked_for_at_source_size() -> None:
    assert Borders().request() == Frames(count=5, short_side="native", color="gray")
