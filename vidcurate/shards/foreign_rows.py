"""Index rows of a tar's samples, from its bytes: what runs in a child process.

The tar is read once, from its first byte to its last.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidcurate.clip import INDEX_VERSION, is_url, url_key, video_id
from vidcurate.errors import DataError, RowError, StorageError
from vidcurate.media.whole_file import WholeFile, whole_file
from vidcurate.recipe.model import Limits
from vidcurate.shards.buckets import NATIVE, Bucket, bucket_size
from vidcurate.shards.tar_samples import Place, TarSample
from vidcurate.shards.tar_stream import TarReadError, TarStream

_MAX_TEXT = 16 * 1024**2
_TEXTS = ("json", "txt")
_BUCKET = re.compile(r"([1-9]\d*)p_([1-9]\d*)x([1-9]\d*)_([1-9]\d*)f")
_VIDEO_IDS = ("videoid", "videoID", "video_id", "youtube_id")


@dataclass(frozen=True)
class TarTask:
    """A tar to read. shard: its path below the index's folder. done: samples to pass over.

    video: where a sample's video is put while it is looked at. val: share of videos for validation.
    """

    tar: Path
    shard: str
    samples: tuple[TarSample, ...]
    video: Path
    limits: Limits
    val: float
    done: int = 0


@dataclass(frozen=True)
class TarEnd:
    """A tar was read to its end: its size and the sha256 of all of it."""

    bytes: int
    sha256: str


def rows_job(task: TarTask) -> Iterator[dict[str, Any] | DataError | TarEnd | None]:
    """Read the samples of a tar; runs in a child process.

    Yields:
        for each sample in order its index row (its key in place of its ids), or what is wrong with
        it; None as a sign of life; at last the end.

    Raises:
        TarReadError: the tar cannot be read, or changed meanwhile.
        StorageError: there is no room for a video.
    """
    try:
        file = task.tar.open("rb")
    except OSError as error:
        raise TarReadError(f"it cannot be read: {error.strerror or error}") from error
    with file:
        stream = TarStream(file)
        for sample in task.samples[task.done :]:
            try:
                texts, sums = _contents(stream, sample, task.video)
                yield (yield from _row(task, sample, texts, sums))
            except TarReadError:
                raise
            except DataError as error:
                text = str(error).removeprefix(f"{task.video}: ")
                yield type(error)(text, transient=error.is_transient)
        for _ in stream.read(None):
            yield None
        yield TarEnd(stream.place, stream.digest.hexdigest())


def _contents(
    stream: TarStream, sample: TarSample, video: Path
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The sample's .json and .txt by suffix, and the sha256 of its video and .m4a.

    The video lies at `video` then.

    Raises:
        RowError: there is no video, or a text is too large.
    """
    texts: dict[str, bytes] = {}
    sums: dict[str, str] = {}
    for place in sample.members:
        stream.skip_to(place.offset)
        if place == sample.video:
            sums["video"] = _written(stream, place, video)
        elif place.suffix == "m4a":
            digest = hashlib.sha256()
            for chunk in stream.read(place.size):
                digest.update(chunk)
            sums["m4a"] = digest.hexdigest()
        elif place.suffix in _TEXTS and place.size <= _MAX_TEXT:
            texts[place.suffix] = b"".join(stream.read(place.size))
    for place in sample.members:
        if place.suffix in _TEXTS and place.suffix not in texts:
            raise RowError(f"the .{place.suffix} has {place.size} bytes, more than {_MAX_TEXT}")
    return texts, sums


def _written(stream: TarStream, place: Place, path: Path) -> str:
    """Copy a member to a file; its sha256."""
    digest = hashlib.sha256()
    try:
        with path.open("wb") as out:
            for chunk in stream.read(place.size):
                digest.update(chunk)
                out.write(chunk)
    except OSError as error:
        raise StorageError(
            f"{path.parent}: no room for a video of {place.size} bytes "
            f"({error.strerror or error}); set TMPDIR to a folder that has it"
        ) from error
    return digest.hexdigest()


