"""Ids of videos and clips, and the Arrow schemas of the run directory's tables."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pyarrow as pa

from vidcurate.media.blocks import open_bytes

if TYPE_CHECKING:
    from vidcurate.recipe.model import Recipe, Step

SCHEMA_VERSION = 1
_EDGE = 1024 * 1024
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def short_hash(text: str) -> str:
    """Hex of the first 16 bytes of the text's sha256: the form of every id."""
    return hashlib.sha256(text.encode()).digest()[:16].hex()


def video_id(source_key: str) -> str:
    """The id of a video, from its source key."""
    return short_hash(source_key)


def clip_id(video: str, start: float, end: float) -> str:
    """The id of a clip: of its video's id and its snapped times, to the microsecond."""
    return short_hash(f"{video}:{round(start * 1e6)}:{round(end * 1e6)}")


def content_edges(path: Path) -> tuple[int, str]:
    """Size of a local file and the sha256 of its first and last MiB.

    Of a file of sections (`media.blocks`) those of the whole file.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_bytes(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest.update(file.read(_EDGE))
        if size > _EDGE:
            file.seek(max(_EDGE, size - _EDGE))
            digest.update(file.read(_EDGE))
    return size, digest.hexdigest()


def file_key(relative: str, size: int, digest: str) -> str:
    """The source key of a local file: its path below the input, and its `content_edges`."""
    return f"file:{relative}:{size}:{digest}"


def is_url(location: str) -> bool:
    """True for a URL, False for a local path."""
    return "://" in location


def url_key(url: str) -> str:
    """The source key of a URL: `youtube:<id>` for that host, else the canonical URL.

    Canonical: scheme and host in lower case, default port and fragment left out.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if host in ("youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be"):
        name = (
            parts.path.lstrip("/")
            if host == "youtu.be"
            else parse_qs(parts.query).get("v", [""])[0]
        )
        if not name and parts.path.startswith(("/shorts/", "/embed/")):
            name = parts.path.split("/")[2]
        if _YOUTUBE_ID.fullmatch(name):
            return f"youtube:{name}"
    port = parts.port
    default = {"http": 80, "https": 443}.get(parts.scheme.lower())
    host = f"[{host}]" if ":" in host else host  # an IPv6 address
    netloc = host if port in (None, default) else f"{host}:{port}"
    return urlunsplit((parts.scheme.lower(), netloc, parts.path or "/", parts.query, ""))


