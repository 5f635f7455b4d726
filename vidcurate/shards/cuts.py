"""Cutting the clips of a selection in supervised child processes.

Each clip becomes `<clip_id>.mp4` (where asked also `<clip_id>.m4a`) and then `<clip_id>.json` in a
work folder; a clip whose JSON is there is not cut again.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from vidcurate.child import Child
from vidcurate.durable import TEMP, replacing
from vidcurate.errors import (
    DataError,
    StorageError,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from vidcurate.media.cut import Cut, cut_clip
from vidcurate.media.probe import probe
from vidcurate.media.sound import SoundError, cut_sound
from vidcurate.media.video import Box, VideoInfo
from vidcurate.recipe.model import Encode, Limits

_TARGET = "vidcurate.shards.cuts:cut_job"
_WHOLE_FILE = ""  # in place of a clip id: the error is of the source
_RESERVE = 64 * 2**20  # bytes of disk that stay free
# A cut gives no sign of life while it runs: it may take this many times its length.
_PATIENCE = 100
_SPAWNED = (WorkerCrashError, WorkerMemoryError, WorkerTimeoutError)


@dataclass(frozen=True)
class ClipTask:
    """One clip to cut. Pts are in the source's time base.

    whole: the file is nothing but this clip (it was cut before), and pts are not used.
    duration: seconds. size: (width, height) of the result; None keeps the picture's.
    frame_step: the result has every such frame of the clip, at its own time.
    """

    clip_id: str
    start_pts: int
    end_pts: int
    duration: float
    n_frames: int
    whole: bool = False
    crop: Box | None = None
    size: tuple[int, int] | None = None
    frame_step: int = 1


@dataclass(frozen=True)
class SourceTask:
    """Clips of one file, cut in order by one child. encode: None copies where possible.

    audio: as of the recipe's pack section; "member" makes `<clip_id>.m4a` beside a silent .mp4.
    """

    path: Path
    clips: tuple[ClipTask, ...]
    folder: Path
    audio: bool | Literal["member"]
    encode: Encode | None
    max_pixels: int
    max_duration: float


def cut_job(task: SourceTask) -> Iterator[tuple[str, DataError | None]]:
    """Cut the clips of one file; runs in a child process.

    Yields:
        (clip id, None or what is wrong with it), in the task's order; ("", error) if the whole
        file cannot be used.

    Raises:
        StorageError: the disk is full.
    """
    try:
        info = probe(task.path, max_pixels=task.max_pixels, max_duration=task.max_duration)
    except DataError as error:
        yield _WHOLE_FILE, error
        return
    for clip in task.clips:
        if shutil.disk_usage(task.folder).free < _RESERVE:
            raise StorageError(
                f"{task.folder}: less than {_RESERVE >> 20} MiB free; free space and run again: "
                "what is cut is kept"
            )
        try:
            _cut(task, clip, info)
        except DataError as error:
            yield clip.clip_id, error
        else:
            yield clip.clip_id, None


def read_cut(folder: Path, clip_id: str) -> Cut | None:
    """A clip that was cut to its end; None if it was not, or a file of it is no longer whole."""
    try:
        values: dict[str, Any] = json.loads((folder / f"{clip_id}.json").read_text("utf-8"))
        path = folder / f"{clip_id}.mp4"
        if path.stat().st_size != values.pop("size"):
            return None
        sound = values.pop("sound_size", None)
        if sound is not None and path.with_suffix(".m4a").stat().st_size != sound:
            return None
    except (FileNotFoundError, ValueError):  # ValueError: half of it, after a power cut
        return None
    return Cut(path=path, **values)


def cut_all(
    tasks: Sequence[SourceTask],
    *,
    workers: int,
    limits: Limits,
    done: Callable[[int], None],
) -> dict[str, DataError]:
    """Cut all clips of all tasks, in `workers` children at a time.

    Args:
        done: called with the number of clips that came to an end, from several threads.

    Returns:
        what went wrong, by clip id.

    Raises:
        StorageError: the disk is full.
    """
    waiting: queue.SimpleQueue[SourceTask] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    failures: dict[str, DataError] = {}
    children = [Child(limits) for _ in range(max(1, min(workers, len(tasks))))]
    stop = threading.Event()

    def work(child: Child) -> None:
        while not stop.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            for clip_id, error in _supervised(child, task, limits, stop):
                if error is not None:
                    failures[clip_id] = error
                done(1)

    with ThreadPoolExecutor(len(children)) as threads:
        running = [threads.submit(work, child) for child in children]
        try:
            ended, _ = wait(running, return_when=FIRST_EXCEPTION)
            errors = [error for future in ended if (error := future.exception()) is not None]
        finally:  # an error in one, or Ctrl-C: the others end where they are
            stop.set()
            for child in children:
                child.close()
    if errors:
        raise errors[0]
    return failures


def _supervised(
    child: Child, task: SourceTask, limits: Limits, stop: threading.Event
) -> Iterator[tuple[str, DataError | None]]:
    """Each clip of the task with its error, whatever happens to the child."""
    left = list(task.clips)
    attempts: Counter[str] = Counter()
    while left and not stop.is_set():
        longest = max(clip.duration for clip in left)
        child.limits = limits.model_copy(
            update={"stall": min(limits.time, limits.stall + _PATIENCE * longest)}
        )
        try:
            for clip_id, error in child.run(_TARGET, dataclasses.replace(task, clips=tuple(left))):
                if clip_id == _WHOLE_FILE:
                    yield from ((clip.clip_id, error) for clip in left)
                    return
                assert left[0].clip_id == clip_id
                left.pop(0)
                yield clip_id, error
        except DataError as error:
            # Clips are cut in order: the first without an answer did it.
            blamed = left[0].clip_id
            attempts[blamed] += 1
            if not isinstance(error, _SPAWNED) or attempts[blamed] >= limits.attempts:
                left.pop(0)
                yield blamed, error


def _cut(task: SourceTask, clip: ClipTask, info: VideoInfo) -> None:
    start, end = clip.start_pts, clip.end_pts
    if clip.whole:
        start = info.start_pts
        end = start + max(1, round(Fraction(clip.duration) / info.time_base))
    out = task.folder / f"{clip.clip_id}.mp4"
    unfinished = out.with_name(f"{TEMP}{clip.clip_id}.mp4")
    try:
        cut = cut_clip(
            info,
            start,
            end,
            clip.n_frames,
            unfinished,
            audio=task.audio is True,
            crop=clip.crop,
            size=clip.size,
            encode=task.encode,
            frame_step=clip.frame_step,
        )
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    sound = out.with_suffix(".m4a")
    sound.unlink(missing_ok=True)
    if task.audio == "member" and info.has_audio:
        note = _sound(info, start, end, sound)
        cut = dataclasses.replace(
            cut, has_audio=sound.exists(), note="; ".join(filter(None, (cut.note, note)))
        )
    values = dataclasses.asdict(cut) | {
        "size": out.stat().st_size,
        "sound_size": sound.stat().st_size if sound.exists() else None,
    }
    del values["path"]
    with replacing(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(values), "utf-8")


def _sound(info: VideoInfo, start: int, end: int, out: Path) -> str:
    """The clip's sound as a file of its own; what went another way, "" if nothing did."""
    base = info.time_base
    unfinished = out.with_name(f"{TEMP}{out.name}")
    try:
        note = cut_sound(info.path, start * base, end * base, unfinished, base)
        unfinished.replace(out)
    except SoundError as error:
        return f"without sound: {error}"
    finally:
        unfinished.unlink(missing_ok=True)
    return note
