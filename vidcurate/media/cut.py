"""Cutting clips out of a video: exactly the wanted frames, by copying packets where possible.

A copied clip begins at the key frame before its first frame: time stamps are shifted so that
the first wanted frame is at 0, and the MP4 edit list hides what lies before and after. Every
copy is decoded and compared with the source, frame by frame: a copy costs a fraction of an
encode, its check two decodes, and only the comparison of all frames finds an open GOP, an
intra refresh or a damaged reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream

from vidcurate.errors import CutError
from vidcurate.media.decode import uses_dts
from vidcurate.media.encode import encode_clip
from vidcurate.media.mp4 import create_mp4, movie_timescale, muxing_error, trim_edits
from vidcurate.media.open import open_video, video_stream
from vidcurate.media.sound import Sound, SoundError
from vidcurate.media.video import Box, VideoInfo
from vidcurate.recipe.model import Encode

SoundMode = Literal["copy", "encode", "none"]
_Packets: TypeAlias = "Iterator[av.Packet[VideoStream]]"

_COPYABLE = frozenset({"av1", "h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp9"})
_REORDERED = 20  # packets: more than any codec reorders (16 in H.264 and HEVC)
_SEEK_BACK = (0, 1, 4, 16, 64)  # seconds
# NAL unit types of pictures that reset the decoder: IDR in H.264 (ITU-T H.264 table 7-1), BLA and
# IDR in HEVC (H.265 table 7-1; a CRA picture, 21, may be followed by undecodable ones).
_CLOSED_H264 = frozenset({5})
_CLOSED_HEVC = frozenset(range(16, 21))


@dataclass(frozen=True)
class Cut:
    """One clip as a file.

    n_frames: frames that a player shows. preroll_frames: frames before them in the file that its
        edit list hides (readers that ignore edit lists skip these).
    width, height: pixels as displayed: rotation and SAR applied.
    fps_num, fps_den: average rate of the shown frames. duration_s: seconds, the last frame's
        own duration included.
    copied: the packets are the source's own. note: what went another way, "" if nothing did.
    """

    path: Path
    n_frames: int
    preroll_frames: int
    width: int
    height: int
    fps_num: int
    fps_den: int
    vfr: bool
    duration_s: float
    has_audio: bool
    copied: bool
    note: str = ""


def cut_clip(
    info: VideoInfo,
    start_pts: int,
    end_pts: int,
    n_frames: int,
    out: Path,
    *,
    audio: bool,
    crop: Box | None = None,
    size: tuple[int, int] | None = None,
    encode: Encode | None = None,
    fallback: Encode | None = None,
    frame_step: int = 1,
) -> Cut:
    """Cut the frames with start_pts <= pts < end_pts (stream time base) into an MP4 file.

    Packets are copied where the picture stays: no crop, no other size, all frames, and no other
    codec asked for. A copy that does not decode to exactly the source's frames is replaced by an
    encode from the source, so there is at most one lossy step.

    Args:
        info: the probe of the source file, which is read at `info.path`.
        n_frames: frames that the interval is known to have.
        out: the file to write; one that exists is replaced.
        audio: keep the sound, within 20 ms at both ends; damaged sound is left out and noted.
        crop: keep this box of the displayed picture. size: (width, height) of the file's picture,
            scaled to cover it and cut about the centre.
        encode: how to encode where the picture changes; a source of another codec is encoded too.
        fallback: how to encode where nothing is to change but a copy is impossible; default
            `encode`, else Encode().
        frame_step: the file has the first frame and every such one after it, at their own times:
            ceil(n_frames / frame_step) frames at that part of the rate. Sound and duration stay.

    Raises:
        CutError: neither way gives exactly the source's frames.
        StorageError: the disk is full.
        DecodeError: the source cannot be decoded there.
    """
    assert start_pts < end_pts
    assert n_frames > 0
    stays = crop in (None, Box(0, 0, info.width, info.height))
    stays = stays and size in (None, (info.width, info.height)) and frame_step == 1
    if encode is not None:
        # A size was asked for: a copy must have it in its pixels, not by its header.
        plain = info.sar == 1 and info.rotation == 0 and not info.interlaced
        stays = stays and plain and encode.codec == info.codec
    note = ""
    if stays:
        try:
            cut = _with_sound(
                audio and info.has_audio,
                lambda sound: copy_clip(info, start_pts, end_pts, out, sound=sound),
            )
            verify(cut, info, start_pts, end_pts, n_frames)
        except CutError as error:
            note = f"not copied: {error}"
        else:
            return cut
    how = (None if stays else encode) or fallback or encode or Encode()

    def encoded(sound: SoundMode) -> Cut:
        made = encode_clip(
            info,
            start_pts,
            end_pts,
            out,
            how=how,
            crop=crop,
            size=size,
            sound=sound,
            frame_step=frame_step,
        )
        if made.n_source != n_frames:
            out.unlink()
            raise CutError(
                f"the interval has {n_frames} frames by the clip table, but {made.n_source} decode "
                "now; has the file changed? Score it again"
            )
        length = end_pts - start_pts
        fps = info.fps / frame_step if info.fps else None
        return _cut(info, out, made.times, length, made.size, fps=fps, sound=sound, copied=False)

    cut = _with_sound(audio and info.has_audio, encoded)
    return replace(cut, note="; ".join(filter(None, (note, cut.note))))


def copy_clip(
    info: VideoInfo, start_pts: int, end_pts: int, out: Path, *, sound: SoundMode = "none"
) -> Cut:
    """Copy the packets of the frames with start_pts <= pts < end_pts into an MP4 file.

    What is copied may still decode wrongly (an open GOP, damage): see `verify`. Colour tags, SAR
    and rotation stay. Pts are in the time base of the source's video stream.

    Raises:
        StorageError: the disk is full.
        CutError: MP4 cannot hold the codec, there is no key frame before the start, or packets
            have no time stamps. The file may be half-written.
        SoundError: the sound cannot be had in this way.
    """
    base = info.time_base
    if info.codec not in _COPYABLE:
        raise CutError(f"MP4 cannot hold {info.codec}")
    times: list[int] = []
    preroll = 0
    with ExitStack() as stack:
        reader = stack.enter_context(open_video(info.path))
        stream = video_stream(reader, info.path)
        track_sound = None
        if sound != "none":
            track_sound = stack.enter_context(
                Sound(info.path, start_pts * base, end_pts * base, copy=sound == "copy")
            )
        try:
            with create_mp4(out, base) as writer:
                track = writer.add_stream_from_template(stream, opaque=True)
                track.codec_context.sample_aspect_ratio = info.sar
                if track_sound is not None:
                    track_sound.attach(writer)
                key: int | None = None
                for packet in _wanted(reader, stream, start_pts, end_pts):
                    pts, dts = _pts(packet), packet.dts
                    assert dts is not None
                    key = pts if key is None else key
                    # Leading pictures of an open GOP, before their key frame, never decode.
                    preroll += key <= pts < start_pts
                    if start_pts <= pts < end_pts:
                        times.append(pts - start_pts)
                    packet.pts, packet.dts = pts - start_pts, dts - start_pts
                    packet.stream = track
                    if track_sound is not None:
                        track_sound.mux_until(writer, packet.dts * base)
                    writer.mux(packet)
                if track_sound is not None:
                    track_sound.mux_until(writer, None)
        except av.FFmpegError as error:
            raise muxing_error(out, "its packets cannot be written as MP4", error) from error
        trim_edits(out, int((end_pts - start_pts) * base * movie_timescale(base)))
        if track_sound is not None:
            track_sound.check(out)
    size = (info.width, info.height)
    length = end_pts - start_pts
    cut = _cut(info, out, sorted(times), length, size, fps=info.fps, sound=sound, copied=True)
    return replace(cut, preroll_frames=preroll)


def verify(cut: Cut, info: VideoInfo, start_pts: int, end_pts: int, n_frames: int) -> None:
    """Decode the clip and the source's interval side by side; all frames must be equal.

    Count, time stamps (exactly, as fractions) and every sample of every plane are compared. The
    source is decoded from a key frame that resets the decoder, or from one key frame earlier than
    the copy begins: from the same open one, both would be wrong alike.

    Raises:
        CutError: naming the first difference.
    """
    with open_video(cut.path) as clip, open_video(info.path) as source:
        track = clip.streams.video[0]
        shown = _decoded(_video(clip, track), strict=True)
        base = track.time_base
        assert base is not None
        stream = video_stream(source, info.path)
        wanted = _source_frames(source, stream, start_pts, end_pts)
        count = 0
        for ours, theirs in zip_longest(shown, wanted):
            if ours is None or theirs is None:
                more = "more" if theirs is None else "fewer"
                raise CutError(f"the copy shows {more} frames than the source has there")
            assert ours.pts is not None
            assert theirs.pts is not None
            if ours.pts * base != (theirs.pts - start_pts) * info.time_base:
                raise CutError(f"frame {count} of the copy is shown at another time")
            if not _same_picture(ours, theirs):
                raise CutError(f"frame {count} of the copy differs from the source's")
            count += 1
    if count != n_frames:
        raise CutError(f"the source decodes to {count} frames there, not {n_frames}")


def _with_sound(audio: bool, make: Callable[[SoundMode], Cut]) -> Cut:
    """The clip with its sound copied, else encoded, else without it and saying why."""
    if not audio:
        return make("none")
    try:
        return make("copy")
    except SoundError as error:
        note = f"sound not copied: {error}"
    try:
        return replace(make("encode"), note=note)
    except SoundError as error:
        return replace(make("none"), note=f"without sound: {error}")


def _cut(
    info: VideoInfo,
    out: Path,
    times: Sequence[int],
    length: int,
    size: tuple[int, int],
    *,
    fps: Fraction | None,
    sound: SoundMode,
    copied: bool,
) -> Cut:
    """A Cut from the pts of its frames, which count from its start in the source's time base.

    fps: the rate by the source's header; it goes before the measured one where they agree.
    """
    if not times:
        raise CutError("no frame in the interval")
    base = info.time_base
    steps = len(times) - 1
    mean = Fraction(times[-1] - times[0], steps) if steps else Fraction(length)
    # Containers round time stamps to their own tick, Matroska's and WebM's is 1 ms.
    vfr = any(abs(t - times[0] - i * mean) > 1 for i, t in enumerate(times))
    rate = 1 / (mean * base)
    if fps and abs(fps / rate - 1) < Fraction(1, max(steps, 1)) and not vfr:
        rate = fps
    rate = rate.limit_denominator(100_000)
    return Cut(
        path=out,
        n_frames=len(times),
        preroll_frames=0,
        width=size[0],
        height=size[1],
        fps_num=rate.numerator,
        fps_den=rate.denominator,
        vfr=vfr,
        duration_s=float(length * base),
        has_audio=sound != "none",
        copied=copied,
    )


def _pts(packet: av.Packet[VideoStream]) -> int:
    if packet.pts is None:
        raise CutError("packets without time stamps")
    if packet.pts != packet.dts and uses_dts(packet.stream.container.format.name):
        raise CutError("the container does not say when frames are shown")
    return packet.pts


def _with_dts(packets: _Packets) -> _Packets:
    """The packets, with dts that rise.

    Matroska stores none: FFmpeg derives them from the pts of packets before, so the first ones
    after a seek have none or wrong ones. They are set a step each before the first good one.
    """
    first = list(islice(packets, _REORDERED))
    following: int | None = None
    for packet in reversed(first):
        if following is not None and (packet.dts is None or packet.dts >= following):
            packet.dts = following - max(packet.duration or 1, 1)
        following = packet.dts if packet.dts is not None else following
    for packet in chain(first, packets):
        if packet.dts is None:
            raise CutError("packets without time stamps")
        yield packet


def _wanted(reader: InputContainer, stream: VideoStream, start_pts: int, end_pts: int) -> _Packets:
    """The packets from the last key frame at or before the start to the last one needed.

    Packets that follow the last wanted frame in decode order are left out.
    """
    held: list[av.Packet[VideoStream]] = []
    begun = False  # no later key frame can be at or before the start
    for packet in _with_dts(_from_key(reader, stream, start_pts)):
        pts, dts = _pts(packet), packet.dts
        assert dts is not None
        if dts >= end_pts:
            break
        if not begun and packet.is_keyframe and pts <= start_pts:
            held.clear()
        held.append(packet)
        begun = begun or dts > start_pts
        if begun and pts < end_pts:
            yield from held
            held.clear()
    while held and _pts(held[-1]) >= end_pts:
        held.pop()
    yield from held


def _from_key(reader: InputContainer, stream: VideoStream, pts: int) -> _Packets:
    """The stream's packets from a key frame on whose pts is at most `pts`, not far before it.

    Raises:
        CutError: there is no such key frame.
    """
    base = stream.time_base
    assert base is not None
    for back in _SEEK_BACK:
        first = _seek(reader, stream, pts - int(back / base))
        if first is not None and first.is_keyframe and _pts(first) <= pts:
            return chain([first], _video(reader, stream))
    first = _seek(reader, stream, None)
    if first is None or _pts(first) > pts:
        raise CutError("no key frame before the start")
    return chain([first], _video(reader, stream))


def _seek(
    reader: InputContainer, stream: VideoStream, pts: int | None
) -> av.Packet[VideoStream] | None:
    """Seek back from pts (None: to the beginning); the first packet found there."""
    try:
        if pts is None:
            reader.seek(0)
        else:
            reader.seek(pts, stream=stream)
    except av.FFmpegError:
        return None
    return next(_video(reader, stream), None)


def _video(reader: InputContainer, stream: VideoStream) -> _Packets:
    return (p for p in reader.demux(stream) if p.size)


def _source_frames(
    reader: InputContainer, stream: VideoStream, start_pts: int, end_pts: int
) -> Iterator[VideoFrame]:
    """The source's frames of the interval, decoded as if from the stream's beginning."""
    packets = _from_key(reader, stream, start_pts)
    first = next(packets)
    if not _is_closed(first, stream):
        before = max(_pts(first) - 1, 0)
        try:
            packets = _from_key(reader, stream, before)
            first = next(packets)
        except CutError:  # it is the stream's first key frame
            packets = _from_key(reader, stream, start_pts)
            first = next(packets)
    for frame in _decoded(chain([first], packets), strict=False):
        if frame.pts is None or frame.pts < start_pts:
            continue
        if frame.pts >= end_pts:
            return
        yield frame


def _decoded(packets: _Packets, *, strict: bool) -> Iterator[VideoFrame]:
    """Decode packets; a damaged one is an error if strict, else it is skipped as in scoring."""
    context: Any = None
    for packet in packets:
        context = packet.stream.codec_context
        try:
            yield from context.decode(packet)
        except av.FFmpegError as error:
            if strict:
                raise CutError(f"the copy does not decode ({error.strerror})") from error
    if context is not None:
        yield from context.decode(None)


def _is_closed(packet: av.Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a decoder that starts at this key frame shows all that follows it rightly."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in ("h264", "hevc"):
        return True
    data, extra = bytes(packet), stream.codec_context.extradata or b""
    if extra[:1] == b"\x01":  # avcC and hvcC: NAL units with their length before them
        width = (extra[4 if codec == "h264" else 21] & 3) + 1
        heads, place = [], 0
        while place + width < len(data):
            heads.append(data[place + width])
            place += width + int.from_bytes(data[place : place + width], "big")
    else:  # a byte stream with start codes
        heads = [unit[0] for unit in data.split(b"\x00\x00\x01")[1:] if unit]
    if codec == "h264":
        return any(head & 31 in _CLOSED_H264 for head in heads)
    return any(head >> 1 & 63 in _CLOSED_HEVC for head in heads)


def _same_picture(one: VideoFrame, other: VideoFrame) -> bool:
    """Whether two decoded frames are equal bit for bit, padding aside."""
    if (one.width, one.height, one.format.name) != (other.width, other.height, other.format.name):
        return False
    wide = 2 if max(c.bits for c in one.format.components) > 8 else 1
    return all(
        np.array_equal(_samples(a, wide), _samples(b, wide))
        for a, b in zip(one.planes, other.planes, strict=True)
    )


def _samples(plane: VideoPlane, wide: int) -> np.typing.NDArray[np.uint8]:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width * wide]
