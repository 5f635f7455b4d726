"""The score pass of one video, in the decode process: probe, decode once, split, score, cut.

`score_video` is the job that a supervised child runs. What it yields are plain messages:
`Scored` rows of clips as they become final, `Faulty` things for the quarantine, and at the end
one `VideoDone`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2

from vidcurate.errors import CutError
from vidcurate.media.convert import Converter
from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder, packet_times
from vidcurate.media.encode import LOSSLESS
from vidcurate.media.frames import FrameBatch, Frames, MotionVectors
from vidcurate.media.probe import probe
from vidcurate.media.sampling import ClipFrames, Shot, on_grid, shots
from vidcurate.media.video import Box
from vidcurate.operator.base import Clip, ClipRow, Editor, Scorer, Splitter
from vidcurate.plan import ScorePlan, requests_of
from vidcurate.recipe.model import Step
from vidcurate.run.jobs import Faulty, Scored, VideoDone, VideoJob
from vidcurate.run.rows import clip_row, video_row
from vidcurate.run.score_steps import Pending, StepRunner, StepStats
from vidcurate.run.tracks import CutClip, Interval, SceneCounts, Track, decode_ranges, is_variable

_GROUP_BYTES = 64 * 2**20


class _Work:
    """A plan with its operators built: kept by the child from video to video."""

    def __init__(self, plan: ScorePlan) -> None:
        plan.user_operators.install()
        self.plan = plan
        self.split = [_kind(spec.build(), Splitter) for spec in plan.split]
        self.edit = [_kind(spec.build(), Editor) for spec in plan.edit]
        self.score = [spec.build() for spec in plan.score]
        self.runner = StepRunner(self.score, plan.fingerprints)
        for operator in (*self.split, *self.edit):
            operator.setup()
        # One decode process is one core's work; OpenCV's own threads would fight the others.
        cv2.setNumThreads(1)

        self.edit_requests = requests_of(self.edit)
        self.score_requests = requests_of([_kind(s, Scorer) for s in self.score])
        self.score_columns = [c for s in self.score for c in s.columns]
        rates = [_kind(s, Scorer).motion_vector_fps() for s in self.score]
        self.vector_rates = sorted({vector_rate(r) for r in rates if r is not None})

    @property
    def crop_is_fixed(self) -> bool:
        """True where no editor looks at frames: the crop is known before decoding."""
        return not self.edit_requests


_T = TypeVar("_T", Splitter, Editor, Scorer)


def _kind(step: Step, kind: type[_T]) -> _T:
    assert isinstance(step.operator, kind)
    return step.operator


def vector_rate(fps: float) -> Fraction:
    """The grid rate of a request for motion vectors, exact."""
    return Fraction(fps).limit_denominator(1000)


_work: dict[str, _Work] = {}


def score_video(payload: tuple[str, ScorePlan, VideoJob]) -> Iterator[object]:
    """Score one video; the child's job. The payload starts with a key of the plan.

    Yields:
        Scored, Faulty, at the end VideoDone; None is a sign of life.

    Raises:
        DataError: the video cannot be opened, probed or decoded at all.
    """
    key, plan, job = payload
    if key not in _work:
        _work.clear()
        _work[key] = _Work(plan)
    yield from _VideoPass(_work[key], job).run()


class _VideoPass:
    """One video on its way through the pass."""

    def __init__(self, work: _Work, job: VideoJob) -> None:
        self.work = work
        self.job = job
        self.counts = SceneCounts()
        self.vfr = False
        self.frames: int | None = None
        self.decoded = 0.0
        self.end = 0.0
        self.clips = 0
        self.trouble: str | None = None
        self.group: list[Pending] = []
        self.held = 0
        self.recrop: list[Interval] = []
        self.packet_times: list[int] | None = None
        self.vectors: dict[Fraction, list[MotionVectors]] = {}  # by grid rate
        self.seen: set[str] = set()

    def run(self) -> Iterator[object]:
        cpu = time.process_time()
        plan = self.work.plan
        self.work.runner.stats = {s.id: StepStats() for s in self.work.score}
        limits = plan.limits
        self.info = probe(
            self.job.path, max_pixels=limits.max_pixels, max_duration=limits.max_duration
        )
        self.converter = Converter(self.info, hdr=plan.hdr)
        if plan.profile == "fast":
            self.packet_times = packet_times(self.info)
        yield from self._decode(self._intervals())
        if self.recrop:  # a second decode, of those clips alone whose crop the scorers must see
            again, self.recrop = self.recrop, []
            yield from self._decode(again)
        yield from self._flush()
        yield from self._damage()
        yield VideoDone(
            row=self._video_row(),
            seconds=self.decoded,
            cpu=time.process_time() - cpu,
            steps=self.work.runner.stats,
        )

    # ------------------------------------------------------------------ intervals

    def _intervals(self) -> list[Interval]:
        if self.job.clips is not None:
            return [self._known_clip(row) for row in self.job.clips]
        fixed = self._fixed_crop()
        find = bool(self.work.edit) and not self.work.crop_is_fixed
        rows = self.job.row.clips
        split = self.work.split
        known = split[0].known(self.info, rows) if split else None
        if known is None:
            return [
                Interval(row=rows[0] if len(rows) == 1 else ClipRow(), crop=fixed, find_box=find)
            ]
        padded = rows if len(rows) == len(known) else (ClipRow(),) * len(known)
        return [
            Interval(start, end, row=row, crop=fixed, find_box=find)
            for (start, end), row in zip(known, padded, strict=True)
        ]

    def _known_clip(self, row: Mapping[str, Any]) -> Interval:
        same_crop = row["fingerprints"].get("edit") == self.work.plan.fingerprints["edit"]
        crop = Box(**row["crop"]) if row["crop"] else None
        return Interval(
            start=row["start"],
            end=row["end"],
            start_pts=row["start_pts"],
            end_pts=row["end_pts"],
            old=row,
            crop=crop if same_crop else self._fixed_crop(),
            find_box=not same_crop and bool(self.work.edit) and not self.work.crop_is_fixed,
        )

    def _fixed_crop(self) -> Box | None:
        """The box of editors that look at no frames: it is known before decoding."""
        if not self.work.edit or not self.work.crop_is_fixed:
            return None
        return self._box(self._view(0.0, self.info.duration, 0, False, 0, None, {}), None)

    def _view(
        self,
        start: float,
        end: float,
        n_frames: int,
        vfr: bool,
        n_bytes: int,
        crop: Box | None,
        fields: Mapping[str, Any],
    ) -> Clip:
        size = crop or self.info
        return Clip(
            video=self.info,
            start=start,
            end=end,
            n_frames=n_frames,
            # Rounded: the times are doubles, and 25 must not read 24.999999999999996.
            fps=round(n_frames / (end - start), 6) if end > start else 0.0,
            vfr=vfr,
            width=size.width,
            height=size.height,
            n_bytes=n_bytes,
            crop=crop,
            fields=fields,
        )

    def _track(self, interval: Interval) -> Track:
        work, split = self.work, self.work.split
        requests = work.score_requests
        if interval.find_box:
            requests = list(dict.fromkeys([*work.edit_requests, *requests]))
        limits: Splitter | None = split[-1] if split else None
        detector = None
        edge_trim = 0.0
        if interval.start_pts is not None or limits is None:
            limits = None  # a known clip is taken as it is
        else:
            is_known = limits.known(self.info, self.job.row.clips) is not None
            detector = None if is_known else limits.detector(self.info)
            edge_trim = split[0].trim if interval.start is not None else 0.0
        slack = edge_trim + (limits.trim if limits is not None else 0.0)
        request = limits.request() if limits is not None and detector is not None else None
        return Track(
            interval,
            limits,
            detector,
            request,
            edge_trim,
            new_frames=lambda i: ClipFrames(self.converter, requests, self.info.fps, i.crop, slack),
            picture=lambda shot, wanted: shot.picture(self.converter, wanted, None),
            counts=self.counts,
        )

    # ------------------------------------------------------------------ decode

    def _decode(self, intervals: Sequence[Interval]) -> Iterator[object]:
        self.vectors = {rate: [] for rate in self.work.vector_rates}
        for low, high, members in decode_ranges(intervals):
            tracks = [self._track(i) for i in members]
            with Decoder(
                self.info,
                motion_vectors=bool(self.work.vector_rates),
                fast=self.work.plan.profile == "fast",
            ) as decoder:
                yield from self._feed(tracks, decoder, low, high)
            for track in tracks:
                if track.is_empty:
                    yield self._missed(track.interval)

    def _feed(
        self, tracks: Sequence[Track], decoder: Decoder, low: float | None, high: float | None
    ) -> Iterator[object]:
        """Decode one stretch and give each frame to the intervals that it lies in."""
        active = list(tracks)
        shot: Shot | None = None
        for shot in shots(decoder, low, high):
            for rate, found in self.vectors.items():
                if shot.frame is not None and on_grid(shot.previous, shot.time, rate):
                    found.append(decoder.motion_vectors(shot.frame, shot.time))
            for track in active:
                for clip in track.push(shot):
                    yield from self._final(clip)
            if shot.index % 32 == 0:
                yield None
                active = [t for t in active if not t.done]
                if not active:
                    break
                self._forget_vectors(min(t.earliest for t in active))
        self.trouble = self.trouble or decoder.last_error or None
        if shot is None:
            return
        end = shot.time + shot.duration
        for track in active:
            for clip in track.finish(shot.end_pts, end, decoder.packet_bytes):
                yield from self._final(clip)
        self.end = max(self.end, end)
        self.decoded += max(0.0, end - (low or 0.0))
        if low is None:
            self.frames = len(self.packet_times) if self.packet_times else shot.index + 1

    def _forget_vectors(self, before: float) -> None:
        if not self.group:
            for rate, found in self.vectors.items():
                self.vectors[rate] = [v for v in found if v.time >= before]

    def _missed(self, interval: Interval) -> Faulty:
        return Faulty(
            stage="split",
            error="IntervalError",
            message=(
                f"no frame lies between {interval.start or 0.0:g} and {interval.end or 0.0:g} s "
                f"(the video has {self.info.duration:g} s)"
            ),
            clip_id=interval.old["clip_id"] if interval.old else None,
            interval=(interval.start, interval.end),
        )

    # ------------------------------------------------------------------ clips

    def _final(self, cut: CutClip) -> Iterator[object]:
        """A clip is final: find its crop, or score it with its group."""
        interval = cut.interval
        if self.packet_times is not None:  # the decoder skips frames; pack must know of them all
            low, high = (bisect_left(self.packet_times, t) for t in (cut.start_pts, cut.end_pts))
            times = [*self.packet_times[low:high], cut.end_pts]
            cut = replace(cut, n_frames=high - low, vfr=is_variable(times))
        self.vfr = self.vfr or cut.vfr
        view = self._view(
            cut.start,
            cut.end,
            cut.n_frames,
            cut.vfr,
            cut.n_bytes,
            interval.crop,
            {**self.job.row.fields, **interval.row.fields},
        )
        if interval.find_box:
            box = self._box(view, cut)
            if box is not None:
                self.recrop.append(
                    replace(
                        interval,
                        start=cut.start,
                        end=cut.end,
                        start_pts=cut.start_pts,
                        end_pts=cut.end_pts,
                        crop=box,
                        find_box=False,
                    )
                )
                return
        row = clip_row(self.work.plan, self.job, self.info, cut)
        identity = row["clip_id"]
        if identity in self.seen:
            yield Faulty(
                stage="split",
                error="IntervalError",
                message=f"the dataset names {cut.start:g} to {cut.end:g} s twice; one clip is kept",
                clip_id=identity,
                interval=(cut.start, cut.end),
            )
            return
        self.seen.add(identity)
        self.clips += 1
        if identity in self.job.skip:
            return
        self.group.append(
            Pending(
                clip=view,
                row=row,
                frames=partial(self._batch, cut),
                vectors=partial(self._vectors, cut),
                audit=row["audit"],
                scores={c: row[c] for c in self.work.score_columns if c in row},
            )
        )
        self.held += cut.frames.nbytes
        if len(self.group) >= self.work.runner.group_size or self.held > _GROUP_BYTES:
            yield from self._flush()

    def _box(self, view: Clip, cut: CutClip | None) -> Box | None:
        """The crop after all editors; None where the whole picture stays."""
        box: Box | None = None
        for editor in self.work.edit:
            request = editor.request()
            frames = cut.frames.batch(request, cut.start, cut.end) if request and cut else None
            size = box or self.info
            seen = replace(view, frames=frames, crop=box, width=size.width, height=size.height)
            box = editor.box(seen)
        whole = Box(0, 0, self.info.width, self.info.height)
        return None if box == whole else box

    def _batch(self, cut: CutClip, request: Frames) -> FrameBatch:
        return cut.frames.batch(request, cut.start, cut.end)

    def _vectors(self, cut: CutClip, fps: float) -> tuple[MotionVectors, ...]:
        found = self.vectors[vector_rate(fps)]
        return tuple(v for v in found if cut.start <= v.time < cut.end)

    def _flush(self) -> Iterator[object]:
        group, self.group, self.held = self.group, [], 0
        for failure in self.work.runner.run(group):
            if failure is None:
                yield None
                continue
            yield Faulty(
                stage="score",
                error=failure.error,
                message=failure.message,
                clip_id=failure.clip_id,
                operator=failure.operator,
                step=failure.step,
            )
        for pending in group:
            if self.job.media is not None and pending.gated_by is None:
                yield from self._cut(pending)
            yield Scored(pending.row)

    def _cut(self, pending: Pending) -> Iterator[object]:
        """Cut the clip's media while the source is at hand (`media: clips`)."""
        row = pending.row
        assert self.job.media is not None
        relative = Path("media") / row["clip_id"][:2] / f"{row['clip_id']}.mp4"
        out = self.job.media / relative
        if row["media"] is not None and out.exists():
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            cut_clip(
                self.info,
                row["start_pts"],
                row["end_pts"],
                row["n_frames"],
                out,
                audio=True,
                fallback=LOSSLESS,
            )
        except CutError as error:
            yield Faulty("cut", type(error).__name__, str(error), clip_id=row["clip_id"])
        else:
            row["media"] = relative.as_posix()
        yield None

    # ------------------------------------------------------------------ the video's row

    def _damage(self) -> Iterator[Faulty]:
        """What of a whole pass over the video was damaged or missing."""
        stated, reached = self.info.duration, self.end
        if self.trouble is None and self.frames and stated - reached > max(1.0, 0.05 * stated):
            self.trouble = f"the file ends at {reached:.2f} s of the {stated:.2f} s that it states"
        if self.trouble is not None and self.job.clips is None:
            yield Faulty("decode", "DecodeError", f"{self.trouble}; the rest was used")

    def _video_row(self) -> dict[str, Any] | None:
        if self.job.clips is not None:
            return None
        return video_row(
            self.work.plan,
            self.job,
            self.info,
            self.counts,
            clips=self.clips,
            n_frames=self.frames,
            end=self.end,
            vfr=self.vfr,
            trouble=self.trouble,
        )
