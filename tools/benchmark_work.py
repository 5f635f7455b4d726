"""What the benchmark measures: the score pass, a bare decode, and separate tools for the same.

    python tools/benchmark_work.py VIDEO

scores one video in this process and prints {"peak_bytes", "seconds", "clips"} as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from peak_memory import peak_bytes

from vidcurate.media.cut import cut_clip
from vidcurate.media.encode import encode_clip
from vidcurate.media.probe import probe
from vidcurate.media.video import VideoInfo
from vidcurate.operator import registry
from vidcurate.operator.base import Kind, Scorer, VideoRow
from vidcurate.operator.testing import make_clip
from vidcurate.plan import ScorePlan
from vidcurate.recipe.model import Encode, Recipe, Step
from vidcurate.run.jobs import Scored, VideoDone, VideoJob
from vidcurate.run.score_video import score_video

Span = tuple[float, float]
"""Start and end of a clip in seconds, half-open."""
Profile = Literal["exact", "fast"]
Task = Callable[[], Iterator[object]]
"""Work that pauses now and then, about every second of video."""

SCORERS = ("motion", "brightness", "static", "eight_frames")
MAX_LENGTH = "8s"
_PAUSE = 32  # frames, as the score pass pauses
_EIGHT = '''
from vidcurate import Frames, column, scorer

@scorer("eight_frames", columns=column("float32"),
        frames=Frames(count=8, short_side=224, color="rgb"))
def eight_frames(frames):
    """What a model on 8 frames a clip would be given."""
    return float(frames.pixels[:, 0, 0, 0].mean())
'''


def info_of(path: Path) -> VideoInfo:
    """The probe of one of the benchmark's own videos."""
    return probe(path, max_pixels=2**26, max_duration=86_400)


# --------------------------------------------------------------------------- ours


def plan(
    scorers: Sequence[str], *, profile: Profile = "exact", every_cut: bool = False
) -> ScorePlan:
    """Content scenes chopped at 8 s, and these scorers.

    every_cut: nothing is chopped and no scene is too short, so that clips start at the cuts.
    """
    if "eight_frames" in scorers:
        registry.install(_EIGHT, "eight_frames.py")
    limits = {"min_length": 0.0} if every_cut else {"max_length": MAX_LENGTH}
    return ScorePlan.of(
        Recipe(
            name="benchmark",
            sources=(_step("folder", "source", path="."),),
            output="unused",
            split=(_step("scenes", "splitter", **limits),),
            score=tuple(_step(name, "scorer") for name in scorers),
            profile=profile,
        ),
        (),
    )


def _step(name: str, kind: Kind, **parameters: Any) -> Step:
    return Step(name, registry.get(name, kind).model_validate(parameters))


def score(path: Path, work: ScorePlan) -> Iterator[dict[str, Any] | None]:
    """The score pass over one video, as a worker runs it: rows of clips, None for a pause."""
    job = VideoJob("video", "key", "content", VideoRow(str(path), sources=("folder",)), path)
    for message in score_video((repr(work), work, job)):
        assert message is None or isinstance(message, Scored | VideoDone), message
        yield message.row if isinstance(message, Scored) else None


def clips_of(path: Path, work: ScorePlan) -> list[dict[str, Any]]:
    """The rows of all clips that the pass makes of a video."""
    return [row for row in score(path, work) if row is not None]


def spans(path: Path) -> list[Span]:
    """The clips that the pass finds in a video."""
    return [(row["start"], row["end"]) for row in clips_of(path, plan(()))]


def found_cuts(path: Path, profile: Profile) -> list[int]:
    """The frames at which scenes but the first begin, by that profile."""
    info = info_of(path)
    rows = clips_of(path, plan((), profile=profile, every_cut=True))
    return [round(row["start"] * info.fps) for row in rows][1:]


def f1(found: Sequence[int], true: Sequence[int], within: int) -> float:
    """F1 of cuts; each true one is met by at most one found within so many frames."""
    left, hits = sorted(true), 0
    for cut in sorted(found):
        match = next((t for t in left if abs(t - cut) <= within), None)
        if match is not None:
            left.remove(match)
            hits += 1
    return 2 * hits / (len(found) + len(true)) if found or true else 1.0


# --------------------------------------------------------------------------- not ours


def decode(path: Path) -> Iterator[VideoFrame]:
    """PyAV's plain decode loop with one thread."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.thread_count, context.thread_type = 1, "NONE"
        yield from container.decode(video=0)


def bare_decode(path: Path, frames: float = math.inf) -> Iterator[None]:
    """Decode the video's first frames, or all, and do nothing with them."""
    for number, _ in enumerate(decode(path)):
        if number >= frames:
            return
        if number % _PAUSE == 0:
            yield


