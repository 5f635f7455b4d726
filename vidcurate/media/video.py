"""What is known of a video before its frames are decoded, and a box inside its picture."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True)
class Box:
    """A rectangle in display pixels of the source: rotation and SAR applied, origin top left."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class VideoInfo:
    """The probe of one video file. All of it comes from the bytes, never from the file name.

    `width`, `height` are of the picture as displayed: rotation and sample aspect ratio (SAR)
    applied, the longer way round that loses no pixels. `coded_width`, `coded_height` are what
    the decoder returns. Times are seconds; `start_pts` is the pts of the first decodable video
    frame in units of `time_base`, and `container_start` the container's own start in seconds.
    `fps` is the average that the container states (frame counts are never taken from it).
    """

    path: Path
    container: str
    codec: str
    profile: str
    pix_fmt: str
    bit_depth: int
    coded_width: int
    coded_height: int
    width: int
    height: int
    sar: Fraction
    rotation: int  # clockwise degrees that display applies: 0, 90, 180 or 270
    fps: Fraction
    time_base: Fraction
    start_pts: int
    container_start: float
    duration: float  # seconds, as the container states it; 0.0 where it states none
    bitrate: int  # bits per second of the video stream; of the whole file where unknown
    size_bytes: int
    interlaced: bool  # as the stream's header says; single frames can differ
    color_matrix: str  # FFmpeg's names: "bt709", "smpte170m", "bt2020nc", "unknown", ...
    color_range: str  # "tv" or "pc"
    color_transfer: str
    color_primaries: str
    has_audio: bool
    audio_codec: str  # "" without audio
    audio_rate: int  # Hz, 0 without audio
    audio_channels: int

    @property
    def is_hdr(self) -> bool:
        """True for the PQ (SMPTE ST 2084) and HLG (ARIB STD-B67) transfer functions."""
        return self.color_transfer in ("smpte2084", "arib-std-b67")

    @property
    def short_side(self) -> int:
        """The shorter side of the displayed picture in pixels."""
        return min(self.width, self.height)

    @property
    def aspect(self) -> float:
        """Width over height of the displayed picture."""
        return self.width / self.height
