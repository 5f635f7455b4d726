"""Encoding the frames of an interval anew: cropped, scaled, in another codec, or lossless.

One thread and bit-exact flags everywhere: the same clip is the same bytes on the same versions.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidcurate.errors import CutError, UserError
from vidcurate.media.decode import Decoder
from vidcurate.media.mp4 import create_mp4, movie_timescale, muxing_error, trim_edits
from vidcurate.media.probe import MATRICES, PRIMARIES, TRANSFERS, display_size
from vidcurate.media.sound import Sound
from vidcurate.media.video import Box, VideoInfo
from vidcurate.recipe.model import Encode

LOSSLESS = Encode(codec="ffv1")
"""For a clip that must be stored before it is packed: no sample is changed."""

_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp9": "libvpx-vp9",
    "ffv1": "libx264",  # MP4 holds no FFV1: H.264 in its lossless mode instead
}
# x264's names of presets and the numbers of SVT-AV1 (preset) and libvpx (cpu-used) of like speed.
_PRESETS = {
    "ultrafast": (12, 8),
    "superfast": (11, 7),
    "veryfast": (10, 6),
    "faster": (9, 5),
    "fast": (8, 4),
    "medium": (7, 3),
    "slow": (5, 2),
    "slower": (4, 1),
    "veryslow": (3, 0),
}
_SCALE_FLAGS = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
_TURNS = {90: ("transpose", "clock"), 180: ("rotate", "PI"), 270: ("transpose", "cclock")}
_LOSSLESS_FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
_UNKNOWN = 2  # of ITU-T H.273


@dataclass(frozen=True)
class Encoded:
    """What was written.

    times: pts from the clip's start, of the file's frames. size: (width, height) as displayed.
    n_source: frames that the source has in the interval.
    """

    times: list[int]
    size: tuple[int, int]
    n_source: int


@dataclass(frozen=True)
class _Picture:
    """How decoded frames become the file's pictures.

    region: coded pixels that are kept. scaled: size before the turn. size: after it.
    """

    region: Box
    scaled: tuple[int, int]
    turn: int

    @property
    def size(self) -> tuple[int, int]:
        return self.scaled[::-1] if self.turn % 180 else self.scaled


def check_preset(how: Encode) -> None:
    """Refuse a preset that the codec does not have.

    Raises:
        UserError: naming those that it has.
    """
    if how.preset not in _PRESETS:
        raise UserError(f"preset {how.preset!r} is not one of {', '.join(_PRESETS)}")


def encode_clip(
    info: VideoInfo,
    start_pts: int,
    end_pts: int,
    out: Path,
    *,
    how: Encode,
    crop: Box | None = None,
    size: tuple[int, int] | None = None,
    sound: Literal["copy", "encode", "none"] = "none",
    frame_step: int = 1,
) -> Encoded:
    """Encode the frames with start_pts <= pts < end_pts (stream time base) into an MP4 file.

    The picture is as displayed: rotation and SAR applied, deinterlaced (bwdif), one frame for one.
    Time stamps, colour tags and 10 bits stay, HDR with them; chroma becomes 4:2:0. The edges of
    a crop move inwards to even pixels, so that cropping alone never resamples. Codec "ffv1" keeps
    every sample, rotation and SAR as tags and the chroma format, as H.264 with quantiser 0.

    Args:
        crop: box of the displayed picture. size: (width, height), both even: the picture is scaled
            to cover it and cut about the centre.
        sound: copied, encoded as AAC, or left out.
        frame_step: the file has the first frame and every such one after it, each at its own time
            and shown until the next of them.

    Raises:
        CutError: no frame in the interval, or the encoder refuses.
        StorageError: the disk is full.
        SoundError: the sound cannot be had in this way.
        DecodeError: the source cannot be decoded.
        UserError: an unknown preset.
    """
    check_preset(how)
    base = info.time_base
    lossless = how.codec == "ffv1"
    pixels = _pixel_format(info, lossless)
    picture = _picture(info, crop, size, tag_only=lossless)
    with ExitStack() as stack:
        track_sound = None
        if sound != "none":
            track_sound = stack.enter_context(
                Sound(info.path, start_pts * base, end_pts * base, copy=sound == "copy")
            )
        try:
            with create_mp4(out, base) as writer:
                track = _track(writer, info, how, picture.size, pixels, frame_step)
                if track_sound is not None:
                    track_sound.attach(writer)
                times: list[int] = []
                frames = _lasting(_frames(info, start_pts, end_pts, times), frame_step)
                for frame in _filtered(frames, info, picture, pixels, frame_step):
                    if track_sound is not None:
                        track_sound.mux_until(writer, (frame.pts or 0) * base)
                    writer.mux(track.encode(frame))
                writer.mux(track.encode(None))
                if track_sound is not None:
                    track_sound.mux_until(writer, None)
        except av.FFmpegError as error:
            raise muxing_error(out, f"the {how.codec} encoder refuses", error) from error
        if not times:
            raise CutError("no frame in the interval")
        trim_edits(out, int((end_pts - start_pts) * base * movie_timescale(base)))
        if track_sound is not None:
            track_sound.check(out)
    shown = picture.size
    if lossless:
        shown = display_size(*picture.size, info.sar, info.rotation)
    return Encoded(times[::frame_step], shown, len(times))


def _frames(
    info: VideoInfo, start_pts: int, end_pts: int, times: list[int]
) -> Iterator[VideoFrame]:
    """The interval's frames with pts and duration counted from its start; notes the pts."""
    base = info.time_base
    low, high = (
        (pts - info.start_pts) * base.numerator / base.denominator for pts in (start_pts, end_pts)
    )
    with Decoder(info) as decoder:
        for shot in decoder.frames(low, high):
            if start_pts <= shot.pts < end_pts:
                frame = shot.frame
                frame.pts = shot.pts - start_pts
                frame.time_base = base
                frame.duration = min(shot.end_pts, end_pts) - shot.pts
                times.append(frame.pts)
                yield frame