def separate_tools(path: Path, clips: Sequence[Span]) -> Iterator[None]:
    """The work of the pass as five programs would do it, each with its own decode.

    PySceneDetect's detector on small frames, then motion, brightness and static on 2 frames a
    second and 8 frames of each clip. All of them scale with one reused swscale context, only the
    frames that they want, and never seek. The scorers are ours: the same algorithms.
    """
    yield from _detect_cuts(path)
    for name in ("motion", "brightness", "static"):
        scorer = registry.get(name, "scorer")()
        assert isinstance(scorer, Scorer)
        wanted = [_grid(clip, fps=2) for clip in clips]
        for pixels, times in _pictures(path, clips, wanted, 256, "gray"):
            scorer.score(make_clip(pixels, times=times))
            yield
    for pixels, _ in _pictures(path, clips, [_spread(clip, 8) for clip in clips], 224, "rgb24"):
        float(pixels[:, 0, 0, 0].mean())
        yield


def _detect_cuts(path: Path) -> Iterator[None]:
    from scenedetect import ContentDetector, FrameTimecode

    detector, scale = ContentDetector(), VideoReformatter()
    clock = None
    for number, frame in enumerate(decode(path)):
        if clock is None:
            clock = FrameTimecode(0, fps=25.0)
        width, height = _small(frame, 144)
        small = scale.reformat(frame, width, height, "bgr24", interpolation="FAST_BILINEAR")
        detector.process_frame(FrameTimecode(number, fps=clock), small.to_ndarray())
        if number % _PAUSE == 0:
            yield


def _grid(clip: Span, fps: int) -> list[float]:
    start, end = clip
    return list(np.arange(np.ceil(start * fps), np.ceil(end * fps)) / fps) or [start]


def _spread(clip: Span, count: int) -> list[float]:
    start, end = clip
    return [start + (i + 0.5) * (end - start) / count for i in range(count)]


def _small(frame: VideoFrame, short_side: int) -> tuple[int, int]:
    shrink = min(1.0, short_side / min(frame.width, frame.height))
    return round(frame.width * shrink), round(frame.height * shrink)


def _pictures(
    path: Path,
    clips: Sequence[Span],
    wanted: Sequence[Sequence[float]],
    short_side: int,
    pix_fmt: str,
) -> Iterator[tuple[npt.NDArray[np.uint8], list[float]]]:
    """For each clip the first frames at or after the wanted times: pixels and times."""
    scale = VideoReformatter()
    frames = decode(path)
    frame = next(frames, None)
    for (_, end), targets in zip(clips, wanted, strict=True):
        pixels, times = [], []
        queue = list(targets)
        while frame is not None and frame.time is not None and frame.time < end:
            if queue and frame.time >= queue[0] - 1e-6:
                size = _small(frame, short_side)
                small = scale.reformat(frame, *size, pix_fmt, interpolation="FAST_BILINEAR")
                pixels.append(small.to_ndarray())
                times.append(frame.time)
                queue.pop(0)
            frame = next(frames, None)
        if pixels:
            yield np.stack(pixels), times


# --------------------------------------------------------------------------- pack


def copy_clips(path: Path, clips: Sequence[Span], folder: Path) -> Iterator[None]:
    """Cut the clips by copying packets, each verified by decoding.

    Raises:
        AssertionError: one was not copied.
    """
    info = info_of(path)
    for start, end in clips:
        low, high, count = _pts(info, start, end)
        cut = cut_clip(info, low, high, count, folder / "copied.mp4", audio=False)
        assert cut.copied, cut.note
        yield


def encode_clips(path: Path, clips: Sequence[Span], folder: Path) -> Iterator[None]:
    """Cut the same clips by encoding them, with the defaults of `pack: {encode: {}}`."""
    info = info_of(path)
    for start, end in clips:
        low, high, _ = _pts(info, start, end)
        encode_clip(info, low, high, folder / "encoded.mp4", how=Encode())
        yield


def _pts(info: VideoInfo, start: float, end: float) -> tuple[int, int, int]:
    low, high = (info.start_pts + round(t / info.time_base) for t in (start, end))
    return low, high, round((end - start) * info.fps)


# --------------------------------------------------------------------------- memory


def main() -> None:
    """Score the video that is named and print what it took."""
    began = time.monotonic()
    clips = clips_of(Path(sys.argv[1]), plan(SCORERS))
    taken = time.monotonic() - began
    print(json.dumps({"peak_bytes": peak_bytes(), "seconds": taken, "clips": len(clips)}))


if __name__ == "__main__":
    main()
