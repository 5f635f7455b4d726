"""The sound of a cut clip: packets copied where MP4 holds the codec, else AAC.

Beside its pictures (`Sound`), or as a file of its own (`cut_sound`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer

from vidcurate.errors import CutError, StorageError
from vidcurate.media.mp4 import create_mp4, movie_timescale, muxing_error, trim_edits
from vidcurate.media.open import open_video

MAX_OFFSET = Fraction(20, 1000)
"""Seconds by which the sound of a clip may begin or end off its source's."""

_COPYABLE = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})
# What a decoder needs before its first right sample: 80 ms for Opus (RFC 7845), less for others.
_PREROLL = Fraction(1, 10)
_SEEK_MARGIN = Fraction(1)
_AAC_FRAME = 1024  # samples
_AAC_RATES = (32000, 44100, 48000, 64000, 88200, 96000)


_Timed: TypeAlias = "tuple[av.Packet[AudioStream], Fraction, Fraction]"  # begin and length: seconds


class SoundError(CutError):
    """The sound of a clip cannot be had in this way; the clip is cut in another or without."""


def _time(pts: int | None, time_base: Fraction | None) -> Fraction:
    if pts is None or time_base is None:
        raise SoundError("no time stamps")
    return pts * time_base


class Sound:
    """The sound of one interval of a file, to be muxed beside the clip's pictures.

    Args:
        source: the file.
        start, end: the interval in seconds on the file's own clock.
        copy: copy packets; else decode them and encode AAC.

    `begin` and `finish` are the seconds of the clip that its sound covers, known after `attach`.
    """

    def __init__(self, source: Path, start: Fraction, end: Fraction, *, copy: bool) -> None:
        self.start = start
        self.end = end
        self.copy = copy
        self.begin = self.finish = Fraction(0)
        self._source = open_video(source)
        self._packets: deque[av.Packet[AudioStream]] = deque()

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.close()

    def attach(self, container: OutputContainer) -> None:
        """Add a track to the container and prepare its packets (they fit in memory).

        Raises:
            SoundError: no sound in the interval, a codec that MP4 cannot hold, packets too long to
                meet the clip's end, or damaged sound. The container is as it was.
        """
        stream = next((s for s in self._source.streams.audio if s.codec_context), None)
        if stream is None:
            raise SoundError("no decoder for it")
        try:
            packets = list(self._demux(stream))
            # Decoded here to learn of damage now and not in the training run.
            for packet, _, _ in packets:
                stream.codec_context.decode(packet)
            if self.copy:
                self._copy(container, stream, packets)
            else:
                self._encode(container, stream, packets)
        except av.FFmpegError as error:
            raise SoundError(f"damaged ({error.strerror})") from error
        if not self._packets:
            raise SoundError("none in this interval")

    def mux_until(self, container: OutputContainer, time: Fraction | None) -> None:
        """Mux the packets up to this time of the clip in seconds; None muxes all."""
        while self._packets:
            packet = self._packets[0]
            if time is not None and _time(packet.dts, packet.time_base) > time:
                return
            container.mux(self._packets.popleft())

    def check(self, path: Path) -> None:
        """Decode the sound of the clip at `path` and see that it covers what it must.

        Raises:
            SoundError: damaged, or more than 20 ms off at an end.
        """
        begin, finish = heard(path)
        if abs(begin - self.begin) > MAX_OFFSET or abs(finish - self.finish) > MAX_OFFSET:
            raise SoundError(
                f"heard from {float(begin):.3f} to {float(finish):.3f} s instead of "
                f"{float(self.begin):.3f} to {float(self.finish):.3f} s"
            )

    def _demux(self, stream: AudioStream) -> Iterator[_Timed]:
        """Packets that touch the interval, preroll included, with begin and length in seconds."""
        target = max(self.start - _SEEK_MARGIN, Fraction(0))
        with contextlib.suppress(av.FFmpegError):  # no index: read from the beginning
            self._source.seek(int(target / _time(1, stream.time_base)), stream=stream)
        for packet in self._source.demux(stream):
            if packet.size == 0:
                continue
            begin = _time(packet.pts, packet.time_base)
            length = (packet.duration or 0) * packet.time_base
            if begin >= self.end:
                return
            if begin + length > self.start - _PREROLL:
                yield packet, begin, length

    def _copy(self, container: OutputContainer, stream: AudioStream, packets: list[_Timed]) -> None:
        codec = stream.codec_context.codec.canonical_name
        if codec not in _COPYABLE:
            raise SoundError(f"MP4 cannot hold {codec}")
        # The edit list cuts the first packet to the sample, but players play the last one to its
        # end: it is taken when more than half of it is wanted.
        while packets and packets[-1][1] + packets[-1][2] / 2 > self.end:
            packets.pop()
        longest = max((length for _, _, length in packets), default=Fraction(0))
        if longest / 2 > MAX_OFFSET:
            raise SoundError(f"packets of {float(longest):.3f} s cannot meet the clip's end")
        covered = [(b, b + length) for _, b, length in packets if b + length > self.start]
        if not covered:
            return
        track = container.add_stream_from_template(stream, opaque=True)
        for packet, _, _ in packets:
            assert packet.pts is not None
            packet.pts -= round(self.start / packet.time_base)
            packet.dts = packet.pts
            packet.stream = track
            self._packets.append(packet)
        self.begin = max(covered[0][0] - self.start, Fraction(0))
        self.finish = min(covered[-1][1], self.end) - self.start

    def _encode(
        self, container: OutputContainer, stream: AudioStream, packets: list[_Timed]
    ) -> None:
        context = stream.codec_context
        context.flush_buffers()
        # Its frames are too long below 32 kHz.
        rate = context.rate if context.rate in _AAC_RATES else 48000
        layout = "mono" if context.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        total = int((self.end - self.start) * rate)
        track = container.add_stream("aac", rate=rate, layout=layout)
        track.codec_context.flags |= Flags.bitexact
        position: int | None = None  # samples of the clip written so far
        for packet, _, _ in packets:
            for decoded in context.decode(packet):
                for frame in resampler.resample(decoded):
                    position = self._append(track, frame, total, position)
        if position is not None:
            self._packets.extend(track.encode(None))
            while self._packets and (self._packets[-1].pts or 0) + _AAC_FRAME / 2 > position:
                self._packets.pop()  # padding for the most part
            self.finish = Fraction(position, rate)

    def _append(
        self,
        track: AudioStream,
        frame: AudioFrame,
        total: int,
        position: int | None,
    ) -> int | None:
        """Encode those samples of the frame that lie inside the clip; the new position."""
        rate = frame.sample_rate
        samples = frame.to_ndarray().astype(np.float32, copy=False)
        first = round((_time(frame.pts, frame.time_base) - self.start) * rate)
        if position is None:
            if first + samples.shape[1] <= 0:
                return None
            position = max(first, 0)
            self.begin = Fraction(position, rate)
        elif abs(first - position) <= MAX_OFFSET * rate / 2:
            first = position  # rounded time stamps, not a gap
        if first > position:  # a gap in the source stays silent
            silence = np.zeros((samples.shape[0], first - position), samples.dtype)
            samples = np.concatenate([silence, samples], axis=1)
            first = position
        samples = samples[:, position - first : max(total - first, 0)]
        if samples.shape[1] == 0:
            return position
        piece = AudioFrame.from_ndarray(
            np.ascontiguousarray(samples), format="fltp", layout=frame.layout.name
        )
        piece.sample_rate, piece.pts, piece.time_base = rate, position, Fraction(1, rate)
        self._packets.extend(track.encode(piece))
        return position + int(samples.shape[1])


