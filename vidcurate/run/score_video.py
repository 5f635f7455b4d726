"""The score pass of one video, in the decode process: probe, decode once, split, score, cut.

`score_video` is the job that a supervised child runs. What it yields are plain messages:
`Scored` rows of clips as they become final, `Faulty` things for the quarantine, and at the end
one `VideoDone`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2

from vidcurate.clip import RIGHTS, clip_id
from vidcurate.errors import CutError
from vidcurate.media.convert import Converter
from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder
from vidcurate.media.encode import LOSSLESS
from vidcurate.media.frames import FrameBatch, Frames, MotionVectors
from vidcurate.media.probe import probe
from vidcurate.media.sampling import ClipFrames, Shot, on_grid, shots
from vidcurate.media.video import Box
from vidcurate.operator.base import Clip, ClipRow, Editor, Scorer, Splitter, VideoRow
from vidcurate.plan import ScorePlan, in_audit, requests_of
from vidcurate.recipe.model import Step
from vidcurate.run.score_steps import Pending, StepRunner, StepStats
from vidcurate.run.tracks import CutClip, Interval, SceneCounts, Track

_GROUP_BYTES = 64 * 2**20
_NEAR = 2.0  # seconds: decoding on over a short gap is cheaper than a seek to a key frame
_MARGIN = 0.25  # seconds around known intervals, for snapping to the nearest frame


@dataclass(frozen=True)
class VideoJob:
    """One video to score.

    path: where its bytes are. skip: ids of clips that are committed already. clips: rows of the
    clips to score again (a backfill); None splits the video anew. media: the run directory, where
    clips are cut to; None cuts none.
    """

    video_id: str
    source_key: str
    content_id: str
    row: VideoRow
    path: Path
    skip: frozenset[str] = frozenset()
    clips: tuple[Mapping[str, Any], ...] | None = None
    media: Path | None = None


@dataclass(frozen=True)
class Scored:
    """The finished row of one clip."""

    row: dict[str, Any]


@dataclass(frozen=True)
class Faulty:
    """One clip or interval that failed at a stage; the video goes on."""

    stage: str
    error: str
    message: str
    clip_id: str | None = None
    operator: str | None = None
    step: str | None = None
    interval: tuple[float | None, float | None] | None = None


@dataclass(frozen=True)
class VideoDone:
    """The video is finished: its row, and what it cost in CPU seconds.

    row is None for a backfill: the video's row stays. seconds: source time that was decoded.
    """

    row: dict[str, Any] | None
    seconds: float
    cpu: float
    steps: dict[str, StepStats] = field(default_factory=dict)


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
        rates = {_kind(s, Scorer).motion_vector_fps() for s in self.score} - {None}
        self.vector_rates = [Fraction(r).limit_denominator(1000) for r in rates if r is not None]

    @property
    def crop_is_fixed(self) -> bool:
        """True where no editor looks at frames: the crop is known before decoding."""
        return not self.edit_requests


_T = TypeVar("_T", Splitter, Editor, Scorer)


def _kind(step: Step, kind: type[_T]) -> _T:
    assert isinstance(step.operator, kind)
    return step.operator


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
        self.vectors: list[MotionVectors] = []
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
        yield from self._decode(self._intervals())
        if self.recrop:  # a second decode, of those clips alone whose crop the scorers must see
            again, self.recrop = self.recrop, []
            yield from self._decode(again)
        yield from self._flush()
        yield from self._damage()
        yield VideoDone(
            row=self._video_row() if self.job.clips is None else None,
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
        self.vectors.clear()
        rates = self.work.vector_rates
        fast = self.work.plan.profile == "fast"
        for low, high, members in _ranges(intervals):
            tracks = [self._track(i) for i in members]
            shot: Shot | None = None
            with Decoder(self.info, motion_vectors=bool(rates), fast=fast) as decoder:
                for shot in shots(decoder, low, high):
                    if shot.frame and any(on_grid(shot.previous, shot.time, r) for r in rates):
                        self.vectors.append(decoder.motion_vectors(shot.frame, shot.time))
                    for track in tracks:
                        for clip in track.push(shot):
                            yield from self._final(clip)
                    if shot.index % 32 == 0:
                        yield None
                        tracks = [t for t in tracks if not t.done]
                        if not tracks:
                            break
                self.trouble = self.trouble or decoder.last_error or None
                end_pts, end = self.info.start_pts, 0.0
                if shot is not None:
                    end_pts, end = shot.end_pts, shot.time + shot.duration
                for track in tracks:
                    for clip in track.finish(end_pts, end, decoder.packet_bytes):
                        yield from self._final(clip)
            for track in tracks:
                if track.is_empty:
                    yield self._missed(track.interval)
            self.end = max(self.end, end)
            self.decoded += max(0.0, end - (low or 0.0))
            if low is None and shot is not None:
                self.frames = shot.index + 1

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
        row = self._clip_row(cut, view)
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
        del fps  # one grid serves all: the rates of a recipe's steps are equal or nested
        return tuple(v for v in self.vectors if cut.start <= v.time < cut.end)

    def _clip_row(self, cut: CutClip, view: Clip) -> dict[str, Any]:
        plan, job, interval = self.work.plan, self.job, cut.interval
        crop = interval.crop
        identity = clip_id(job.video_id, cut.start, cut.end)
        row: dict[str, Any] = {}
        if interval.old is not None:
            row = dict(interval.old)
            identity = row["clip_id"]
        else:
            values = {**job.row.fields, **interval.row.fields}
            row = {plan.source_fields[k]: v for k, v in values.items() if k in plan.source_fields}
            row["caption_source"] = interval.row.caption
        kept = {k: v for k, v in row.get("fingerprints", {}).items() if k not in ("split", "edit")}
        prints = {k: plan.fingerprints[k] for k in ("split", "edit")}
        row.update(
            clip_id=identity,
            video_id=job.video_id,
            source=plan.source,
            dataset_id=job.row.dataset_id,
            audit=in_audit(identity, plan.audit),
            start=cut.start,
            end=cut.end,
            start_pts=cut.start_pts,
            end_pts=cut.end_pts,
            time_base_num=self.info.time_base.numerator,
            time_base_den=self.info.time_base.denominator,
            n_frames=cut.n_frames,
            crop=asdict(crop) if crop else None,
            width=view.width,
            height=view.height,
            fingerprints=kept | prints,
            scored_from="source",
        )
        row.setdefault("media", None)
        return row

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
        done = min((p.clip.start for p in group), default=0.0)
        self.vectors = [v for v in self.vectors if v.time >= done]

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

    def _video_row(self) -> dict[str, Any]:
        info, job = self.info, self.job
        counts = self.counts
        state = "done" if self.clips else "no_clips"
        return {
            "video_id": job.video_id,
            "source_key": job.source_key,
            "source": self.work.plan.source,
            "dataset_id": job.row.dataset_id,
            "location": job.row.location,
            "state": "partial" if self.trouble else state,
            "reason": self.trouble,
            "split_fingerprint": self.work.plan.fingerprints["split"],
            "container": info.container,
            "codec": info.codec,
            "pix_fmt": info.pix_fmt,
            "bit_depth": info.bit_depth,
            "coded_width": info.coded_width,
            "coded_height": info.coded_height,
            "width": info.width,
            "height": info.height,
            "sar_num": info.sar.numerator,
            "sar_den": info.sar.denominator,
            "rotation": info.rotation,
            "fps_num": info.fps.numerator,
            "fps_den": info.fps.denominator,
            "vfr": self.vfr,
            "time_base_num": info.time_base.numerator,
            "time_base_den": info.time_base.denominator,
            "start_pts": info.start_pts,
            "container_start": info.container_start,
            "duration": self.end if self.frames else info.duration,
            "n_frames": self.frames,
            "bitrate": info.bitrate,
            "size_bytes": info.size_bytes,
            "interlaced": info.interlaced,
            "color_matrix": info.color_matrix,
            "color_range": info.color_range,
            "color_transfer": info.color_transfer,
            "color_primaries": info.color_primaries,
            "has_audio": info.has_audio,
            "audio_codec": info.audio_codec,
            "audio_rate": info.audio_rate,
            "audio_channels": info.audio_channels,
            "content_id": job.content_id,
            "scenes": counts.scenes,
            "scenes_too_short": counts.too_short,
            "scenes_too_long": counts.too_long,
            "scenes_not_longest": counts.not_longest,
            "clips": self.clips,
            **{name: job.row.rights.get(name, "unknown") for name in RIGHTS},
        }


def _ranges(
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
