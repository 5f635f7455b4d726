"""Small pictures of single moments of a video."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vidcurate.media.convert import Converter
from vidcurate.media.decode import Decoder
from vidcurate.media.frames import Pixels
from vidcurate.media.probe import probe
from vidcurate.media.video import Box
from vidcurate.recipe.model import Limits

# A moment this many seconds ahead is reached by decoding on, one farther by seeking: a seek
# decodes a group of pictures over again, and these last from 0.5 to 10 seconds.
_NEAR = 3.0


@dataclass(frozen=True)
class Moment:
    """A picture that is wanted: the first frame at or after `time` and before `end`.

    key: the caller's name for it. time, end: seconds of source time (0 is the first decodable
    frame). crop: part of the picture, in display pixels; None is all of it.
    """

    key: str
    time: float
    end: float
    crop: Box | None = None


def thumbnails(
    path: Path, moments: Iterable[Moment], *, box: tuple[int, int]
) -> Iterator[tuple[Moment, Pixels]]:
    """The pictures of a video's moments, in the order of their times.

    Args:
        path: a local video file.
        moments: those wanted; one without a frame is left out.
        box: largest width and height of a picture in pixels; none is enlarged.

    Yields:
        a moment and its picture, uint8 RGB (H, W, 3), display-oriented.

    Raises:
        DataError: the file cannot be opened or decoded (see `probe` and `Decoder`).
    """
    limits = Limits()
    info = probe(path, max_pixels=limits.max_pixels, max_duration=limits.max_duration)
    converter = Converter(info, hdr="tonemap")
    waiting = deque(sorted(moments, key=lambda moment: moment.time))
    while waiting:
        with Decoder(info) as decoder:
            for decoded in decoder.frames(waiting[0].time):
                while waiting and waiting[0].time <= decoded.time:
                    moment = waiting.popleft()
                    if decoded.time < moment.end:
                        part = moment.crop or Box(0, 0, info.width, info.height)
                        size = _fit(part.width, part.height, box)
                        yield moment, converter.rgb(decoded.frame, *size, moment.crop)
                if not waiting or waiting[0].time > decoded.time + _NEAR:
                    break
            else:
                return  # the video ends before the others


def _fit(width: int, height: int, box: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, box[0] / width, box[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))
