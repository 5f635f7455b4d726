"""Pictures and short videos of people's own, to frames in memory and back: samples of a model."""

from __future__ import annotations

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
from vidcurate.errors import RefusedMediaError, UserError
from vidcurate.media.clip_frames import MAX_PIXELS, read_frames
from vidcurate.media.clip_request import ClipRequest
from vidcurate.media.whole_file import whole_file

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
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
    if path.suffix.lower() in _PICTURES:
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise RefusedMediaError(f"{path} is not a picture that can be read")
        return _covering(picture.astype(np.uint8), size)[None], 0.0
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


def save_frames(path: Path, frames: npt.NDArray[np.uint8], fps: float) -> None:
    """Write frames uint8 (T, H, W, 3), RGB, as a video.

    Args:
        path: its suffix says how: .mp4 (H.264; an odd row or column is repeated) or .gif (256
            colours of its own, playing round).

    Raises:
        UserError: another suffix. StorageError: it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise UserError(f"{path}: videos are written as .mp4 or .gif")
    rate = Fraction(fps).limit_denominator(1001)
    with replacing(path) as temporary, av.open(str(temporary), "w", format=suffix[1:]) as out:
        if suffix == ".mp4":
            frames = np.pad(
                frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge"
            )
            stream: Any = out.add_stream("libx264", rate=rate, options={"crf": "17"})
            stream.pix_fmt = "yuv420p"
        else:
            stream = out.add_stream("gif", rate=rate)
            stream.pix_fmt = "pal8"
        stream.height, stream.width = frames.shape[1:3]
        stream.codec_context.thread_count = 1
        pictures = [VideoFrame.from_ndarray(np.ascontiguousarray(f), "rgb24") for f in frames]
        for number, picture in enumerate(pictures):
            picture.pts, picture.time_base = number, 1 / rate
        for number, picture in enumerate(_indexed(pictures) if suffix == ".gif" else pictures):
            picture.pts, picture.time_base = number, 1 / rate
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def _indexed(pictures: list[VideoFrame]) -> list[VideoFrame]:
    """The pictures in one palette of 256 colours, which is made of them all."""
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
