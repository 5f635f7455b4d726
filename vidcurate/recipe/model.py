"""A validated recipe: what the rest of vidcurate works with.

`vidcurate.recipe.load` makes it from YAML; nothing else reads the YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vidcurate.operator.base import ColumnOperator, Editor, Operator, Source, Splitter
from vidcurate.operator.columns import Column, Threshold, column_name
from vidcurate.units import Duration, Share, Size


class Section(BaseModel):
    """Base of the recipe's plain sections: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Download(Section):
    """How videos are downloaded. Proxies and cookies never come from the recipe's text: see below.

    max_height: of video pages, the best format up to this many pixels; None takes the best.
    videos_per_hour: at most this many from one host, over the whole cluster. None: 300 for video
        pages (about what a large host bears from one address), no limit for direct files.
    hosts: host -> videos_per_hour, for those that bear more or less.
    parallel: downloads at a time on one machine; per_host: of these from one host.
    tries: of one video before it goes to the quarantine as transient; between them the pause
        doubles (a host's Retry-After goes before).
    sections: score from only the parts of a file that the dataset's intervals need, with 2 s
        around them, where the host serves byte ranges and the file is MP4, MOV, Matroska or WebM;
        else, and where these are about half of it, from whole files. For a split that begins
        with `timestamps`. Pack cuts from whole files, which it downloads: `media: clips` cuts the
        clips while they are scored.
    opt_out: "respect" refuses what the host marks noai, noimageai, noindex or noimageindex
        (X-Robots-Tag).
    cookies: a file in Netscape's format; VIDCURATE_COOKIES names one, too. proxies: True takes
        HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY from the environment.
    """

    max_height: Annotated[int, Field(ge=16)] | None = None
    videos_per_hour: Annotated[float, Field(gt=0)] | None = None
    hosts: dict[str, Annotated[float, Field(gt=0)]] = {}
    parallel: Annotated[int, Field(ge=1, le=256)] = 8
    per_host: Annotated[int, Field(ge=1, le=64)] = 4
    tries: Annotated[int, Field(ge=1, le=20)] = 4
    sections: bool = False
    opt_out: Literal["respect", "ignore"] = "respect"
    cookies: str | None = None
    proxies: bool = False


