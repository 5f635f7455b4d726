"""Pictures and short videos of people's own, to frames in memory and back: samples of a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame

from vidcurate.durable import replacing
from vidcurate.errors import RefusedMediaError, StorageError, UserError
from vidcurate.media.clip_frames import MAX_PIXELS, read_frames
from vidcurate.media.clip_request import ClipRequest
from vidcurate.media.whole_file import whole_file

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_VIDEOS = (".mp4", ".gif")
PICTURE = ".png"
_GIF_FPS = 50.0  # a frame of 1/100 s or less is shown for 1/10 s
_MAX_SECONDS = 600.0


def load_frames(
    path: Path, *, size: tuple[int, int] | None = None, count: int | None = None
) -> tuple[npt.NDArray[np.uint8], float]:
    """Frames uint8 (T, H, W, 3), RGB, of a picture or video, and frames a second (0: a picture).

    Args:
        size: (width, height) that it is scaled to cover, and cut in its middle. count: the first so
            many frames of a video; default all.

    Raises:
        UserError: there is no such file.
        DataError: it cannot be decoded, or is larger or longer than what people look at.
    """
    if not path.is_file():
        raise UserError(f"there is no picture or video {path}")
    if is_picture(path):
        return _covering(_picture(path), size)[None], 0.0
    counting = whole_file(path, max_pixels=MAX_PIXELS, max_duration=_MAX_SECONDS)
    while True:
        try:
            next(counting)
        except StopIteration as end:
            about = end.value
            break
    request = ClipRequest(
        first=0,
        count=min(about.n_frames, count or about.n_frames),
        step=1,
        n_frames=about.n_frames,
        fps=Fraction(about.fps_num, about.fps_den),
        vfr=about.vfr,
        preroll=about.preroll_frames,
        size=size,
    )
    frames, _ = read_frames(path.read_bytes(), request, name=str(path))
    return frames, about.fps_num / about.fps_den


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(data):
        raise RefusedMediaError(f"{path}: the file is empty (0 bytes)")
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # more pixels than it takes
        raise RefusedMediaError(f"{path} cannot be read: {error.err}") from error
    if picture is None:
        raise RefusedMediaError(f"{path} is not a picture that can be read")
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
        raise RefusedMediaError(
            f"{path} has {picture.shape[1]}x{picture.shape[0]} pixels, more than {MAX_PIXELS:,}"
        )
    return np.asarray(picture, np.uint8)


def is_picture(path: Path) -> bool:
    """True where the name is that of a picture."""
    return path.suffix.lower() in _PICTURES


def at_rate(frames: npt.NDArray[np.uint8], fps: float, wanted: float) -> npt.NDArray[np.uint8]:
    """The frames that a video of `fps` shows at k / `wanted` seconds.

    Raises:
        UserError: more frames a second are wanted than there are.
    """
    if wanted > fps * 1.001:  # what a file says of its rate is rounded
        raise UserError(f"a video of {fps:g} frames a second has no {wanted:g}; interpolate it")
    count = 1 + int((len(frames) - 1) * wanted / fps + 1e-6)
    places = np.minimum((np.arange(count) * fps / wanted + 1e-6).astype(int), len(frames) - 1)
    thinned: npt.NDArray[np.uint8] = frames[places]
    return thinned


def _covering(
    picture: npt.NDArray[np.uint8], size: tuple[int, int] | None
) -> npt.NDArray[np.uint8]:
    if size is None:
        return picture
    height, width = picture.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    full = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(picture, full, interpolation=how)
    left, top = (full[0] - size[0]) // 2, (full[1] - size[1]) // 2
    return np.ascontiguousarray(scaled[top : top + size[1], left : left + size[0]], np.uint8)


def check_output(path: Path, *, picture: bool = False, fps: float | None = None) -> None:
    """Look whether frames can be written under a name, before they are made.

    picture: there is one frame, which can be a picture. fps: of the video, if it is known.

    Raises:
        UserError: they cannot. StorageError: not there.
    """
    suffix = path.suffix.lower()
    if suffix == PICTURE and not picture:
        raise UserError(f"{path}: a picture is of one frame; videos are written as .mp4 or .gif")
    if suffix not in (*_VIDEOS, PICTURE):
        raise UserError(
            f"{path}: videos are written as .mp4 or .gif, and a single frame also as {PICTURE}"
        )
    if suffix == ".gif" and fps is not None and fps > _GIF_FPS:
        raise UserError(
            f"{path}: a GIF shows {_GIF_FPS:g} frames a second at most, not {fps:g}; write .mp4"
        )
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise StorageError(
            f"{path} cannot be written: "
            + ("it is a folder" if path.is_dir() else f"{there} is no folder that you may write to")
        )


def save_frames(path: Path, frames: npt.NDArray[np.uint8], fps: float) -> None:
    """Write frames uint8 (T, H, W, 3), RGB, as a video or picture.

    Args:
        path: its suffix says how: .mp4 (H.264; an odd row or column is repeated), .gif (256
            colours of its own, playing round) or, of one frame, .png.

    Raises:
        UserError: another suffix, a picture of several frames, or a GIF of more than 50 frames a
            second.
        StorageError: it cannot be written.
    """
    check_output(path, picture=len(frames) == 1, fps=fps)
    suffix = path.suffix.lower()
    if suffix == PICTURE:
        found, data = cv2.imencode(PICTURE, cv2.cvtColor(frames[0], cv2.COLOR_RGB2BGR))
        assert found, "PNG takes any picture"
        with replacing(path) as temporary:
            temporary.write_bytes(data.tobytes())
        return
    rate = Fraction(fps).limit_denominator(1001)
    with replacing(path) as temporary, av.open(str(temporary), "w", format=suffix[1:]) as out:
        height, width = frames.shape[1:3]
        if suffix == ".mp4":
            height, width = height + height % 2, width + width % 2
            stream: Any = out.add_stream("libx264", rate=rate, options={"crf": "17"})
            stream.pix_fmt = "yuv420p"
        else:
            stream = out.add_stream("gif", rate=rate)
            stream.pix_fmt = "pal8"
        stream.height, stream.width = height, width
        stream.codec_context.thread_count = 1
        pictures: Iterable[VideoFrame] = _pictures(frames, (height, width), rate)
        for number, picture in enumerate(_indexed(pictures) if suffix == ".gif" else pictures):
            picture.pts, picture.time_base = number, 1 / rate
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def _pictures(
    frames: npt.NDArray[np.uint8], size: tuple[int, int], rate: Fraction
) -> Iterator[VideoFrame]:
    """The frames one by one, filled up to (height, width) by their last row and column."""
    over = [(0, size[0] - frames.shape[1]), (0, size[1] - frames.shape[2]), (0, 0)]
    for number, frame in enumerate(frames):
        filled = np.pad(frame, over, "edge") if any(np.ravel(over)) else frame
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(filled), "rgb24")
        picture.pts, picture.time_base = number, 1 / rate
        yield picture


def _indexed(given: Iterable[VideoFrame]) -> list[VideoFrame]:
    """The pictures in one palette of 256 colours, which is made of them all."""
    pictures = list(given)
    graph: Any = Graph()
    first = pictures[0]
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=first.time_base
    )
    split, palette = graph.add("split"), graph.add("palettegen")
    use, sink = graph.add("paletteuse"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for picture in pictures:
        graph.push(picture)
    graph.push(None)
    return [graph.pull() for _ in pictures]
