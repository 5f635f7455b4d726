"""The sound of an interval of a video, as samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from vidcurate.errors import DecodeError, UnsupportedMediaError
from vidcurate.media.decode import SEEKABLE
from vidcurate.media.open import open_video, video_stream
from vidcurate.media.video import VideoInfo

Samples = npt.NDArray[np.float32]

# Seconds that a seek aims ahead of the start, one after the other: sound may be stored well
# before the picture that is shown with it.
_MARGINS = (0.0, 2.0, 10.0)
_PREROLL = 0.15  # s; a decoder of sound is in tune after a few packets
_AHEAD = 0.05  # s; the resampler's filter looks at what follows
_JITTER = 0.04  # s; containers round the times of packets: a step below this is no gap


def read_audio(info: VideoInfo, start: float, end: float, rate: int) -> Samples | None:
    """The sound from `start` to `end`, all channels mixed into one by their mean.

    Args:
        info: the video's probe.
        start, end: seconds of source time (0 is the first decodable frame of the picture).
        rate: samples a second to give.

    Returns:
        float32 (round((end - start) * rate),), -1 to 1: silence where the track begins later, ends
        earlier, has a gap or is damaged. None where the video has no sound track.

    Raises:
        UnsupportedMediaError: FFmpeg has no decoder for the sound.
        DecodeError: there is sound, and none of it can be decoded.
        AcquireError, RefusedMediaError, MissingSectionError: see `open_video`.
    """
    if not info.has_audio:
        return None
    zero = info.start_pts * info.time_base
    return interval(lambda: open_video(info.path), info.path, zero, start, end - start, rate)


def interval(
    open_file: Callable[[], InputContainer],
    name: Path | str,
    zero: Fraction,
    start: float,
    seconds: float,
    rate: int,
) -> Samples:
    """What `read_audio` gives of that many seconds, from any file that has a sound track.

    Args:
        open_file: opens the file. name: of it, for messages.
        zero: seconds at which source time begins, on the file's own clock.
    """
    reading = _Reading(open_file, name, zero, start, seconds, rate)
    try:
        return reading.samples()
    finally:
        reading.container.close()


class _Reading:
    """One interval on its way from packets to samples."""

    def __init__(
        self,
        open_file: Callable[[], InputContainer],
        name: Path | str,
        zero: Fraction,
        start: float,
        seconds: float,
        rate: int,
    ) -> None:
        self.start, self.end, self.rate = start, start + seconds, rate
        self._count = round(seconds * rate)
        self.fault = ""
        self._open_file, self._name, self._zero = open_file, name, zero
        self._open()

    def _open(self) -> None:
        self.container: InputContainer = self._open_file()
        stream = next((s for s in self.container.streams.audio if s.codec_context), None)
        if stream is None:
            self.container.close()
            raise UnsupportedMediaError(
                f"{self._name}: no decoder for the sound track; convert the file, or leave out "
                "the steps that listen to it"
            )
        self.stream: AudioStream = stream

    def samples(self) -> Samples:
        """The interval's samples; raises as `read_audio` does."""
        found = np.zeros(self._count, np.float32)
        heard = False
        for time, block in self._blocks():
            heard = True
            at = round((time - self.start) * self.rate)
            low, high = max(at, 0), min(at + len(block), len(found))
            if low < high:
                found[low:high] = block[low - at : high - at]
        if not heard and self.fault:
            raise DecodeError(
                f"{self._name}: no sound between {self.start:.2f} and {self.end:.2f} s can be "
                f"decoded: {self.fault}"
            )
        return np.clip(found, -1, 1, out=found)

    def _blocks(self) -> Iterator[tuple[float, Samples]]:
        """Mono samples at the wanted rate, each block with the source time of its first.

        Sound without a gap is resampled as one, and its blocks follow each other exactly.
        """
        resampler: AudioResampler | None = None
        kind: tuple[str, str, int] | None = None
        begin, done, after = 0.0, 0, -math.inf
        for time, frame in self._frames():
            own = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or own != kind or abs(time - after) > _JITTER:
                if resampler is not None:
                    yield begin + done / self.rate, _mono(resampler.resample(None))
                # All channels are kept: FFmpeg's own mix is louder than their mean.
                resampler = AudioResampler("flt", frame.layout, self.rate)
                kind, begin, done, after = own, time, 0, time
            block = _mono(resampler.resample(frame))
            yield begin + done / self.rate, block
            done += len(block)
            after += frame.samples / frame.sample_rate
        if resampler is not None:
            yield begin + done / self.rate, _mono(resampler.resample(None))

    def _frames(self) -> Iterator[tuple[float, AudioFrame]]:
        """Decoded frames from a little before the start to just past the end, with their times."""
        for seeked in self._entries():
            landed = not seeked
            for time, frame in self._timed():
                if not landed and time > self.start - _PREROLL:
                    break  # too late, or the track begins here: look further back
                landed = True
                if time >= self.end + _AHEAD:
                    return
                if time >= self.start - 2 * _PREROLL:
                    yield time, frame
            if landed:
                return

    def _entries(self) -> Iterator[bool]:
        """Go to one place after the other where reading may begin; False at the beginning."""
        if self.start > _PREROLL and self.container.format.name.startswith(SEEKABLE):
            for margin in _MARGINS:
                ahead = self.start - _PREROLL - margin
                if ahead > 0 and self._seek(ahead):
                    yield True
            self.container.close()
            self._open()  # seeking to the beginning can fail
        yield False

    def _seek(self, time: float) -> bool:
        """Go to the key frame at or before a time: of the picture, as that is what is indexed."""
        stream: AudioStream | VideoStream
        try:
            stream = video_stream(self.container, self._name)
        except UnsupportedMediaError:  # sound alone
            stream = self.stream
        assert stream.time_base is not None
        pts = math.floor((Fraction(time) + self._zero) / stream.time_base)
        try:
            self.container.seek(pts, stream=stream)
        except av.FFmpegError:
            return False
        return True

    def _timed(self) -> Iterator[tuple[float, AudioFrame]]:
        """Decoded frames from where reading stands, with the source time of their beginning."""
        packets = self.container.demux(self.stream)
        zero = float(self._zero)
        after = -math.inf
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.FFmpegError as error:
                # A broken packet is passed over; a broken container ends the packets.
                self.fault = error.strerror or type(error).__name__
                continue
            for frame in frames:
                time = after if frame.time is None else frame.time - zero
                if math.isfinite(time):
                    after = time + frame.samples / frame.sample_rate
                    yield time, frame


def _mono(frames: list[AudioFrame]) -> Samples:
    """Packed frames one after the other, their channels averaged.

    Packed, as PyAV reads beyond a planar frame's memory where it has more than 8 channels.
    """
    blocks = []
    for frame in frames:
        samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
        blocks.append(samples.mean(axis=1, dtype=np.float32))
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)
