"""A whole video file as an index of shards describes it: its frames, rate, size and sound."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vidcurate.errors import DecodeError
from vidcurate.media.decode import Decoder
from vidcurate.media.open import open_video, video_stream
from vidcurate.media.packet_scan import PacketScan
from vidcurate.media.probe import probe
from vidcurate.media.video import VideoInfo

# Where each packet is one shown frame. Not so in others: VP8 has packets that show nothing, MPEG-4
# too; in transport streams a packet can be a part of one.
_PACKET_A_FRAME = frozenset({"av1", "h264", "hevc", "vp9"})
_CONTAINERS = ("mov,mp4", "matroska")


@dataclass(frozen=True)
class WholeFile:
    """What is known of a file all of whose frames are counted; the terms are those of `Cut`.

    n_frames: frames that a player shows. preroll_frames: those before them that the file's edit
        list hides. width, height: pixels as displayed. fps_num, fps_den: average rate of the shown
        frames. duration_s: seconds, the last frame's own duration included.
    """

    n_frames: int
    preroll_frames: int
    width: int
    height: int
    fps_num: int
    fps_den: int
    vfr: bool
    duration_s: float
    has_audio: bool


def whole_file(
    path: Path, *, max_pixels: int, max_duration: float
) -> Generator[None, None, WholeFile]:
    """Count a file's frames; a generator, as decoding can take long: its value is the result.

    Frames are counted by their packets (H.264, HEVC, VP9 and AV1 in MP4, Matroska and WebM) or by
    decoding all of them (the rest, interlaced video too), never taken from the header; the first
    one is decoded in any case. Counted by packets, a frame that is damaged counts.

    Args:
        path, max_pixels, max_duration: as of `probe`.

    Yields:
        None, now and then, as a sign of life.

    Raises:
        DataError: the file cannot be opened or decoded (see `probe` and `Decoder`).
    """
    info = probe(path, max_pixels=max_pixels, max_duration=max_duration)
    times: list[int] = []
    end = 0
    if _by_packets(info):
        for shot in PacketScan(info).shots():
            times.append(shot.pts)
            end = shot.end_pts
    else:
        with Decoder(info) as decoder:
            for decoded in decoder.frames():
                times.append(decoded.pts)
                end = decoded.end_pts
                yield None
    if not times:
        raise DecodeError(f"{path}: not a single frame is shown")
    rate, vfr = _rate(info, times, end)
    return WholeFile(
        n_frames=len(times),
        preroll_frames=_hidden(info),
        width=info.width,
        height=info.height,
        fps_num=rate.numerator,
        fps_den=rate.denominator,
        vfr=vfr,
        duration_s=float((end - times[0]) * info.time_base),
        has_audio=info.has_audio,
    )


def _by_packets(info: VideoInfo) -> bool:
    return (
        info.codec in _PACKET_A_FRAME
        and info.container.startswith(_CONTAINERS)
        and not info.interlaced
    )


def _rate(info: VideoInfo, times: list[int], end: int) -> tuple[Fraction, bool]:
    """The average rate of frames at these pts, and whether they are uneven; as of a `Cut`."""
    steps = len(times) - 1
    mean = Fraction(times[-1] - times[0], steps) if steps else Fraction(max(1, end - times[0]))
    # Containers round time stamps to their own tick, Matroska's and WebM's is 1 ms.
    vfr = any(abs(t - times[0] - i * mean) > 1 for i, t in enumerate(times))
    rate = 1 / (mean * info.time_base)
    if info.fps and abs(info.fps / rate - 1) < Fraction(1, max(steps, 1)) and not vfr:
        rate = info.fps
    return rate.limit_denominator(100_000), vfr


def _hidden(info: VideoInfo) -> int:
    """Frames of an MP4 before the first that its edit list shows, as decoders see that ignore it.

    The first shown frame is known again by its place in the file.
    """
    if not info.container.startswith("mov,mp4"):
        return 0
    first: tuple[int, int | None] | None = None
    with open_video(info.path) as container:
        for packet in container.demux(video_stream(container, info.path)):
            if packet.pts is None or packet.is_discard or packet.pts < info.start_pts:
                continue
            if first is None or packet.pts < first[0]:
                first = packet.pts, packet.pos
    entry: int | None = None
    begin: int | None = None
    times: list[int] = []
    with open_video(info.path, edits=False) as container:
        for packet in container.demux(video_stream(container, info.path)):
            if packet.pts is None:
                continue
            entry = packet.pts if entry is None else entry
            times.append(packet.pts)
            if first is not None and packet.pos == first[1]:
                begin = packet.pts
    if begin is None or entry is None:
        return 0
    # Leading pictures of an open GOP at the file's start never decode.
    return sum(entry <= time < begin for time in times)
