"""The video packets of a clip in memory: which frames it shows and when, nothing decoded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"

# Where each packet is one frame. VP8 and MPEG-4 have packets that show nothing; in transport
# streams a packet can be a part of a frame.
_PACKET_A_FRAME = frozenset({"av1", "h264", "hevc", "vp9"})
_CONTAINERS = ("mov,mp4", "matroska")


@dataclass(frozen=True)
class ClipPackets:
    """Packets in decode order, from the file's first on.

    times: the pts of the shown frames among them, sorted; what an edit list hides and what stands
        before the first key frame is not shown.
    hidden: frames before the first shown one that a reader sees which ignores edit lists.
    fault: what ended the reading, if it was an error; else "".
    """

    packets: list[VideoPacket]
    times: list[int]
    hidden: int
    fault: str

    @classmethod
    def read(
        cls, container: InputContainer, stream: VideoStream, last: int | None
    ) -> ClipPackets | None:
        """Read the packets up to those of shown frame number `last` (None: all).

        None where packets do not tell the frames: by the codec, the container, or as times are
        missing or given twice.
        """
        if not container.format.name.startswith(_CONTAINERS):
            return None
        if stream.codec_context.codec.canonical_name not in _PACKET_A_FRAME:
            return None
        packets: list[VideoPacket] = []
        shown: list[int] = []
        hidden: list[int] = []
        key: int | None = None  # pts of the first key frame
        fault = ""
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.pts is None:
                    return None
                if last is not None and len(shown) > last:
                    dts = packet.dts  # no later packet is shown before it
                    if dts is not None and sorted(shown)[last] < dts:
                        break
                packets.append(packet)
                if key is None and packet.is_keyframe:
                    key = packet.pts
                if key is not None and packet.pts >= key:
                    (hidden if packet.is_discard else shown).append(packet.pts)
        except av.FFmpegError as error:
            fault = error.strerror or type(error).__name__
        times = sorted(shown)
        if len(set(times)) < len(times):
            return None
        before = sum(pts < times[0] for pts in hidden) if times else len(hidden)
        return cls(packets, times, before, fault)

    def seconds(self, stream: VideoStream) -> list[float]:
        """Times of the shown frames from the first one on."""
        base = stream.time_base
        assert base is not None
        zero, num, den = self.times[0] if self.times else 0, base.numerator, base.denominator
        return [(pts - zero) * num / den for pts in self.times]

    def span(self, wanted: Collection[int], *, near: bool) -> tuple[int, int]:
        """From which packet on, and up to which, must be decoded to have some shown frames.

        Args:
            wanted: pts of the frames.
            near: from the last key frame that can do; else from the first.
        """
        places = {p.pts: i for i, p in enumerate(self.packets) if not p.is_discard}
        end = max(places[pts] for pts in wanted) + 1
        keys = (i for i, packet in enumerate(self.packets) if packet.is_keyframe)
        if not near:
            return next(keys), end
        low = min(wanted)
        return max(i for i in keys if i <= places[low] and self._pts(i) <= low), end

    def _pts(self, place: int) -> int:
        pts = self.packets[place].pts
        assert pts is not None
        return pts
