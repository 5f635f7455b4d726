"""A contact sheet: one picture that shows some samples of each bucket, as they are trained on."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vidcurate.child import Child
from vidcurate.durable import replacing
from vidcurate.errors import DataError, RunDirectoryError, UserError
from vidcurate.media.frames import Pixels
from vidcurate.media.video import Box
from vidcurate.recipe.model import Limits
from vidcurate.report import format
from vidcurate.shards.index import INDEX_FILE, read_index
from vidcurate.shards.inspection import (
    BucketFacts,
    Inspection,
    caption_of,
    inspect_selection,
    open_rows,
)
from vidcurate.shards.tar_samples import VIDEO_SUFFIXES

_FRAMES = 4
_TARGET = "vidcurate.shards.contact_sheet:frames_job"
_LIMITS = Limits(time=120.0, stall=60.0)
_MAX_BUCKETS = 100
_HEIGHT = 65_000  # pixels; JPEG ends at 65,535

# All in pixels, colours as blue, green, red.
_WIDTH, _MARGIN, _GAP, _SEAM = 1640, 36, 20, 2
_FRAME = 192 * 108  # the area of one frame
_BACK, _PANEL, _RULE = (24, 19, 17), (42, 35, 31), (66, 56, 50)
_WHITE, _TEXT, _DIM = (245, 243, 240), (214, 208, 203), (158, 148, 140)
_LINE = 19
_FACE = "sans"  # comes with OpenCV 5, Chinese and Korean included


@dataclass(frozen=True)
class SheetReport:
    """What is on a sheet. missing: sample ids without a picture, and why."""

    path: Path
    samples: int
    buckets: int
    missing: Mapping[str, str]


@dataclass
class _Tile:
    """One sample. size: of a frame on the sheet."""

    row: dict[str, Any]
    count: int
    aspect: float
    pictures: list[Pixels] = field(default_factory=list)
    missing: str = ""

    @property
    def size(self) -> tuple[int, int]:
        # At least two tiles stand beside each other.
        most = ((_WIDTH - 2 * _MARGIN - _GAP) // 2 + _SEAM) // self.count - _SEAM
        width = min(round(math.sqrt(_FRAME * self.aspect)), most)
        return width, round(width / self.aspect)

    @property
    def width(self) -> int:
        return max(self.count * (self.size[0] + _SEAM) - _SEAM, 240)


def contact_sheet(
    folder: Path, out: Path, *, samples: int = 6, seed: int = 0, only: str | None = None
) -> SheetReport:
    """Draw some samples of each bucket of a packed selection: four frames of each, its caption.

    Frames are cut to the bucket's shape about the centre, as the reader cuts them for validation;
    those of `native` are whole. They are spread over the clip.

    Args:
        folder: with an index.json. out: the picture to write: .jpg, .png or .webp.
        samples: of each bucket, fewer where there are more than twelve buckets. seed: chooses them.
        only: draw samples of this shard alone (a path as in the index).

    Raises:
        UserError: the picture's name has another ending.
        RunDirectoryError: there is no index, or it is damaged.
        StorageError: the picture cannot be written.
    """
    if out.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
        raise UserError(f"{out}: a contact sheet is a .jpg, .png or .webp")
    index = read_index(folder)
    if index is None:
        raise RunDirectoryError(f"{folder} has no {INDEX_FILE}: it is not packed to its end")
    about = inspect_selection(folder)
    chosen = _chosen(folder, index, samples, seed, only)
    buckets = [bucket for bucket in about.buckets if bucket.name in chosen]
    shown = buckets[:_MAX_BUCKETS]
    each = samples if len(shown) <= 12 else max(2, samples * 12 // len(shown))
    tiles = {b.name: [_tile(row, b) for row in chosen[b.name][:each]] for b in shown}
    _take_frames(folder, [tile for found in tiles.values() for tile in found])
    sheet = _drawn(about, shown, tiles, len(buckets) - len(shown), only)
    jpeg = out.suffix.lower() in (".jpg", ".jpeg")
    how = [cv2.IMWRITE_JPEG_QUALITY, 88] if jpeg else []
    done, data = cv2.imencode(out.suffix.lower(), sheet, how)
    assert done
    with replacing(out) as temporary:
        temporary.write_bytes(data.tobytes())
    found = [tile for tiles_ in tiles.values() for tile in tiles_]
    missing = {tile.row["sample_id"]: tile.missing for tile in found if tile.missing}
    return SheetReport(out, len(found), len(shown), missing)


def _chosen(
    folder: Path, index: Mapping[str, Any], samples: int, seed: int, only: str | None
) -> dict[str, list[dict[str, Any]]]:
    """Rows of each bucket, drawn by chance: the lowest hashes of seed and id."""
    names = (
        *("sample_id", "shard", "members", "n_frames", "fps_num", "fps_den", "duration_s"),
        *("width", "height", "captions"),
    )
    where, values = ("", []) if only is None else (" WHERE shard = ?", [only])
    row = ", ".join(f"{name} := {name}" for name in names)
    with open_rows(folder, index) as rows:
        found = rows.execute(
            f"SELECT bucket, min_by(struct_pack({row}), md5(concat(?, ':', sample_id)), ?) "
            f"FROM samples{where} GROUP BY bucket",
            [str(seed), samples, *values],
        )
        return dict(found.fetchall())


def _tile(row: dict[str, Any], bucket: BucketFacts) -> _Tile:
    width, height = bucket.width or row["width"], bucket.height or row["height"]
    frames = bucket.frames or row["n_frames"]
    # A shape beyond 4:1 would be all edge.
    aspect = min(4.0, max(0.25, width / height))
    return _Tile(row, min(_FRAMES, frames), aspect)


# ---------------------------------------------------------------------- frames


def _take_frames(folder: Path, tiles: Sequence[_Tile]) -> None:
    """Fill in the pictures of all tiles, or why there are none; each in a child that may crash."""
    own = threading.local()
    children: list[Child] = []

    def take(tile: _Tile) -> None:
        if not hasattr(own, "child"):
            own.child = Child(_LIMITS)
            children.append(own.child)
        try:
            tile.pictures = list(own.child.run(_TARGET, _request(folder, tile, work)))
            if len(tile.pictures) < tile.count:
                tile.missing = f"only {len(tile.pictures)} of {tile.count} frames were found"
        except DataError as error:
            tile.missing = str(error)

    with tempfile.TemporaryDirectory(prefix="vidcurate-sheet-") as work:
        try:
            with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
                list(threads.map(take, tiles))
        finally:
            for child in children:
                child.close()


def _request(folder: Path, tile: _Tile, work: str) -> dict[str, Any]:
    row = tile.row
    places = {member["name"]: member for member in row["members"]}
    place = next((places[suffix] for suffix in VIDEO_SUFFIXES if suffix in places), None)
    if place is None:
        raise DataError("it has no video")
    width, height = row["width"], row["height"]
    wide, high = min(width, round(height * tile.aspect)), min(height, round(width / tile.aspect))
    crop = Box((width - wide) // 2, (height - high) // 2, max(1, wide), max(1, high))
    step = row["duration_s"] / tile.count
    return {
        "tar": folder / row["shard"],
        "offset": place["offset"],
        "size": place["size"],
        "work": work,
        "times": [
            max(0.0, (i + 0.5) * step - row["fps_den"] / row["fps_num"]) for i in range(tile.count)
        ],
        "crop": crop,
        "box": tile.size,
    }


def frames_job(request: Mapping[str, Any]) -> Iterator[Pixels]:
    """In a child: the frames of one sample at some times, uint8 RGB (H, W, 3).

    Raises:
        DataError: the tar or the video in it cannot be read.
    """
    from vidcurate.media.thumbnails import Moment, thumbnails

    with tempfile.NamedTemporaryFile(dir=request["work"]) as file:
        try:
            with request["tar"].open("rb") as tar:
                tar.seek(request["offset"])
                data = tar.read(request["size"])
        except OSError as error:
            raise DataError(f"the tar cannot be read: {error.strerror or error}") from error
        if len(data) != request["size"]:
            raise DataError("the tar is cut short before it")
        file.write(data)
        file.flush()
        moments = [Moment("", time, math.inf, request["crop"]) for time in request["times"]]
        try:
            for _, picture in thumbnails(Path(file.name), moments, box=request["box"]):
                yield picture
        except DataError as error:
            raise DataError(str(error).removeprefix(f"{file.name}: ")) from error


# ---------------------------------------------------------------------- drawing


def _drawn(
    about: Inspection,
    buckets: Sequence[BucketFacts],
    tiles: Mapping[str, Sequence[_Tile]],
    more: int,
    only: str | None,
) -> Any:
    """The sheet, uint8 BGR (H, W, 3)."""
    bands = [_title(about, only)]
    for bucket in buckets:
        bands.append(_bucket_title(bucket))
        bands += [_tile_row(row) for row in _rows(tiles[bucket.name])]
    kept: list[Any] = []
    height = 2 * _MARGIN
    for band in bands:
        height += band.shape[0]
        if height > _HEIGHT:
            more += 1
            break
        kept.append(band)
    if more:
        note = _blank(40)
        _write(note, f"and more buckets than fit here ({more} at least)", (_MARGIN, 26), 14, _DIM)
        kept.append(note)
    return np.vstack([_blank(_MARGIN - 8), *kept, _blank(_MARGIN)])


def _blank(height: int) -> Any:
    return np.full((height, _WIDTH, 3), _BACK, np.uint8)


def _title(about: Inspection, only: str | None) -> Any:
    band = _blank(76)
    _write(band, about.selection, (_MARGIN, 34), 28, _WHITE, 700)
    facts = [
        f"{about.samples:,} samples of {about.videos:,} videos",
        format.span(60 * about.minutes),
        format.size(about.bytes),
        f"{len(about.buckets)} bucket{'s' * (len(about.buckets) != 1)}",
    ]
    if only is not None:
        facts = [f"samples of {only}"]
    _write(band, "  \N{MIDDLE DOT}  ".join(facts), (_MARGIN, 62), 15, _DIM)
    return band


def _bucket_title(bucket: BucketFacts) -> Any:
    band = _blank(58)
    band[14, _MARGIN:-_MARGIN] = _RULE
    end = _write(band, bucket.name, (_MARGIN, 42), 19, _WHITE, 600)
    facts = [f"{bucket.samples:,} sample{'s' * (bucket.samples != 1)}"]
    if bucket.width is not None:
        frames = f"{bucket.frames} frame{'s' * (bucket.frames != 1)}"
        facts = [f"{bucket.width} \N{MULTIPLICATION SIGN} {bucket.height}", frames, *facts]
    facts += [format.span(60 * bucket.minutes), format.size(bucket.bytes)]
    _write(band, "  \N{MIDDLE DOT}  ".join(facts), (end + 18, 42), 15, _DIM)
    return band


def _rows(tiles: Sequence[_Tile]) -> Iterator[list[_Tile]]:
    """The tiles, as many beside each other as fit."""
    row: list[_Tile] = []
    for tile in tiles:
        if row and sum(t.width + _GAP for t in [*row, tile]) - _GAP > _WIDTH - 2 * _MARGIN:
            yield row
            row = []
        row.append(tile)
    if row:
        yield row


def _tile_row(tiles: Sequence[_Tile]) -> Any:
    captions = [
        _wrapped(caption_of(dict(tile.row["captions"])), tile.width, 14, 2) for tile in tiles
    ]
    bottoms = [t.size[1] + len(lines) * _LINE for t, lines in zip(tiles, captions, strict=True)]
    band = _blank(max(bottoms) + _LINE + 20)
    left = _MARGIN
    for tile, caption in zip(tiles, captions, strict=True):
        width, height = tile.size
        for i in range(tile.count):
            x = left + i * (width + _SEAM)
            place = band[:height, x : x + width]
            place[:] = _PANEL
            if i < len(tile.pictures):
                picture = tile.pictures[i][:, :, ::-1]
                place[:] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        row, top = tile.row, height + _LINE
        if tile.missing:
            for i, line in enumerate(_wrapped(tile.missing, tile.width - 24, 13, 3)):
                _write(band, line, (left + 12, height // 2 - 12 + i * _LINE), 13, _TEXT)
        rate = f"{row['fps_num'] / row['fps_den']:.4g} fps"
        facts = [f"{row['width']} \N{MULTIPLICATION SIGN} {row['height']}"]
        facts += [f"{row['n_frames']} frames", rate, format.span(row["duration_s"])]
        facts.append(row["sample_id"])  # last: it may be long
        (line,) = _wrapped("  \N{MIDDLE DOT}  ".join(facts), tile.width, 12, 1)
        _write(band, line, (left, top), 12, _DIM)
        for i, line in enumerate(caption, 1):
            _write(band, line, (left, top + i * _LINE), 14, _TEXT)
        left += tile.width + _GAP
    return band


def _write(
    band: Any, text: str, place: tuple[int, int], size: int, color: Sequence[int], weight: int = 400
) -> int:
    """Write text with its base line at a place; where it ends, in pixels from the left."""
    (end, _), _ = cv2.putText(band, text, place, color, cv2.FontFace(_FACE), size, weight)
    return int(end)


def _width(text: str, size: int) -> int:
    return int(cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace(_FACE), size, 400)[2])


def _wrapped(text: str, width: int, size: int, lines: int) -> list[str]:
    """Text in at most so many lines, broken at spaces where it can be; cut at the end."""
    found: list[str] = []
    text = " ".join(text.split())
    while text and len(found) < lines:
        fits = len(text)
        while fits > 1 and _width(text[:fits], size) > width:
            fits = max(1, min(fits - 1, fits * width // _width(text[:fits], size)))
        if fits < len(text) and len(found) == lines - 1:
            found.append(text[: max(1, fits - 1)].rstrip() + "\N{HORIZONTAL ELLIPSIS}")
            break
        space = text.rfind(" ", 0, fits + 1) if fits < len(text) else -1
        at = space if space > 0 else fits
        found.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return found
