"""Small pictures of single moments of a video, by seeking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidcurate.media.convert import Converter
from vidcurate.media.decode import Decoder
from vidcurate.media.frames import Pixels
from vidcurate.media.probe import probe
from vidcurate.media.video import Box
from vidcurate.recipe.model import Limits


class Thumbnails:
    """Frames of one video, scaled to fit a box; never enlarged.

    Args:
        path: a local video file.
        box: largest width and height of a picture in pixels.

    Raises:
        DataError: the file cannot be opened or decoded (see `vidcurate.media.probe`).
    """

    def __init__(self, path: Path, *, box: tuple[int, int]) -> None:
        limits = Limits()
        self.info = probe(path, max_pixels=limits.max_pixels, max_duration=limits.max_duration)
        self.box = box
        self._converter = Converter(self.info, hdr="tonemap")

    def at(self, times: Sequence[float], *, end: float, crop: Box | None = None) -> list[Pixels]:
        """The first frame at or after each of `times`, before `end`; fewer where there is none.

        Args:
            times: seconds of source time (0 is the first decodable frame).
            end: seconds; frames from here on belong to another clip.
            crop: part of the picture, in display pixels; None is all of it.

        Returns:
            uint8 RGB, each (H, W, 3), display-oriented.

        Raises:
            DecodeError: the decoder gave up.
        """
        width, height = (crop.width, crop.height) if crop else (self.info.width, self.info.height)
        scale = min(1.0, self.box[0] / width, self.box[1] / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        found = []
        for time in times:
            with Decoder(self.info) as decoder:
                for decoded in decoder.frames(time, end):
                    found.append(self._converter.rgb(decoded.frame, *size, crop))
                    break
        return found
