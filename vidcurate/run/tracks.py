"""From the frames of one interval to its final clips: detect, settle, chop, trim, limit.

Detectors report late, so a frame waits until every cut at or before it is known; only then is
it given to its scene. What reaches a clip is therefore final, and one pass is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from vidcurate.media.frames import Frames
from vidcurate.media.sampling import ClipFrames, Shot
from vidcurate.media.video import Box
from vidcurate.operator.base import ClipRow, CutDetector, Splitter

_EPS = 1e-6
_NEAR = 2.0  # seconds: decoding on over a short gap is cheaper than a seek to a key frame
_MARGIN = 0.25  # seconds around known intervals, for snapping to the nearest frame


@dataclass
class Interval:
    """A part of the video to be made into clips; without bounds the whole of it.

    start, end: seconds as a dataset gives them, met by the nearest frames. start_pts, end_pts:
    exact bounds of a clip that is known already (a backfill, a second pass for a crop). old: the
    committed row of a backfill. find_box: the editors still have to say the crop.
    """

    start: float | None = None
    end: float | None = None
    start_pts: int | None = None
    end_pts: int | None = None
    row: ClipRow = field(default_factory=ClipRow)
    old: Mapping[str, Any] | None = None
    crop: Box | None = None
    find_box: bool = False

    def holds(self, shot: Shot) -> bool:
        """True where the frame belongs to the interval."""
        if self.start_pts is not None:
            assert self.end_pts is not None
            return self.start_pts <= shot.pts < self.end_pts
        middle = shot.time + shot.duration / 2  # nearest frame edge
        return (self.start is None or middle > self.start) and (
            self.end is None or middle <= self.end
        )

    def is_past(self, shot: Shot) -> bool:
        """True once no later frame can belong to the interval."""
        if self.end_pts is not None:
            return shot.pts >= self.end_pts
        return self.end is not None and shot.time + shot.duration / 2 > self.end


@dataclass
class CutClip:
    """A final clip with its frames: pts and times are half-open."""

    interval: Interval
    start_pts: int
    end_pts: int
    start: float
    end: float
    n_frames: int
    n_bytes: int
    vfr: bool
    frames: ClipFrames

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.end - self.start


@dataclass
class SceneCounts:
    """What became of the scenes of a video before they were clips."""

    scenes: int = 0
    too_short: int = 0
    too_long: int = 0
    not_longest: int = 0


class _Scene:
    """The scene that settled frames go to, on its way to one clip."""

    def __init__(self, first: Shot, trim: float, frames: ClipFrames) -> None:
        self.begin = first.time + trim
        self.frames = frames
        self.marks: list[tuple[int, float, int]] = []  # pts, time, bytes before
        self.too_long = False

    def add(self, shot: Shot, sample: bool) -> None:
        if shot.time >= self.begin - _EPS:
            self.marks.append((shot.pts, shot.time, shot.bytes_before))
            if sample:
                self.frames.add(shot)

    def length_with(self, shot: Shot) -> float:
        return shot.time + shot.duration - self.marks[0][1] if self.marks else 0.0


class Track:
    """One interval on its way to clips.

    Args:
        interval: the part of the video.
        limits: the splitter whose length limits hold; None takes the interval as it is.
        detector: finds cuts inside the interval; None where there are none to find.
        request: the frames that the detector is fed with; None for times only.
        edge_trim: trim at the interval's own two ends (a dataset's cuts), in seconds.
        new_frames: makes the frame holder of a clip.
        picture: the detector's picture of a frame.
    """

    def __init__(
        self,
        interval: Interval,
        limits: Splitter | None,
        detector: CutDetector | None,
        request: Frames | None,
        edge_trim: float,
        new_frames: Callable[[Interval], ClipFrames],
        picture: Callable[[Shot, Frames], object],
        counts: SceneCounts,
    ) -> None:
        self.interval = interval
        self.counts = counts
        self.done = False
        self._limits = limits
        self._detector = detector
        self._request = request
        self._edge_trim = edge_trim
        self._new_frames = new_frames
        self._picture = picture
        self._waiting: deque[Shot] = deque()
        self._cuts: deque[int] = deque()
        self._scene: _Scene | None = None
        self._best: CutClip | None = None
        self._last: Shot | None = None

    def push(self, shot: Shot) -> list[CutClip]:
        """Take the next frame of the video; return the clips that are final now."""
        if self.done:
            return []
        if self.interval.is_past(shot):
            return self.finish(shot.pts, shot.time, shot.bytes_before)
        if not self.interval.holds(shot):
            return []
        self._last = shot
        if self._detector is None:
            return self._settle(shot)
        pixels = self._picture(shot, self._request) if self._request else None
        self._cuts.extend(sorted(self._detector.push(shot.index, shot.time, pixels)))  # type: ignore[arg-type]
        self._waiting.append(shot)
        clips: list[CutClip] = []
        while len(self._waiting) > self._detector.lateness:
            clips += self._settle(self._waiting.popleft())
        return clips

    def finish(self, end_pts: int, end: float, end_bytes: int) -> list[CutClip]:
        """The interval, or the video, ends before `end`; return the last clips."""
        if self.done:
            return []
        self.done = True
        if self._detector is not None and self._last is not None:
            self._cuts.extend(sorted(self._detector.finish()))
        clips: list[CutClip] = []
        while self._waiting:
            clips += self._settle(self._waiting.popleft())
        clips += self._close(end_pts, end, end_bytes, trim=self._edge_trim)
        if self._best is not None:
            clips.append(self._best)
        return clips

    @property
    def is_empty(self) -> bool:
        """True where no frame of the video fell into the interval."""
        return self._last is None

    @property
    def earliest(self) -> float:
        """Start of the earliest clip that is still to come."""
        if self._best is not None:
            return self._best.start
        if self._scene is not None and self._scene.marks:
            return self._scene.marks[0][1]
        return self._last.time if self._last is not None and not self._waiting else 0.0

    def _settle(self, shot: Shot) -> list[CutClip]:
        clips: list[CutClip] = []
        is_cut = False
        while self._cuts and self._cuts[0] <= shot.index:
            is_cut = self._cuts.popleft() == shot.index or is_cut
        scene = self._scene
        trim = self._limits.trim if self._limits is not None and self._detector else 0.0
        if scene is None:
            scene = self._begin(shot, self._edge_trim)
        elif is_cut:
            clips = self._close(shot.pts, shot.time, shot.bytes_before, trim)
            scene = self._begin(shot, trim)
        elif self._limits and scene.length_with(shot) > self._limits.max_length + _EPS:
            if self._limits.over_length == "chop":
                clips = self._close(shot.pts, shot.time, shot.bytes_before, 0.0)
                scene = self._begin(shot, 0.0)
            else:
                scene.too_long = True
                scene.frames = self._new_frames(self.interval)  # lets go of the frames so far
        scene.add(shot, sample=not scene.too_long)
        return clips

    def _begin(self, shot: Shot, trim: float) -> _Scene:
        self._scene = _Scene(shot, trim, self._new_frames(self.interval))
        return self._scene

    def _close(self, end_pts: int, end: float, end_bytes: int, trim: float) -> list[CutClip]:
        """End the scene; a trim moves its end to an earlier frame, at least that far."""
        scene, self._scene = self._scene, None
        if scene is None:
            return []
        if self.interval.start_pts is None:  # else it was counted when it was found
            self.counts.scenes += 1
        limit = end - trim
        while trim and scene.marks and end > limit + _EPS:
            end_pts, end, end_bytes = scene.marks.pop()
        limits = self._limits
        if scene.too_long:
            self.counts.too_long += 1
            return []
        if not scene.marks:
            self.counts.too_short += 1
            return []
        clip = CutClip(
            interval=self.interval,
            start_pts=scene.marks[0][0],
            end_pts=end_pts,
            start=scene.marks[0][1],
            end=end,
            n_frames=len(scene.marks),
            n_bytes=end_bytes - scene.marks[0][2],
            vfr=is_variable([mark[0] for mark in scene.marks] + [end_pts]),
            frames=scene.frames,
        )
        if limits is not None and clip.duration < limits.min_length - _EPS:
            self.counts.too_short += 1
            return []
        if limits is not None and limits.keep == "longest" and self._detector is not None:
            if self._best is None or clip.duration > self._best.duration + _EPS:
                self._best, clip = clip, self._best
            self.counts.not_longest += clip is not None
            return []
        return [clip]


def is_variable(pts: list[int]) -> bool:
    """True where the distances of these frames vary by more than rounding.

    The last distance is left out: a container often gives the last frame an odd length.
    """
    steps = [b - a for a, b in pairwise(pts[:-1])]
    if not steps:
        return False
    low, high = min(steps), max(steps)
    return high - low > max(1, 0.05 * high)


def decode_ranges(
    intervals: Sequence[Interval],
) -> list[tuple[float | None, float | None, list[Interval]]]:
    """Stretches of the video to decode, each once, with the intervals that lie in it."""
    if any(i.start is None or i.end is None for i in intervals):
        return [(None, None, list(intervals))]
    ranges: list[tuple[float, float, list[Interval]]] = []
    for interval in sorted(intervals, key=lambda i: (i.start, i.end)):
        assert interval.start is not None
        assert interval.end is not None
        if ranges and interval.start < ranges[-1][1] + _NEAR:
            low, high, members = ranges[-1]
            ranges[-1] = (low, max(high, interval.end), [*members, interval])
        else:
            ranges.append((interval.start, interval.end, [interval]))
    return [(max(0.0, low - _MARGIN), high + _MARGIN, members) for low, high, members in ranges]
