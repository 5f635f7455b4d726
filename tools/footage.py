"""Small videos with known ground truth, for the tests, the demo and pictures in the README.

    python tools/footage.py DIR [--only NAME ...]

makes them in DIR with DIR/truth.json beside them. In Python: make("cuts", folder) gives the
path, truth("cuts") what is in it. NAMES lists all, BAD those that cannot be read whole. The
same versions of the encoders give the same bytes.

Truth of a video: frames, fps ("24/1"), width and height as displayed, cuts (the first frame of
each new scene), and where they apply: fades (frames: out = first darkened one, black = first
and end of full black, in = first at full light again), flashes (frames), box (x, y, width,
height of the picture inside black borders), text_box and text_share (of the frame), shift
(dx, dy of the picture in pixels a frame), times (seconds of each frame), clicks (seconds),
nits (of each bar). Truth of a bad file: why.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bad_footage
import numpy as np
import numpy.typing as npt
from encode_footage import PQ_TAGS, Encoding, click_track, encode
from pictures import (
    Picture,
    dimmed,
    inside,
    joined,
    nits_to_pq,
    pan,
    scene,
    still,
    text_box,
    texture,
    write_text,
)

WIDTH, HEIGHT = 320, 180
PAN_SIZE = (456, 256)
"""A 16:9 picture whose short side is 256, which optical flow sees unscaled."""
PANS = (1, 2, 4, 8, 16, 32, 64)
NITS = (0, 1, 10, 50, 100, 203, 1000, 4000)


@dataclass(frozen=True)
class Video:
    """How to make one video: what it shows, how it is encoded, and what is known of it."""

    file: str
    shown: Callable[[int], npt.NDArray[Any]]
    frames: int
    size: tuple[int, int] = (WIDTH, HEIGHT)
    encoding: Encoding = Encoding()
    sound: bool = False
    clicks: tuple[float, ...] = ()
    cuts: tuple[int, ...] = ()
    display: tuple[int, int] | None = None
    truth: dict[str, Any] = field(default_factory=dict)


def _cuts(file: str, encoding: Encoding, lengths: tuple[int, ...] = (50, 61, 47, 72)) -> Video:
    scenes = [(n, scene(i, WIDTH, HEIGHT, n)) for i, n in enumerate(lengths)]
    starts = tuple(int(n) for n in np.cumsum(lengths)[:-1])
    return Video(file, joined(scenes), sum(lengths), encoding=encoding, cuts=starts)


def _one_scene(file: str, encoding: Encoding, frames: int = 48, **more: Any) -> Video:
    width, height = more.get("size", (WIDTH, HEIGHT))
    return Video(file, scene(0, width, height, frames), frames, encoding=encoding, **more)


def _fades() -> Video:
    """Two scenes, each fade 12 frames out, 6 of black, 12 in; the cut is where black is halfway."""
    out, black, end, lit = 60, 72, 78, 90

    def light(frame: int) -> float:
        return float(np.interp(frame, [out - 1, black, end - 1, lit], [1, 0, 0, 1]))

    shown = joined([(75, scene(0, WIDTH, HEIGHT, 75)), (75, scene(1, WIDTH, HEIGHT, 75))])
    truth = {"fades": [{"out": out, "black": [black, end], "in": lit}]}
    return Video("fades.mp4", dimmed(shown, light), 150, cuts=(75,), truth=truth)


def _flash() -> Video:
    shown, flashes = scene(0, WIDTH, HEIGHT, 96), (30, 71)
    white: Picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)

    def view(frame: int) -> Picture:
        return white if frame in flashes else shown(frame)

    return Video("flash.mp4", view, 96, truth={"flashes": list(flashes)})


def _pan(pixels: int) -> Video:
    """The picture moves right by so many pixels in half a second, the step of flow at 2 fps."""
    width, height = PAN_SIZE
    frames, step = 49, pixels / 12
    large = texture(7, width + round(step * frames) + 8, height)
    shown = pan(large, width, height, step)
    sharp = Encoding(options={"crf": "12"})
    truth = {"shift": [step, 0.0], "shift_half_second": pixels}
    return Video(f"pan_{pixels}px.mp4", shown, frames, PAN_SIZE, sharp, truth=truth)


def _text(moving: bool) -> Video:
    """White text of one line; it stands still over a pan, or goes with the picture."""
    width, height, frames, text, scale = 640, 360, 72, "SUBSCRIBE NOW", 1.6
    x, y, step = (60, 300, 0) if not moving else (20, 180, 2)
    large = texture(11, width + 2 * frames + 8, height, dark=40, bright=120)
    behind = pan(large, width, height, 2.0)

    def view(frame: int) -> Picture:
        return write_text(behind(frame), text, x + step * frame, y, scale)

    box = text_box(text, x, y, scale)
    truth = {
        "text": text,
        "text_box": list(box),
        "text_share": box[2] * box[3] / (width * height),
        "text_shift": [step, 0],
        "shift": [2.0, 0.0],
    }
    name = "text_scene.mp4" if moving else "text_overlay.mp4"
    return Video(name, view, frames, (width, height), truth=truth)


def _boxed(name: str, width: int, height: int, box: tuple[int, int, int, int]) -> Video:
    shown = inside(scene(0, box[2], box[3], 48), box, width, height)
    return Video(f"{name}.mp4", shown, 48, (width, height), truth={"box": list(box)})


def _static() -> Video:
    slide = texture(5, WIDTH, HEIGHT, hue=60)
    return Video("static.mp4", still(slide), 72, truth={"shift": [0.0, 0.0]})


def _dup_cadence() -> Video:
    shown = pan(texture(6, WIDTH + 200, HEIGHT), WIDTH, HEIGHT, 4.0)
    clear = Encoding(options={"crf": "10"})
    truth = {"dup_frames": 0.5}
    return Video("dup_cadence.mp4", lambda n: shown(n // 2), 96, encoding=clear, truth=truth)


def _vfr() -> Video:
    """Frames of 40 ms, with some of 80 and of 20; the picture follows the true time."""
    gaps = [(40, 40, 80, 20, 20, 120)[i % 6] for i in range(60)]
    ms = [0, *(int(t) for t in np.cumsum(gaps))][:60]
    shown = pan(texture(3, WIDTH + 200, HEIGHT), WIDTH, HEIGHT, 0.05)
    truth = {"times": [t / 1000 for t in ms], "vfr": True}
    encoding = Encoding(times_ms=tuple(ms))
    return Video("vfr.mp4", lambda n: shown(ms[n]), 60, encoding=encoding, truth=truth)


def _interlaced() -> Video:
    """25 frames a second of two fields, top first: a moving edge combs."""
    shown = pan(texture(4, WIDTH + 400, HEIGHT), WIDTH, HEIGHT, 3.0)

    def weave(frame: int) -> Picture:
        top, bottom = shown(2 * frame), shown(2 * frame + 1)
        rows = np.arange(HEIGHT)[:, None, None] % 2 == 0
        return np.where(rows, top, bottom)

    encoding = Encoding(fps=25, interlaced=True)
    return Video("interlaced.mp4", weave, 50, encoding=encoding, truth={"interlaced": True})


def _rotated() -> Video:
    """Stored lying, shown upright: players turn it a quarter clockwise. White mark at top left."""
    shown = scene(0, WIDTH, HEIGHT, 48)

    def marked(frame: int) -> Picture:
        out = shown(frame).copy()
        out[-40:, :60] = 255
        return out

    truth = {"rotation": 90, "mark": [0, 0, 40, 60]}
    return Video(
        "rotated.mp4", marked, 48, encoding=Encoding(rotation=90), display=(HEIGHT, WIDTH),
        truth=truth,
    )  # fmt: skip


def _hdr_pq() -> Video:
    """Eight grey bars of the luminances NITS in 10-bit PQ, BT.2020; they stand still."""
    codes = [round(64 + 876 * nits_to_pq(n)) for n in NITS]
    row = np.repeat(codes, WIDTH // len(NITS))
    bars = np.broadcast_to(row, (HEIGHT, WIDTH)).astype(np.uint16)
    encoding = Encoding(
        "libx265", "yuv420p10le", options={"x265-params": f"log-level=0:pools=none:{PQ_TAGS}"}
    )
    truth = {"nits": list(NITS), "luma_10bit": codes}
    return Video("hdr_pq.mp4", lambda n: bars, 24, encoding=encoding, truth=truth)


def _tone() -> Video:
    clicks = (0.25, 0.8, 1.5, 2.05, 2.75)
    return _one_scene("tone.mp4", Encoding(), 72, sound=True, clicks=clicks)


_VIDEOS: dict[str, Callable[[], Video]] = {
    "cuts": lambda: _cuts("cuts.mp4", Encoding()),
    "cuts_gop48": lambda: _cuts(
        "cuts_gop48.mp4", Encoding(options={"x264-params": "threads=1:keyint=48:scenecut=0"})
    ),
    "cuts_sound": lambda: Video(
        **{**vars(_cuts("cuts_sound.mp4", Encoding())), "sound": True, "clicks": (0.5, 2.5, 5.0)}
    ),
    "fades": _fades,
    "flash": _flash,
    **{f"pan_{n}px": functools.partial(_pan, n) for n in PANS},
    "text_overlay": functools.partial(_text, moving=False),
    "text_scene": functools.partial(_text, moving=True),
    "letterbox": lambda: _boxed("letterbox", 320, 240, (0, 30, 320, 180)),
    "pillarbox": lambda: _boxed("pillarbox", 320, 180, (40, 0, 240, 180)),
    "tone": _tone,
    "static": _static,
    "dup_cadence": _dup_cadence,
    "vfr": _vfr,
    "interlaced": _interlaced,
    "odd_size": lambda: _one_scene(
        "odd_size.mp4", Encoding(pix_fmt="yuv444p"), size=(427, 241), display=(427, 241)
    ),
    "rotated": _rotated,
    "sar": lambda: _one_scene(
        "sar.mp4", Encoding(sar="4/3"), size=(240, 180), display=(320, 180), truth={"sar": "4/3"}
    ),
    "hevc": lambda: _one_scene(
        "hevc.mp4", Encoding("libx265", options={"x265-params": "log-level=0:pools=none"})
    ),
    "vp9": lambda: _one_scene(
        "vp9.webm", Encoding("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    ),
    "av1": lambda: _one_scene(
        "av1.mp4", Encoding("libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"})
    ),
    "mpeg2": lambda: _one_scene("mpeg2.mpg", Encoding("mpeg2video", options={"b": "2M"}, fps=25)),
    "mpeg4": lambda: _one_scene("mpeg4.avi", Encoding("mpeg4", options={"b": "2M"})),
    "hdr_pq": _hdr_pq,
}

BAD = bad_footage.WHY
"""The bad files and why each is bad."""
NAMES = (*_VIDEOS, *BAD)


def file_of(name: str) -> str:
    """The file name of a made video.

    Raises:
        KeyError: no such name.
    """
    return bad_footage.FILES[name] if name in BAD else _VIDEOS[name]().file


def _part(name: str, folder: Path, parts: Path) -> Path:
    """A good video that a bad one is made of: that of the folder, else a new one among parts."""
    path = folder / file_of(name)
    return path if path.exists() else make(name, parts)


def make(name: str, folder: Path) -> Path:
    """Make the named video in the folder, once; safe to call from several processes.

    Raises:
        KeyError: no such name.
    """
    path = folder / file_of(name)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{os.getpid()}.{path.name}"  # the suffix tells the muxer
    if name in BAD:
        with tempfile.TemporaryDirectory() as parts:
            bad_footage.make(name, draft, lambda part: _part(part, folder, Path(parts)))
    else:
        video = _VIDEOS[name]()
        track = click_track(video.clicks, video.frames / video.encoding.fps)
        pictures = (video.shown(n) for n in range(video.frames))
        encode(draft, pictures, video.size, video.encoding, track if video.sound else None)
    draft.replace(path)
    return path


def truth(name: str) -> dict[str, Any]:
    """What is known of the named video, as plain values; see the top of this file.

    Raises:
        KeyError: no such name.
    """
    if name in BAD:
        return {"file": file_of(name), "why": BAD[name]}
    video = _VIDEOS[name]()
    width, height = video.display or video.size
    known = {
        "file": video.file,
        "frames": video.frames,
        "fps": f"{video.encoding.fps}/1",
        "width": width,
        "height": height,
        "has_audio": video.sound,
        "cuts": list(video.cuts),
    }
    return known | ({"clicks": list(video.clicks)} if video.sound else {}) | video.truth


def main() -> None:
    """Make the footage in a folder and write truth.json."""
    parser = argparse.ArgumentParser(description="Make small videos with known ground truth.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    chosen = parser.parse_args()
    for name in chosen.only:
        print(make(name, chosen.folder))
    known = {name: truth(name) for name in chosen.only}
    (chosen.folder / "truth.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
