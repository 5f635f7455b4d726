"""Scenes: cuts and fades by PySceneDetect's detectors, on frames that are decoded once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from vidcurate import CutDetector, Duration, Frames, Splitter, VideoInfo

Pixels = npt.NDArray[np.uint8]

# PySceneDetect's own defaults; the adaptive detector also wants a content score of 15.
_DEFAULT = {"content": 27.0, "adaptive": 3.0, "threshold": 12.0}
_ADAPTIVE_CONTENT = 15.0
_ADAPTIVE_WINDOW = 2
_FLASH = 0.15  # seconds: a picture that comes back within this was never cut away from
_BLACK = 1.0  # seconds: a longer black stretch is a scene of its own


class Scenes(Splitter):
    """Split at hard cuts (content, adaptive) or at fades through black (threshold).

    detector: "content" compares hue, saturation and value of each frame with the one before;
        "adaptive" compares that score with its neighbours', for footage with much motion;
        "threshold" finds fades to black and back. The classes are PySceneDetect's
        (https://scenedetect.com). Its thresholds belong to frames that are sampled, not averaged,
        down to 256 columns. A score is a mean over the samples, so the fewer of pictures of short
        side 72 give the same, for half the time.
    threshold: 27 for content (0..255), 3 for adaptive (ratio), 12 for threshold (mean luma,
        0..255).
    min_scene: cuts nearer to each other, or to the start, are merged as PySceneDetect does; it is
        counted in frames at the video's nominal rate, so VFR is fine. A shorter one finds more.
    The limits of every splitter (min_length, here 1 s, max_length, trim, ...) apply afterwards.

    A flash, a strobe or a broken frame of up to 0.15 s is no cut: the picture before it returns.
    A fade's cut is in the middle of its black; a black stretch of more than 1 s becomes a scene
    of its own. Dissolves are found by none of the three.
    """

    name: ClassVar[str] = "scenes"
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    # Recipes write `detector`; in Python that name belongs to the method.
    method: Literal["content", "adaptive", "threshold"] = Field("content", alias="detector")
    threshold: Annotated[float, Field(gt=0)] | None = None
    min_scene: Duration = 0.2
    min_length: Duration = 1.0

    def request(self) -> Frames:
        """Every frame at short side 72, quick: gray for fades, else RGB."""
        color: Literal["gray", "rgb"] = "gray" if self.method == "threshold" else "rgb"
        return Frames(every=1, short_side=72, color=color, quick=True)

    def detector(self, video: VideoInfo) -> CutDetector:
        """A detector for one interval; its lateness follows from the video's nominal rate."""
        threshold = _DEFAULT[self.method] if self.threshold is None else self.threshold
        # Some containers state no rate, or their clock's (1000, 90000).
        fps = min(max(float(video.fps), 1.0), 120.0) if video.fps else 25.0
        if self.method == "threshold":
            return FadeCuts(threshold, fps, round(self.min_scene * fps))
        return HardCuts(self.method, threshold, fps, round(self.min_scene * fps))


def content_score(before: Pixels, after: Pixels) -> float:
    """PySceneDetect's content score of two HSV pictures (H, W, 3): the mean change, 0..255.

    Equal to ContentDetector's with its default weights, to the last bit, at a quarter of its time.
    """
    hue, sat, lum, _ = cv2.sumElems(cv2.absdiff(before, after))
    n = before.shape[0] * before.shape[1]
    return float((hue / n + sat / n + lum / n) / 3.0)


def quick(base: Any) -> Any:
    """ContentDetector, or a class made from it, with the faster score, for RGB frames."""

    class Quick(base):  # type: ignore[misc]
        hsv: Pixels | None = None

        def _calculate_frame_score(self, timecode: Any, frame_img: Pixels) -> float:
            before = self.hsv
            hsv = cv2.cvtColor(frame_img, cv2.COLOR_RGB2HSV)
            self.hsv = hsv.astype(np.uint8, copy=False)
            return 0.0 if before is None else content_score(before, self.hsv)

    return Quick


class HardCuts:
    """The content or adaptive detector, then the flash check, then PySceneDetect's merging."""

    def __init__(
        self, method: Literal["content", "adaptive"], threshold: float, fps: float, min_frames: int
    ) -> None:
        from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
        from scenedetect.detector import FlashFilter

        # min_scene_len=0: merging comes after the flash check, else the two edges of a flash
        # would hide a cut that follows at once.
        if method == "content":
            self._detector = quick(ContentDetector)(threshold=threshold, min_scene_len=0)
            reported_after = 0
        else:
            self._detector = quick(AdaptiveDetector)(
                adaptive_threshold=threshold,
                min_scene_len=0,
                window_width=_ADAPTIVE_WINDOW,
                min_content_val=_ADAPTIVE_CONTENT,
            )
            reported_after = _ADAPTIVE_WINDOW
        self._merge = FlashFilter(FlashFilter.Mode.MERGE, min_frames)
        self._timecode = FrameTimecode
        self._clock = FrameTimecode(0, fps=fps)
        self._flash = max(1, round(_FLASH * fps))
        self._delay = max(reported_after, self._flash)
        self.lateness = self._delay + min_frames
        self._candidates: set[int] = set()
        self._recent: deque[Pixels] = deque(maxlen=self._delay + self._flash + 2)
        self._first = self._last = -1

    def push(self, index: int, time: float, pixels: Pixels | None) -> list[int]:
        assert pixels is not None
        if self._first < 0:
            self._first = index
        self._last = index
        timecode = self._timecode(index, fps=self._clock)
        self._candidates.update(c.frame_num for c in self._detector.process_frame(timecode, pixels))
        self._recent.append(self._detector.hsv)
        settled = index - self._delay
        return self._settle(settled) if settled >= self._first else []

    def finish(self) -> list[int]:
        if self._last < 0:
            return []
        rest = range(max(self._first, self._last - self._delay + 1), self._last + 1)
        return [cut for index in rest for cut in self._settle(index)]

    def _settle(self, index: int) -> list[int]:
        is_cut = index in self._candidates and not self._returns(index)
        self._candidates.discard(index)
        timecode = self._timecode(index, fps=self._clock)
        cuts = self._merge.filter(timecode=timecode, above_threshold=is_cut)
        return [cut.frame_num for cut in cuts]

    def _returns(self, cut: int) -> bool:
        """True if `cut` lies in a flash: a jump, and soon another one that mostly undoes it."""
        oldest = self._last - len(self._recent) + 1
        recent, reach = self._recent, self._flash + 1
        for before in range(max(oldest, cut - reach) - oldest, cut - oldest):
            away = content_score(recent[before], recent[before + 1])
            for after in range(max(cut - oldest, before + 2), min(len(recent), before + reach + 1)):
                back = content_score(recent[after - 1], recent[after])
                if content_score(recent[before], recent[after]) < min(away, back) / 2:
                    return True
        return False


class FadeCuts:
    """PySceneDetect's ThresholdDetector on gray frames, with a bound on how late it reports."""

    def __init__(self, threshold: float, fps: float, min_frames: int) -> None:
        from scenedetect import FrameTimecode, ThresholdDetector

        self._detector = ThresholdDetector(threshold=threshold, min_scene_len=min_frames)
        self._timecode = FrameTimecode
        self._clock = FrameTimecode(0, fps=fps)
        self._min_frames = min_frames
        self.lateness = max(round(_BLACK * fps), min_frames)
        self._last_cut = -1
        self._in_long_black = False

    def push(self, index: int, time: float, pixels: Pixels | None) -> list[int]:
        assert pixels is not None
        if self._last_cut < 0:
            self._last_cut = index
        timecode = self._timecode(index, fps=self._clock)
        found = self._detector.process_frame(timecode, pixels)
        if found:
            # The library cuts in the middle of the black, however long ago that is.
            self._last_cut = index if self._in_long_black else found[0].frame_num
            self._in_long_black = False
            return [self._last_cut]
        fade: dict[str, Any] = self._detector.last_fade
        if fade["type"] == "out" and not self._in_long_black:
            black = fade["frame"].frame_num
            if index - black >= self.lateness:
                self._in_long_black = True
                if black - self._last_cut >= max(self._min_frames, 1):
                    self._last_cut = black
                    return [black]
        return []

    def finish(self) -> Sequence[int]:
        return []