def _required(*fields: tuple[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in fields]


def _prints(name: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(
        name,
        pa.map_(pa.string(), pa.string()),
        nullable=nullable,
        metadata={"description": "step -> fingerprint of the result that this row holds"},
    )


CLIP_FIELDS: list[pa.Field] = [
    *_required(
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("source", pa.string()),
    ),
    pa.field("dataset_id", pa.string()),
    *_required(
        ("audit", pa.bool_()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("start_pts", pa.int64()),
        ("end_pts", pa.int64()),
        ("time_base_num", pa.int64()),
        ("time_base_den", pa.int64()),
        ("n_frames", pa.int32()),
    ),
    pa.field(
        "crop",
        pa.struct([(n, pa.int32()) for n in ("x", "y", "width", "height")]),
        metadata={"unit": "display pixels of the source", "description": "box that pack keeps"},
    ),
    pa.field("width", pa.int32(), metadata={"description": "displayed, after the crop"}),
    pa.field("height", pa.int32(), metadata={"description": "displayed, after the crop"}),
    pa.field("score_status", pa.string(), nullable=False),  # scored | gated | failed
    pa.field("score_by", pa.string()),  # the step that gated or failed it
    _prints("fingerprints", nullable=False),
    pa.field("scored_from", pa.string(), nullable=False),  # source | media
    pa.field("media", pa.string(), metadata={"description": "path of the cut clip below OUT"}),
    pa.field("caption_source", pa.string(), metadata={"description": "the dataset's own caption"}),
    pa.field(
        "also",
        pa.map_(pa.string(), pa.string()),
        metadata={"description": "other source steps that name the clip -> what they say, JSON"},
    ),
]

GROUP_FIELDS: list[pa.Field] = [CLIP_FIELDS[0], _prints("group_fingerprints")]

ANNOTATION_FIELDS: list[pa.Field] = [
    CLIP_FIELDS[0],
    _prints("annotation_fingerprints"),
    pa.field("annotation_by", pa.string(), metadata={"description": "the step that failed"}),
]

RIGHTS = ("license", "terms", "channel", "retrieved_at", "sha256")

VIDEO_FIELDS: list[pa.Field] = [
    *_required(("video_id", pa.string()), ("source_key", pa.string()), ("source", pa.string())),
    pa.field("dataset_id", pa.string()),
    pa.field("location", pa.string(), nullable=False),
    pa.field("state", pa.string(), nullable=False),  # done | partial | no_clips | failed
    pa.field("reason", pa.string()),  # of a failed video
    pa.field("split_fingerprint", pa.string(), nullable=False),
    *[
        pa.field(name, kind)
        for name, kind in (
            ("container", pa.string()),
            ("codec", pa.string()),
            ("pix_fmt", pa.string()),
            ("bit_depth", pa.int32()),
            ("coded_width", pa.int32()),
            ("coded_height", pa.int32()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sar_num", pa.int64()),
            ("sar_den", pa.int64()),
            ("rotation", pa.int32()),
            ("fps_num", pa.int64()),
            ("fps_den", pa.int64()),
            ("vfr", pa.bool_()),
            ("time_base_num", pa.int64()),
            ("time_base_den", pa.int64()),
            ("start_pts", pa.int64()),
            ("container_start", pa.float64()),
            ("duration", pa.float64()),  # decoded: last frame's end
            ("n_frames", pa.int64()),  # decoded, over the whole source; null where only parts were
            ("bitrate", pa.int64()),
            ("size_bytes", pa.int64()),
            ("interlaced", pa.bool_()),
            ("color_matrix", pa.string()),
            ("color_range", pa.string()),
            ("color_transfer", pa.string()),
            ("color_primaries", pa.string()),
            ("has_audio", pa.bool_()),
            ("audio_codec", pa.string()),
            ("audio_rate", pa.int32()),
            ("audio_channels", pa.int32()),
            ("content_id", pa.string()),
            # source step -> how many clips it is the first to name (1 for the whole video)
            ("expected", pa.map_(pa.string(), pa.int32())),
            # start and end of each clip that the metadata names; an end of infinity is the video's
            ("intervals", pa.list_(pa.float64())),
            ("scenes", pa.int32()),  # before the length limits
            ("scenes_dropped", pa.int32()),  # by the splitter's refinement
            ("scenes_stitched", pa.int32()),  # by it, each to the scene before
            ("scenes_too_short", pa.int32()),
            ("scenes_too_long", pa.int32()),
            ("scenes_not_longest", pa.int32()),
            ("clips", pa.int32()),
        )
    ],
    *[pa.field(name, pa.string(), nullable=False) for name in RIGHTS],
]

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of (stage, video or row, clip, operator)
        pa.field(
            "stage", pa.string(), nullable=False
        ),  # source | acquire | decode | score | cut | pack
        pa.field("operator", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("clip_id", pa.string()),
        pa.field("location", pa.string()),
        pa.field("error", pa.string(), nullable=False),  # class name
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("transient", pa.bool_(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),  # JSON: all that a retry needs
    ]
)

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("fate", pa.string(), nullable=False),  # kept | dropped | failed | unjudged
        pa.field("by", pa.string()),  # step id, or "where", "per_video", "limit"
        pa.field("reason", pa.string()),  # "p95 < 0.5"
        pa.field("split", pa.string()),  # train | val; of kept clips
    ]
)

INDEX_MEMBER = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])

INDEX_VERSION = 2
"""Of index.json and of INDEX_SCHEMA."""