class Acquire(Section):
    """How the bytes of videos are had.

    mirror: places that are looked at first, in order: folders or object stores by fsspec, as
        "s3://mine/panda/{video_id}.*". {video_id} is the dataset's own id (of a YouTube video its
        YouTube id), any other name in braces a column of the dataset's video, `*` any ending.
    download: what the mirror lacks is downloaded; false: it goes to the quarantine.
    allow_hosts: `host:port` of private addresses that may be downloaded from all the same.
    timeout: for one download. max_size: of one file. min_free: the run stops before a download
        leaves less than this on the disk of the cache.
    keep_sources: downloaded files stay (always), go when the video is packed, or go when its
        clips are cut (never; needs `media: clips`).
    """

    mirror: tuple[str, ...] = ()
    download: Download | Literal[False] = Download()
    allow_hosts: tuple[str, ...] = ()
    timeout: Duration = 600.0
    max_size: Size = 20 * 1024**3
    min_free: Size = 2 * 1024**3
    keep_sources: Literal["always", "until_packed", "never"] = "always"

    @field_validator("mirror", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Budget(Section):
    """What a run may use up before it pauses (exit status 3); the same command goes on.

    disk: bytes of the run directory and of the downloads that it keeps. time: of this call.
    """

    disk: Size | None = None
    time: Duration | None = None


class Limits(Section):
    """What one video may cost before it is given up: it goes to the quarantine.

    time: of the whole video in the decode process; stall: without a single frame.
    memory: resident bytes of the decode process. attempts: tries after a crash.
    model_time: of one batch in a model process, loading the weights included.
    """

    max_pixels: int = 8192 * 8192
    max_duration: Duration = 24 * 3600.0
    time: Duration = 4 * 3600.0
    stall: Duration = 120.0
    memory: Size = 3 * 1024**3
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    model_time: Duration = 3600.0


class Commit(Section):
    """When results are committed: after that many clips or that long, whichever is first."""

    clips: Annotated[int, Field(ge=1)] = 5000
    every: Duration = 60.0


class Balance(Section):
    """How many clips of each group are kept: in proportion to its size^power.

    by: a column: a step of `clusters`, `source`, a label. Clips with a null there are one group.
    power: 1 leaves the proportions, 0 keeps equal numbers; 0.5 takes a clip with a chance of
        1 / sqrt(size) ("Movie Gen", arXiv 2410.13720).
    limit: clips in all; without it size^power of each group.
    """

    by: str
    power: Annotated[float, Field(ge=0, le=1)] = 0.5
    limit: Annotated[int, Field(ge=1)] | None = None


class Selection(Section):
    """One named selection over the scored clips.

    where: a SQL condition over the clip table; `percentile(column, 20)` is the value below which
        20 % of the clips lie that pass the thresholds, `percentile(column, 20, category)` that of
        the clips with the same value in the column `category`.
    per_video: at most this many clips of one video. limit: at most this many in all.
    balance: between these two: of the clips that per_video leaves, so many of each group.
    where_annotated: a SQL condition that may use the columns of the annotate steps, over the clips
        that all of the above and the thresholds of the annotate steps leave; windows, such as
        `count(*) OVER (PARTITION BY caption_short) <= 100`, and `percentile` see those clips alone.
    order: SQL order in which per_video, balance and limit take clips (default: by hash of the clip
        id).
    val: share of videos in the validation split.
    duplicates: "drop": of clips with equal times in files with equal bytes one is kept, and what
        the group steps hold to be a duplicate is dropped; "keep": all are kept.
    """

    where: str | None = None
    where_annotated: str | None = None
    per_video: Annotated[int, Field(ge=1)] | None = None
    balance: Balance | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    order: str | None = None
    val: Share = 0.01
    duplicates: Literal["drop", "keep"] = "drop"


def bucket_name(short_side: int, aspect: str, frames: int) -> str:
    """The name of a bucket, for example "720p_16x9_121f"."""
    return f"{short_side}p_{aspect.replace(':', 'x')}_{frames}f"


class Buckets(Section):
    """The groups of (resolution, frames, aspect) that shards are made of: each with each.

    A clip goes to the aspect nearest to its own, and there to the largest short side that needs no
    upscaling and the most frames that it has.

    short_side: pixels, multiples of 16; the long side is rounded down to one. aspect: as "16:9".
    frames: counts of the form 4k+1.
    skip: names of groups that are not made ("720p_1x1_121f"), as too few clips would be in them:
        their clips go to the next smaller one that they fit.
    """

    short_side: tuple[int, ...] = Field(min_length=1)
    aspect: tuple[str, ...] = Field(default=("16:9", "4:3", "1:1", "3:4", "9:16"), min_length=1)
    frames: tuple[int, ...] = Field(min_length=1)
    skip: tuple[str, ...] = ()

    @field_validator("short_side")
    @classmethod
    def _multiples(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        for side in sides:
            if side < 16 or side % 16:
                raise ValueError(
                    f"short_side {side} is no multiple of 16; try {max(16, round(side / 16) * 16)}"
                )
        return sides

    @field_validator("frames")
    @classmethod
    def _counts(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        for count in counts:
            if count < 1 or count % 4 != 1:
                raise ValueError(
                    f"frames {count} is not of the form 4k+1; try {max(1, count // 4 * 4 + 1)}"
                )
        return counts

    @field_validator("aspect")
    @classmethod
    def _ratios(cls, ratios: tuple[str, ...]) -> tuple[str, ...]:
        for ratio in ratios:
            parts = ratio.split(":")
            if len(parts) != 2 or not all(p.isdigit() and int(p) > 0 for p in parts):
                raise ValueError(
                    f"aspect {ratio!r} is not written as width:height, for example 16:9"
                )
        return ratios

    @model_validator(mode="after")
    def _known(self) -> Self:
        every = set(self.names())
        for name in self.skip:
            if name not in every:
                raise ValueError(f"skip {name!r} is none of the groups, as {min(every)!r} is")
        return self

    def names(self) -> list[str]:
        """The names of all groups, those to skip included."""
        return [
            bucket_name(side, aspect, count)
            for side in self.short_side
            for aspect in self.aspect
            for count in self.frames
        ]

    def ratio(self, aspect: str) -> Fraction:
        """The aspect as a fraction, width over height."""
        width, height = aspect.split(":")
        return Fraction(int(width), int(height))


class Fit(Section):
    """How clips meet buckets.

    upscale: never: no clip goes to a bucket that is larger than its picture.
    max_crop: largest share of the picture that a bucket may cut away.
    max_short_side: pixels; larger pictures are scaled down to it (to even sides), which encodes
        them, once and from the source; None leaves all.
    max_fps: of faster clips every second frame is trained on, or every fourth and so on, until
        they are within it (1 % above it is within); None keeps all frames. Clips that are encoded
        anew hold only those frames; copied ones hold all, and the index says which are meant.
    no_bucket: "native" packs a clip that fits no bucket at its own size (bucket `native`),
        "report" leaves it out and counts it.
    """

    upscale: Literal["never"] = "never"
    max_crop: Annotated[float, Field(ge=0, le=0.9)] = 0.12
    max_short_side: Annotated[int, Field(ge=16)] | None = None
    max_fps: Annotated[float, Field(gt=0)] | None = None
    no_bucket: Literal["native", "report"] = "native"


class Encode(Section):
    """Re-encode packed clips at the bucket's size instead of copying their packets.

    crf: constant quality, in the codec's own measure: less is better and larger. preset: x264's
        names ("veryfast" to "veryslow"), which stand for like speeds of the other codecs.
    codec "ffv1" is lossless, as H.264 with quantiser 0, and keeps the source's size.
    """

    codec: Literal["h264", "hevc", "av1", "vp9", "ffv1"] = "h264"
    crf: Annotated[int, Field(ge=0, le=63)] = 17
    preset: str = "veryfast"


class Pack(Section):
    """How the selected clips become shards.

    buckets: "auto" chooses them from the clips' own sizes and lengths, so that little is lost and
        each holds enough clips, and says what it chose; a selection that grows keeps them. None
        packs every clip at its own size into the bucket `native`.
    encode: "copy" (packets as they are wherever the picture stays), or how to re-encode.
    audio: packed clips keep their sound track; "member" puts it into a file of its own (`.m4a`)
        beside a silent `.mp4`, in time with it; false leaves it out.
    shard_size: a tar is closed before it grows past this. seed: of the order of clips in shards.
    """

    buckets: Buckets | Literal["auto"] | None = None
    fit: Fit = Fit()
    encode: Literal["copy"] | Encode = "copy"
    audio: bool | Literal["member"] = True
    shard_size: Size = 256 * 1024**2
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One step of a recipe: an operator with its parameters, and what the recipe says of it.

    thresholds: by field of the operator ("" is its main column). `gate` thresholds also spare
    failing clips the later score steps; `report_only` thresholds never drop.
    on_error: "fail" makes the clip failed, "skip" makes the score null.
    batch_size: clips at most in a batch; None takes the operator's.
    """

    id: str
    operator: Operator
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    gate: bool = False
    report_only: bool = False
    safety: bool = False
    on_error: Literal["fail", "skip"] = "fail"
    batch_size: int | None = None

    @property
    def outputs(self) -> dict[str, Column]:
        """The columns that this step adds, by their names in the clip table."""
        if not isinstance(self.operator, ColumnOperator):
            return {}
        added = self.operator.output_columns()
        return {column_name(self.id, field): spec for field, spec in added.items()}

    @property
    def columns(self) -> list[str]:
        """Names in the clip table of the columns that this step adds."""
        return list(self.outputs)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, validated.

    raw: its YAML as plain data, with --set applied and `${VAR}` NOT yet replaced, for run.json:
        secrets from the environment never get there.
    models: what the names of its weights were resolved to, by `ModelRef.key`: a commit, or a
        digest of local files.
    """

    name: str
    sources: tuple[Step, ...]
    output: str
    split: tuple[Step, ...] = ()
    edit: tuple[Step, ...] = ()
    score: tuple[Step, ...] = ()
    group: tuple[Step, ...] = ()
    annotate: tuple[Step, ...] = ()
    select: Mapping[str, Selection] = field(default_factory=lambda: {"default": Selection()})
    pack: Pack | None = None
    acquire: Acquire = Acquire()
    budget: Budget = Budget()
    limits: Limits = Limits()
    commit: Commit = Commit()
    audit: float = 0.0
    media: Literal["source", "clips", "none"] = "source"
    hdr: Literal["tonemap", "refuse"] = "tonemap"
    profile: Literal["exact", "fast"] = "exact"
    executor: Literal["inline", "ray"] = "inline"
    address: str | None = None
    operators: tuple[str, ...] = ()
    path: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source_operators(self) -> list[Source]:
        """The sources in order, typed."""
        return [s.operator for s in self.sources if isinstance(s.operator, Source)]

    @property
    def splitters(self) -> list[Splitter]:
        """The splitters in order, typed."""
        return [s.operator for s in self.split if isinstance(s.operator, Splitter)]

    @property
    def editors(self) -> list[Editor]:
        """The editors in order, typed."""
        return [s.operator for s in self.edit if isinstance(s.operator, Editor)]

    def step(self, step_id: str) -> Step:
        """The step of that id.

        Raises:
            KeyError: no step has it.
        """
        for step in (
            *self.sources,
            *self.split,
            *self.edit,
            *self.score,
            *self.group,
            *self.annotate,
        ):
            if step.id == step_id:
                return step
        raise KeyError(step_id)
