"""A video's frames by its packets alone: their number, times and sizes, nothing decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

from vidcurate.errors import DecodeError
from vidcurate.media.decode import uses_dts
from vidcurate.media.open import open_video, video_stream
from vidcurate.media.sampling import Shot
from vidcurate.media.video import VideoInfo


class PacketScan:
    """The frames of a video as its packets tell of them: a `Decoder` that decodes nothing.

    For files that are known to be sound: a damaged frame is not noticed.

    Args:
        info: the video's probe.

    Raises:
        AcquireError, RefusedMediaError, UnsupportedMediaError: see `open_video`.
    """

    last_error = ""

    def __init__(self, info: VideoInfo) -> None:
        self.packet_bytes = 0
        self._info = info
        by_dts = uses_dts(info.container)
        self._shown: list[tuple[int, int, int]] = []  # pts, duration, bytes
        with open_video(info.path) as container:
            for packet in container.demux(video_stream(container, info.path)):
                pts = packet.dts if by_dts or packet.pts is None else packet.pts
                # What an edit list hides is read, but is none of the shown frames.
                if pts is not None and pts >= info.start_pts and not packet.is_discard:
                    self._shown.append((pts, packet.duration or 0, packet.size))
        self._shown.sort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def shots(self, start: float | None = None, end: float | None = None) -> Iterator[Shot]:
        """The frames with start <= time < end, as `shots` gives them; `frame` is None.

        Raises:
            DecodeError: the file has not a single packet of video.
        """
        low = -math.inf if start is None else start
        high = math.inf if end is None else end
        base, zero = self._info.time_base, self._info.start_pts
        if not self._shown:
            raise DecodeError(f"{self._info.path}: holds no video packets")
        previous, index, self.packet_bytes = -1.0, 0, 0
        for i, (pts, duration, size) in enumerate(self._shown):
            after = self._shown[i + 1][0] if i + 1 < len(self._shown) else pts + max(1, duration)
            time = float((pts - zero) * base)
            if time >= high:
                return
            if time >= low and after > pts:
                length = float((after - zero) * base) - time
                yield Shot(None, index, pts, after, time, length, previous, self.packet_bytes)
                index += 1
            self.packet_bytes += size
            previous = time
