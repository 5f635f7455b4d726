"""Text area: how much of the picture is text, overlays apart from text in the scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from vidcurate import Clip, Column, Frames, Scorer, UserError, column

Pixels = npt.NDArray[np.uint8]

# DB (Liao et al. 2020, arXiv 1911.08947) grows what it found by this share of area / perimeter.
# OCR wants room around the letters (1.6); with 0.7 the box is that of their ink: median 1.00 of it
# over 120 made texts of 5 words, 2 fonts and 3 sizes on real footage, 88 % of them within 20 %.
_UNCLIP = 0.7
_LONGEST = 960  # pixels: PaddleOCR's own limit; small pictures are never scaled up, see below
_TALLEST = 1 / 3  # of the short side: the network takes smooth textures for one giant letter
_STILL = 0.5  # correlation of a box with the same place in another frame
_COVERED = 0.5  # share of a box that is text in the other frame, too


class TextArea(Scorer):
    """Share of the picture inside the boxes of text lines, averaged over a few frames.

    `overlay` is text that stands still on the screen in all the frames (logos, captions, tickers'
    frames), `scene` is text that moves or changes (signs under a moving camera, rolling titles,
    subtitles that change in between), `total` both. Text in a scene that stands still itself
    counts as overlay: nothing tells them apart. Overlay and scene are null for a clip of a single
    frame. Typical: 0 for clean footage, 0.002 to 0.01 for a channel logo, 0.01 to 0.05 for a line
    of subtitles; published recipes drop above 0.01 to 0.05.

    Text is found, not read, by PP-OCR's detector (a DB network) through rapidocr, on the CPU with
    one thread: 0.1 to 0.3 s a frame. A box is that of a line's ink within 20 %; short words in
    letters of less than 15 pixels read up to 1.5 times too large. Letters taller than a third of
    the picture are not seen.

    frames: how many frames are looked at, spread over the clip.
    """

    name: ClassVar[str] = "text_area"
    extra: ClassVar[str] = "ocr"
    columns: ClassVar[Mapping[str, Column]] = {
        "overlay": column(
            "float32",
            unit="share of the picture",
            range=(0, 1),
            description="text that stands still",
        ),
        "scene": column(
            "float32",
            unit="share of the picture",
            range=(0, 1),
            description="text that moves or changes",
        ),
        "total": column(
            "float32", unit="share of the picture", range=(0, 1), description="all text"
        ),
    }

    frames: Annotated[int, Field(ge=1, le=16)] = 3

    _engine: Any = PrivateAttr(default=None)

    def request(self) -> Frames:
        """A few RGB frames of short side 540."""
        return Frames(count=self.frames, short_side=540, color="rgb")

    def setup(self) -> None:
        """Load the detector that lies in rapidocr's package; nothing is downloaded.

        Raises:
            UserError: rapidocr is not installed.
        """
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise UserError("text_area needs rapidocr: pip install 'vidcurate[ocr]'") from error
        self._engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_vertical_padding": False,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                # The default, "min", scales small pictures up, and then half of what is blurred
                # counts as text.
                "Det.limit_type": "max",
                "Det.limit_side_len": _LONGEST,
                "Det.unclip_ratio": _UNCLIP,
                "Det.box_thresh": 0.6,
            }
        )
        self._boxes(np.zeros((64, 64, 3), np.uint8))  # loads the model

    def score(self, clip: Clip) -> dict[str, float | None]:
        """Shares of one clip; see the class."""
        pixels = clip.pixels
        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8) for frame in pixels]
        boxes = [self._boxes(frame) for frame in pixels]
        masks = [_mask(found, gray) for found, gray in zip(boxes, grays, strict=True)]
        total = float(np.mean(masks))
        if len(pixels) == 1:
            return {"overlay": None, "scene": None, "total": total}
        still = []
        for i, found in enumerate(boxes):
            others = [j for j in range(len(boxes)) if j != i]
            stays = [
                box
                for box in found
                if all(_stands(box, grays[i], grays[j], masks[j]) for j in others)
            ]
            still.append(_mask(stays, grays[i]))
        overlay = float(np.mean(still))
        return {"overlay": overlay, "scene": max(0.0, total - overlay), "total": total}

    def _boxes(self, rgb: Pixels) -> list[npt.NDArray[np.int32]]:
        """The corners (4, 2) of each line of text."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        found = self._engine(bgr, use_det=True, use_cls=False, use_rec=False).boxes
        boxes = [] if found is None else [np.asarray(box, np.float32) for box in found]
        tallest = _TALLEST * min(rgb.shape[:2])
        return [b.round().astype(np.int32) for b in boxes if min(cv2.minAreaRect(b)[1]) <= tallest]


def _mask(boxes: list[npt.NDArray[np.int32]], like: Pixels) -> Pixels:
    """1 where a box is, 0 elsewhere."""
    mask = np.zeros_like(like)
    for box in boxes:
        cv2.fillPoly(mask, [box], 1)
    return mask


def _stands(box: npt.NDArray[np.int32], here: Pixels, there: Pixels, text_there: Pixels) -> bool:
    """True if the same letters are at the same place of another frame."""
    x, y, width, height = cv2.boundingRect(box)
    place = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
    if text_there[place].mean() < _COVERED:
        return False
    alike = cv2.matchTemplate(there[place], here[place], cv2.TM_CCOEFF_NORMED)
    return bool(alike[0, 0] >= _STILL)