INDEX_SCHEMA = pa.schema(
    [
        *_required(
            ("schema_version", pa.int32()),
            ("sample_id", pa.string()),
            ("clip_id", pa.string()),
            ("video_id", pa.string()),
            ("bucket", pa.string()),
            ("shard", pa.string()),  # relative to the selection's folder
            (
                "members",
                pa.list_(INDEX_MEMBER),
            ),  # suffix ("mp4", "json", "txt") -> place in the tar
            ("n_frames", pa.int32()),
            ("preroll_frames", pa.int32()),
            ("frame_step", pa.int32()),  # every n-th frame of the file is trained on
            ("fps_num", pa.int64()),
            ("fps_den", pa.int64()),
            ("vfr", pa.bool_()),
            ("duration_s", pa.float64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
        ),
        # null in the bucket `native`
        pa.field("bucket_width", pa.int32()),
        pa.field("bucket_height", pa.int32()),
        pa.field("bucket_frames", pa.int32()),
        *_required(("has_audio", pa.bool_()), ("sha256", pa.string())),
        pa.field("audio_sha256", pa.string()),  # of the member m4a; null where there is none
        # of all that decided the sample's members; null where the tar was made elsewhere
        pa.field("fingerprint", pa.string()),
        *_required(("split", pa.string())),
        pa.field("captions", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("scores", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)


_PACKED = {
    *("location", "source_key", "video_own_id", "content_id", "path", "split", "captions"),
    *("scores", "rights", "out_width", "out_height", *RIGHTS),
}


def source_column(name: str, reserved: Sequence[str]) -> str:
    """The clip table's name for a dataset's own column: `source_<name>` where ours has it."""
    return f"source_{name}" if name in reserved else name


def source_fields(recipe: Recipe) -> dict[str, dict[str, pa.Field]]:
    """The datasets' own columns: source step -> the dataset's name -> field of the clip table.

    Sources share a column of one name and type; of another type it is `<step>_<name>`.
    """
    from vidcurate.operator.base import Source

    steps = (*recipe.score, *recipe.group, *recipe.annotate)
    reserved = {f.name for f in (*CLIP_FIELDS, *GROUP_FIELDS, *ANNOTATION_FIELDS)}
    reserved |= {c for s in steps for c in s.columns}
    reserved |= _PACKED  # pack puts its own beside the clip's columns
    taken: dict[str, pa.DataType] = {}
    found: dict[str, dict[str, pa.Field]] = {}
    for step in recipe.sources:
        fields = found.setdefault(step.id, {})
        assert isinstance(step.operator, Source)
        for field in step.operator.dataset_schema():
            name = source_column(field.name, sorted(reserved))
            if taken.get(name, field.type) != field.type:
                name = f"{step.id}_{field.name}"
            taken[name] = field.type
            fields[field.name] = field.with_name(name).with_nullable(True)
    return found


def clip_schema(recipe: Recipe) -> pa.Schema:
    """The schema of the clip table of this recipe: fixed fields, dataset columns, scores."""
    own = {f.name: f for fields in source_fields(recipe).values() for f in fields.values()}
    scores = [
        spec.field(name)
        for step in recipe.score
        for name, spec in step.outputs.items()
        if not spec.is_vector
    ]
    return pa.schema([*CLIP_FIELDS, *own.values(), *scores])


def vector_schema(recipe: Recipe) -> pa.Schema:
    """The schema of the table `vectors`: clip_id and the embeddings of the score steps."""
    return pa.schema([CLIP_FIELDS[0], *_fields(recipe.score, is_vector=True)])


def group_schema(recipe: Recipe) -> pa.Schema:
    """The schema of the table `groups`: of each clip, what the group steps say of it."""
    return pa.schema([*GROUP_FIELDS, *_fields(recipe.group)])


def annotation_schema(recipe: Recipe) -> pa.Schema:
    """The schema of the table `annotations`: what the annotate steps say of a selected clip."""
    return pa.schema([*ANNOTATION_FIELDS, *_fields(recipe.annotate)])


def _fields(steps: Sequence[Step], *, is_vector: bool = False) -> list[pa.Field]:
    return [
        spec.field(name)
        for step in steps
        for name, spec in step.outputs.items()
        if spec.is_vector == is_vector
    ]


VIDEO_SCHEMA = pa.schema(VIDEO_FIELDS)

PURGED_SCHEMA = pa.schema(
    [
        *_required(
            ("id", pa.string()),  # of the clip or the video
            ("kind", pa.string()),  # clip | video; a purged video's clips have rows of their own
            ("video_id", pa.string()),
        ),
        pa.field("source_key", pa.string()),  # of the video; null where it was never known
        pa.field("dataset_id", pa.string()),
        pa.field("location", pa.string()),
        # Of a clip, seconds as in the clip table: another splitter gives other ids.
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
    ]
)
"""What `vidcurate purge` removed, so that no later pass takes it again."""