def _row(
    task: TarTask, sample: TarSample, texts: Mapping[str, bytes], sums: Mapping[str, str]
) -> Generator[None, None, dict[str, Any]]:
    about = _about(texts)
    if sample.video is None:
        said = ": ".join(str(about[k]) for k in ("status", "error_message") if about.get(k))
        has = ", ".join(f".{place.suffix}" for place in sample.members)
        raise RowError(f"a sample without a video ({said or f'it has {has}'})")
    limits = task.limits
    found: WholeFile = yield from whole_file(
        task.video, max_pixels=limits.max_pixels, max_duration=limits.max_duration
    )
    bucket = _bucket(about.get("bucket"), found) if _is_ours(about) else NATIVE
    video = _video_id(about, f"file:{task.shard}#{sample.key}")
    return {
        "schema_version": INDEX_VERSION,
        "sample_id": sample.key,
        "clip_id": sample.key,
        "video_id": video,
        "bucket": bucket.name,
        "shard": task.shard,
        "members": [{"name": p.suffix, "offset": p.offset, "size": p.size} for p in sample.members],
        "n_frames": found.n_frames,
        "preroll_frames": found.preroll_frames,
        "frame_step": 1,
        "fps_num": found.fps_num,
        "fps_den": found.fps_den,
        "vfr": found.vfr,
        "duration_s": found.duration_s,
        "width": found.width,
        "height": found.height,
        "bucket_width": bucket.width,
        "bucket_height": bucket.height,
        "bucket_frames": bucket.frames,
        "has_audio": found.has_audio or "m4a" in sums,
        "sha256": sums["video"],
        "audio_sha256": sums.get("m4a"),
        "split": _split(about, video, task.val),
        "captions": sorted(_captions(about, _text(texts, "txt")).items()),
        "scores": sorted(_scores(about).items()),
    }


def _text(texts: Mapping[str, bytes], suffix: str) -> str:
    try:
        return texts.get(suffix, b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(f"the .{suffix} is not valid UTF-8") from error


def _about(texts: Mapping[str, bytes]) -> dict[str, Any]:
    """What the .json holds; empty where there is none."""
    if "json" not in texts:
        return {}
    text = _text(texts, "json")
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair can be written so
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RowError("the .json holds half a character (a lone surrogate)") from error
    except (ValueError, RecursionError) as error:
        raise RowError(f"the .json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RowError("the .json is not a JSON object")
    return found


def _is_ours(about: Mapping[str, Any]) -> bool:
    """Whether pack wrote the .json."""
    maps = (about.get("captions"), about.get("scores"))
    return "sample_id" in about and all(isinstance(found, dict) for found in maps)


def _bucket(name: object, found: WholeFile) -> Bucket:
    """The bucket that pack named, where the file can fill it; else `native`."""
    match = _BUCKET.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return NATIVE
    side, across, down, frames = (int(n) for n in match.groups())
    size = bucket_size(side, Fraction(across, down))
    if frames > found.n_frames or size[0] > found.width or size[1] > found.height:
        return NATIVE
    return Bucket(match[0], *size, frames)


def _video_id(about: Mapping[str, Any], own: str) -> str:
    if _is_ours(about) and isinstance(about.get("video_id"), str):
        return str(about["video_id"])
    url = about.get("url")
    if isinstance(url, str) and is_url(url):
        try:
            return video_id(url_key(url))
        except ValueError:  # no real URL
            return video_id(url)
    named = (about.get(name) for name in _VIDEO_IDS)
    return video_id(next((text for text in named if isinstance(text, str) and text), own))


def _split(about: Mapping[str, Any], video: str, val: float) -> str:
    if _is_ours(about) and about.get("split") in ("train", "val"):
        return str(about["split"])
    # As select splits; md5 there is DuckDB's.
    place = hashlib.md5(f"split:{video}".encode(), usedforsecurity=False).hexdigest()[:8]
    return "val" if int(place, 16) < int(val * 2**32) else "train"


def _captions(about: Mapping[str, Any], text: str) -> dict[str, str]:
    if _is_ours(about):
        return {name: said for name, said in about["captions"].items() if isinstance(said, str)}
    captions = {"source": text} if text.strip() else {}
    for name, said in about.items():
        if name.startswith("caption") and isinstance(said, str) and said.strip():
            if name != "caption":
                captions.setdefault(name.removeprefix("caption_") or name, said)
            elif captions.setdefault("source", said) != said:
                captions["caption"] = said
    return captions


def _scores(about: Mapping[str, Any]) -> dict[str, float]:
    values = about["scores"] if _is_ours(about) else about
    found = {}
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # a whole number beyond all floats
                continue
            if math.isfinite(number):
                found[name] = number
    return found