def _lasting(frames: Iterator[VideoFrame], step: int) -> Iterator[VideoFrame]:
    """All frames; every `step`-th, from the first on, has the duration of those up to the next."""
    group: list[VideoFrame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == step:
            yield from _as_one(group)
            group = []
    yield from _as_one(group)


def _as_one(group: list[VideoFrame]) -> list[VideoFrame]:
    if group:
        group[0].duration = sum(frame.duration for frame in group)
    return group


def _pixel_format(info: VideoInfo, lossless: bool) -> str:
    source = info.pix_fmt.replace("yuvj", "yuv")
    if lossless:
        if source in _LOSSLESS_FORMATS:
            return source
        if VideoFormat(info.pix_fmt).is_rgb:
            return "rgb24"
        if source == "nv12":
            return "yuv420p"
        return "yuv444p10le" if info.bit_depth > 8 else "yuv444p"
    return "yuv420p10le" if info.bit_depth > 8 else "yuv420p"


def _picture(
    info: VideoInfo, crop: Box | None, size: tuple[int, int] | None, *, tag_only: bool
) -> _Picture:
    """The geometry: a box of the display, mapped back to coded pixels on even edges."""
    coded = (info.coded_width, info.coded_height)
    if tag_only:
        region = Box(0, 0, coded[0] // 2 * 2, coded[1] // 2 * 2)
        return _Picture(region, (region.width, region.height), 0)
    x, y, width, height = _covering(crop or Box(0, 0, info.width, info.height), size)
    # Undo the turn: display pixel (X, Y) of a picture turned clockwise.
    across, down = (info.height, info.width) if info.rotation % 180 else (info.width, info.height)
    if info.rotation == 90:
        x, y, width, height = y, down - x - width, height, width
    elif info.rotation == 180:
        x, y = across - x - width, down - y - height
    elif info.rotation == 270:
        x, y, width, height = across - y - height, x, height, width
    stretch = Fraction(across, coded[0]), Fraction(down, coded[1])
    left, top = _even_up(x / stretch[0]), _even_up(y / stretch[1])
    right, bottom = _even_down((x + width) / stretch[0]), _even_down((y + height) / stretch[1])
    region = Box(left, top, right - left, bottom - top)
    if region.width < 2 or region.height < 2:
        raise CutError(f"the crop box {crop} leaves no picture of {info.width}x{info.height}")
    if size is not None:
        scaled = size[::-1] if info.rotation % 180 else size
    else:
        scaled = (
            max(2, _even_down(region.width * stretch[0])),
            max(2, _even_down(region.height * stretch[1])),
        )
    return _Picture(region, scaled, info.rotation)


def _covering(
    box: Box, size: tuple[int, int] | None
) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """The part of the box about its centre that has the aspect of `size`: x, y, width, height."""
    width, height = Fraction(box.width), Fraction(box.height)
    if size is not None:
        aspect = Fraction(*size)
        width, height = min(width, height * aspect), min(height, width / aspect)
    return box.x + (box.width - width) / 2, box.y + (box.height - height) / 2, width, height


def _even_up(value: Fraction) -> int:
    return math.ceil(value / 2) * 2


def _even_down(value: Fraction) -> int:
    return math.floor(value / 2) * 2


def _filtered(
    frames: Iterator[VideoFrame], info: VideoInfo, picture: _Picture, pixels: str, step: int
) -> Iterator[VideoFrame]:
    """Frames through the filter graph: one out for every `step`-th in, each with its own time."""
    graph: Graph | None = None
    stamps: deque[tuple[int, int]] = deque()

    def stamped(frame: VideoFrame) -> VideoFrame:
        frame.pts, frame.duration = stamps.popleft()
        frame.time_base = info.time_base
        frame.pict_type = 0  # else x264 would repeat the source's choice of key frames
        return frame

    for number, frame in enumerate(frames):
        assert frame.pts is not None
        if number % step == 0:
            stamps.append((frame.pts, frame.duration))
        if graph is None:
            graph = _graph(frame, info, picture, pixels, step)
        graph.vpush(frame)
        for done in _pulled(graph):
            yield stamped(done)
    if graph is not None:
        graph.vpush(None)
        for done in _pulled(graph):
            yield stamped(done)
    if stamps:
        raise CutError(f"the filters lost {len(stamps)} frames")


def _pulled(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _graph(frame: VideoFrame, info: VideoInfo, picture: _Picture, pixels: str, step: int) -> Graph:
    graph = Graph()
    graph.threads = 1
    chain = [
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=info.time_base,
        )
    ]
    region = picture.region
    if info.interlaced and pixels != "rgb24":
        chain.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
    if step > 1:  # after the deinterlacer, which looks at the frames on both sides
        chain.append(graph.add("framestep", str(step)))
    if (region.width, region.height) != (frame.width, frame.height):
        box = f"{region.width}:{region.height}:{region.x}:{region.y}:exact=1"
        chain.append(graph.add("crop", box))
    if (region.width, region.height) != picture.scaled or frame.format.name != pixels:
        chain.append(graph.add("scale", _scale(info, picture.scaled, pixels)))
    chain.append(graph.add("format", pixels))
    if picture.turn:
        chain.append(graph.add(*_TURNS[picture.turn]))
    chain.append(graph.add("buffersink"))
    graph.link_nodes(*chain).configure()
    return graph


def _scale(info: VideoInfo, size: tuple[int, int], pixels: str) -> str:
    """Arguments of the scale filter: matrix and range stay, RGB becomes BT.709 of limited range."""
    text = f"{size[0]}:{size[1]}:flags={_SCALE_FLAGS}"
    if VideoFormat(info.pix_fmt).is_rgb:
        return text if pixels == "rgb24" else f"{text}:out_color_matrix=bt709:out_range=tv"
    # Any one matrix on both sides: YUV is scaled as it is.
    same = f"in_range={info.color_range}:out_range={info.color_range}"
    return f"{text}:{same}:in_color_matrix=bt709:out_color_matrix=bt709"


def _track(
    writer: OutputContainer,
    info: VideoInfo,
    how: Encode,
    size: tuple[int, int],
    pixels: str,
    step: int,
) -> VideoStream:
    # SVT-AV1 writes its greeting to stderr otherwise.
    os.environ.setdefault("SVT_LOG", "1")
    name = "libx264rgb" if pixels == "rgb24" else _ENCODERS[how.codec]
    rate = ((info.fps or Fraction(25)) / step).limit_denominator(100_000)
    track = writer.add_stream(name, rate=rate, options=_options(how))
    assert isinstance(track, VideoStream)
    context = track.codec_context
    context.width, context.height = size
    context.pix_fmt = pixels
    context.time_base = track.time_base = info.time_base
    context.thread_count = 1
    context.flags |= Flags.bitexact
    if how.codec == "hevc":
        context.codec_tag = "hvc1"  # parameter sets in the header only, as most players want
    if how.codec == "ffv1":
        context.sample_aspect_ratio = info.sar
        if info.rotation:
            track.set_display_rotation(-info.rotation)
        if info.interlaced:
            context.flags |= Flags.interlaced_dct
    rgb_source = VideoFormat(info.pix_fmt).is_rgb
    if pixels == "rgb24":
        return track
    matrix = "bt709" if rgb_source else info.color_matrix
    if matrix not in MATRICES.values():
        # What decoders assume; said aloud, as a smaller picture would be taken for BT.601.
        matrix = "bt709" if info.coded_height >= 720 else "smpte170m"
    context.colorspace = _code(MATRICES, matrix)
    context.color_trc = _code(TRANSFERS, info.color_transfer)
    context.color_primaries = _code(PRIMARIES, info.color_primaries)
    context.color_range = 2 if info.color_range == "pc" and not rgb_source else 1
    return track


def _code(names: dict[int, str], name: str) -> int:
    return next((code for code, known in names.items() if known == name), _UNKNOWN)


def _options(how: Encode) -> dict[str, str]:
    svt, vpx = _PRESETS[how.preset]
    if how.codec == "ffv1":
        return {"qp": "0", "preset": how.preset, "threads": "1"}
    if how.codec == "hevc":
        single = "pools=none:frame-threads=1:log-level=error"
        return {"crf": str(how.crf), "preset": how.preset, "x265-params": single}
    if how.codec == "av1":
        return {"crf": str(how.crf), "preset": str(svt), "svtav1-params": "lp=1"}
    if how.codec == "vp9":
        fixed = {"b": "0", "deadline": "good", "row-mt": "0", "threads": "1"}
        return {"crf": str(how.crf), "cpu-used": str(vpx), **fixed}
    return {"crf": str(how.crf), "preset": how.preset, "threads": "1"}