def cut_sound(source: Path, start: Fraction, end: Fraction, out: Path, time_base: Fraction) -> str:
    """Write the sound of an interval into an MP4 file (`.m4a`) without pictures.

    Its time 0 is the interval's start, and it begins and ends within 20 ms of the interval, or of
    the source's own sound in it. Packets are copied where MP4 holds the codec and they meet the
    end, else the sound is AAC. The same interval is the same bytes.

    Args:
        source: the file. start, end: the interval in seconds on the file's own clock.
        out: the file to write; one that exists is replaced.
        time_base: of the pictures that the interval was cut by: its length is exact in it.

    Returns:
        why the packets were not copied, "" if they were.

    Raises:
        SoundError: no sound there, or damaged sound. `out` is not there then.
        StorageError: the disk is full.
    """
    note = ""
    try:
        try:
            _write(source, start, end, out, time_base, copy=True)
        except SoundError as error:
            note = f"sound not copied: {error}"
            _write(source, start, end, out, time_base, copy=False)
    except SoundError:
        out.unlink(missing_ok=True)
        raise
    return note


def _write(
    source: Path, start: Fraction, end: Fraction, out: Path, time_base: Fraction, *, copy: bool
) -> None:
    with Sound(source, start, end, copy=copy) as sound:
        try:
            with create_mp4(out, time_base) as writer:
                sound.attach(writer)
                sound.mux_until(writer, None)
        except av.FFmpegError as error:
            wrong = muxing_error(out, "it cannot be written as MP4", error)
            raise (wrong if isinstance(wrong, StorageError) else SoundError(str(wrong))) from error
        trim_edits(out, int((end - start) * movie_timescale(time_base)))
        sound.check(out)


def heard(path: Path) -> tuple[Fraction, Fraction]:
    """Seconds at which the sound of a file begins and ends when it is decoded.

    Raises:
        SoundError: it does not decode, or there is none.
    """
    begin: Fraction | None = None
    end = Fraction(0)
    try:
        with open_video(path) as container:
            for frame in container.decode(container.streams.audio[0]):
                at = _time(frame.pts, frame.time_base)
                begin = at if begin is None else begin
                end = at + Fraction(frame.samples, frame.sample_rate)
    except av.FFmpegError as error:
        raise SoundError(f"damaged ({error.strerror})") from error
    if begin is None:
        raise SoundError("nothing to hear")
    return begin, end
