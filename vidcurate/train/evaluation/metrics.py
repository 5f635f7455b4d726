"""What is measured of real and of generated clips.

Each metric is fed with clips of both, keeps what it has measured of each (never the clips but for
one batch), and says a result at the end: plain JSON values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from vidcurate.errors import ScoreError, UserError
from vidcurate.train.evaluation.clips import Video
from vidcurate.train.evaluation.distances import bias_of, frechet, wasserstein
from vidcurate.train.evaluation.features import Extractor, Frames, even
from vidcurate.train.evaluation.motion import MotionScorer
from vidcurate.train.evaluation.quality import WINDOW, psnr, ssim

if TYPE_CHECKING:
    from vidcurate.models import ClipTowers
    from vidcurate.models.vae import Vae

Side = Literal["real", "generated"]

FRAMES = 8
"""Frames of a clip that metrics of single pictures look at, taken evenly; all of a shorter one."""


class Metric(Protocol):
    """See the module. sides: which clips it looks at."""

    sides: tuple[Side, ...]

    def add(self, side: Side, video: Video) -> None:
        """Measure one clip."""
        ...

    def result(self) -> dict[str, Any]:
        """What was found; once, at the end.

        Raises:
            UserError: too few clips, for example; says which.
        """
        ...


class FrechetMetric:
    """FVD or FID: the Fréchet distance between features of real and of generated clips.

    Numbers compare only with those of the same extractor and revision, number of clips, and sizes
    and lengths of clips: all of these are in the result. Of an image extractor each clip gives
    `FRAMES` rows; single pictures count there, and are left out with a video extractor.
    """

    sides: tuple[Side, ...] = ("real", "generated")

    def __init__(self, extractor: Extractor, batch: int) -> None:
        self._extractor = extractor
        self._batch = batch
        self._waiting: dict[Side, list[Frames]] = {"real": [], "generated": []}
        self._found: dict[Side, list[npt.NDArray[np.float32]]] = {"real": [], "generated": []}
        self._clips: dict[Side, int] = {"real": 0, "generated": 0}

    def add(self, side: Side, video: Video) -> None:
        """Measure one clip."""
        if self._extractor.kind == "video":
            if len(video.frames) < 2:
                return
            self._waiting[side].append(self._extractor.seen(video.frames))
        else:
            self._waiting[side].extend(_some(video.frames))
        self._clips[side] += 1
        if len(self._waiting[side]) >= self._batch:
            self._flush(side)

    def _flush(self, side: Side) -> None:
        waiting = self._waiting[side]
        for at in range(0, len(waiting), self._batch):
            self._found[side].append(self._extractor(waiting[at : at + self._batch]))
        waiting.clear()

    def result(self) -> dict[str, Any]:
        """value: the squared distance, as FID and FVD are."""
        rows = {}
        for side in self.sides:
            self._flush(side)
            if self._clips[side] < 2:
                raise UserError(
                    f"{self._clips[side]} {side} {self._extractor.kind}s, and a Fréchet distance "
                    "takes at least 2"
                )
            rows[side] = np.concatenate(self._found[side])
        width = rows["real"].shape[1]
        bias = bias_of(len(rows["real"]), len(rows["generated"]), width)
        return {
            "value": frechet(rows["real"], rows["generated"]),
            "extractor": self._extractor.name,
            "revision": self._extractor.revision,
            "width": width,
            "frames": self._extractor.frames if self._extractor.kind == "video" else FRAMES,
            "clips": dict(self._clips),
            "features": {side: len(found) for side, found in rows.items()},
            "warnings": [bias] if bias else [],
        }


class ClipSimilarity:
    """Cosine of prompt and video by CLIP: the mean over the clip's frames (`FRAMES` of them).

    CLIPSIM of GODIVA (Wu et al., arXiv 2104.14806); as a cosine, not times 100. That of real clips
    with the same prompts is what to compare it with.
    """

    sides: tuple[Side, ...] = ("real", "generated")

    def __init__(self, towers: ClipTowers, revision: str) -> None:
        self._towers = towers
        self._revision = revision
        self._found: dict[Side, list[float]] = {"real": [], "generated": []}

    def add(self, side: Side, video: Video) -> None:
        """Measure one clip; one without a prompt is left out."""
        if not video.caption:
            return
        pictures = self._towers.encode_images(_some(video.frames))
        text = self._towers.encode_text([video.caption])[0]
        self._found[side].append(float((pictures.astype(np.float64) @ text).mean()))

    def result(self) -> dict[str, Any]:
        """value: of generated clips; real: of real ones, None where these have no captions."""
        if not self._found["generated"]:
            raise UserError("no generated clip has a prompt")
        means = {side: float(np.mean(v)) if v else None for side, v in self._found.items()}
        return {
            "value": means["generated"],
            "real": means["real"],
            "extractor": self._towers.name,
            "revision": self._revision,
            "frames": FRAMES,
            "clips": {side: len(found) for side, found in self._found.items()},
            "warnings": [],
        }


class Reconstruction:
    """How well the VAE alone gives real clips back: PSNR and SSIM of decode(encode(clip)).

    The mean over clips, each cut in its middle to a size that the VAE takes. It bounds what a model
    on its latents can reach.
    """

    sides: tuple[Side, ...] = ("real",)

    def __init__(self, vae: Vae) -> None:
        self._vae = vae
        self._psnr: list[float] = []
        self._ssim: list[float] = []

    def add(self, side: Side, video: Video) -> None:
        """Measure one clip."""
        clip = _cut(video.frames, self._vae.config.compression)
        if clip is None:
            return
        shown = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
        made = (self._vae.decode(self._vae.encode(shown * 2 - 1)).cpu() + 1) / 2
        self._psnr.append(psnr(shown, made))
        self._ssim.append(float(ssim(shown, made).mean()))

    def result(self) -> dict[str, Any]:
        """psnr in dB, ssim."""
        if not self._psnr:
            raise UserError(f"no clip is of the VAE's size, and of {WINDOW}x{WINDOW} pixels")
        facts = self._vae.config.facts
        return {
            "psnr": float(np.mean(self._psnr)),
            "ssim": float(np.mean(self._ssim)),
            "vae": facts["name"],
            "revision": facts["revision"],
            "clips": {"real": len(self._psnr)},
            "warnings": [],
        }


class MotionScores:
    """Our own motion scores of real and of generated clips, and how far their distributions lie
    apart (Wasserstein-1, in the score's unit).

    failed: clips that a scorer failed on.
    """

    sides: tuple[Side, ...] = ("real", "generated")

    def __init__(self, scorer: MotionScorer) -> None:
        self._scorer = scorer
        self._found: dict[Side, list[dict[str, float | None]]] = {"real": [], "generated": []}
        self._failed: list[str] = []

    def add(self, side: Side, video: Video) -> None:
        """Measure one clip; single pictures are left out."""
        if len(video.frames) < 2:
            return
        try:
            self._found[side].append(self._scorer(video.frames, video.fps))
        except ScoreError as error:
            self._failed.append(str(error))

    def result(self) -> dict[str, Any]:
        """By score: means, distance, unit, and of how many clips it says something at all."""
        scores = {name: self._one(name, unit) for name, unit in self._scorer.units.items()}
        if not any(counts for one in scores.values() for counts in one["clips"].values()):
            raise UserError(
                "no scorer says anything of these clips: they have one frame, or are too small or "
                "short (see `vidcurate ops show motion`)"
            )
        failed = len(self._failed)
        return {
            "scores": scores,
            "scorers": list(self._scorer.scorers),
            "failed": failed,
            "warnings": [f"{failed} clips failed: {self._failed[0]}"] if failed else [],
        }

    def _one(self, name: str, unit: str) -> dict[str, Any]:
        values = {
            side: np.array([v for row in rows if (v := row[name]) is not None])
            for side, rows in self._found.items()
        }
        means = {side: float(v.mean()) if len(v) else None for side, v in values.items()}
        both = all(map(len, values.values()))
        return {
            "generated": means["generated"],
            "real": means["real"],
            "distance": wasserstein(values["real"], values["generated"]) if both else None,
            "unit": unit,
            "clips": {side: len(v) for side, v in values.items()},
        }


def _some(frames: Frames) -> Sequence[Frames]:
    return list(frames[even(len(frames), min(len(frames), FRAMES))])


def _cut(frames: Frames, compression: tuple[int, int, int]) -> Frames | None:
    """The middle of each picture, and the first frames, as far as a VAE takes them whole."""
    along, down, across = compression
    count = 1 + (len(frames) - 1) // along * along
    height, width = frames.shape[1] // down * down, frames.shape[2] // across * across
    if min(height, width) < WINDOW:
        return None
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return frames[:count, top : top + height, left : left + width]
