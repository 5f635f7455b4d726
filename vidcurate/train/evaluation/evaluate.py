"""`vidcurate eval`: the metrics of a model, or of a folder of videos, against real clips."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vidcurate import __version__
from vidcurate.errors import ModelError, UserError
from vidcurate.models import clip_reference, load_clip, resolve
from vidcurate.train.config import Data
from vidcurate.train.evaluation.clips import RealClips, Video, VideoFolder
from vidcurate.train.evaluation.features import IMAGE_MODEL, VIDEO_MODEL, load_extractor
from vidcurate.train.evaluation.generating import Mode, Trained
from vidcurate.train.evaluation.metrics import (
    ClipSimilarity,
    FrechetMetric,
    Metric,
    MotionScores,
    Reconstruction,
    Side,
)
from vidcurate.train.evaluation.motion import MotionScorer
from vidcurate.train.evaluation.tally import Tally

Name = Literal["fvd", "fid", "clip", "vae", "motion"]
METRICS: tuple[Name, ...] = get_args(Name)

COMPARABLE = (
    "numbers compare only with those of the same extractor and revision, clips, number, size and "
    "length of clips, mode, sampling steps and guidance"
)


@dataclass(frozen=True)
class Settings:
    """What is evaluated, and how.

    checkpoint: a checkpoint or a training's output. generated: a folder of videos of any model, in
    place of generated ones. shards: the real clips; None takes those of the training.
    metrics: None takes all that can be had here; those that are named must be.
    samples: clips at most. seed: of their choice and of the noise.
    mode, steps, guidance, averaged: of sampling. batch: clips of a pack, and clips or pictures of
    an extractor, at a time. workers: processes that decode.
    video_model, image_model, clip_model: the extractors. vae, text_encoder: where the model's own
    lie now, if not where they were in training; without a model, the VAE that is measured.
    """

    checkpoint: Path | None = None
    generated: Path | None = None
    shards: str | None = None
    metrics: tuple[Name, ...] | None = None
    samples: int = 2048
    seed: int = 0
    mode: Mode = "text_to_video"
    steps: int = 50
    guidance: float = 4.0
    averaged: bool = True
    batch: int = 8
    workers: int = 2
    video_model: str = VIDEO_MODEL
    image_model: str = IMAGE_MODEL
    clip_model: str = "ViT-L-14/openai"
    vae: str | None = None
    text_encoder: str | None = None


def evaluate(settings: Settings, *, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure; plain JSON values: each metric with its extractor, and all settings.

    A metric that does not apply, or with `settings.metrics` None cannot run here, has
    `{"n/a": why}`.

    Args:
        show: takes lines of progress.

    Raises:
        UserError: what does not fit together; an empty split val.
        RunDirectoryError: there is no checkpoint, index or folder.
        ModelError, MissingExtraError: a metric that was asked for cannot run here.
    """
    if settings.checkpoint is None and settings.generated is None and settings.metrics != ("vae",):
        raise UserError(
            "there is nothing to evaluate: give a training's output, or --generated with a folder "
            "of videos; --metrics vae needs --vae and --shards alone"
        )
    began = time.monotonic()
    trained = None
    if settings.checkpoint is not None:
        trained = Trained(
            settings.checkpoint,
            averaged=settings.averaged,
            vae=settings.vae,
            text_encoder=settings.text_encoder,
        )
    metrics, results = _metrics(settings, trained)
    sides: set[Side] = {side for metric in metrics.values() for side in metric.sides}
    folder = None
    if settings.generated is not None and "generated" in sides:
        folder = VideoFolder(settings.generated, settings.samples)
        if "clip" in metrics and not folder.captioned:
            why = (
                f"the videos of {settings.generated} have no captions: write each one's into a "
                ".txt of its name beside it, or all into one .jsonl (file_name, caption)"
            )
            if settings.metrics is not None:
                raise UserError(f"clip: {why}")
            results["clip"] = {"n/a": why}
            del metrics["clip"]
    real = None
    if metrics and (folder is None or "real" in sides):
        real = _real_clips(settings, trained, results, metrics)
    tally = Tally()
    generating = trained if settings.generated is None and "generated" in sides else None
    if generating is not None:
        generating.load()
    for side, video in _videos(settings, real, folder, generating):
        tally.add(side, video)
        _add(settings, metrics, results, side, video)
        tally.tell(show, real, folder)
    for name, metric in metrics.items():
        try:
            results[name] = metric.result()
        except UserError as error:
            results[name] = {"n/a": str(error)}
    return {
        "version": __version__,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()},
        "checkpoint": None
        if trained is None
        else {
            "path": str(trained.path),
            "step": trained.said["step"],
            "averaged": settings.averaged and trained.said["averaged"],
        },
        "real": None if real is None else {"shards": real.shards, "skipped": real.skipped},
        "broken": [] if folder is None else folder.broken,
        "clips": tally.said(),
        "warnings": tally.warnings(),
        "comparable": COMPARABLE,
        "metrics": {name: results[name] for name in METRICS if name in results},
        "seconds": round(time.monotonic() - began, 1),
    }


def _add(
    settings: Settings,
    metrics: dict[Name, Metric],
    results: dict[Name, dict[str, Any]],
    side: Side,
    video: Video,
) -> None:
    for name, metric in list(metrics.items()):
        try:
            if side in metric.sides:
                metric.add(side, video)
        except ModelError as error:  # no memory, numbers that are not finite
            if settings.metrics is not None:
                raise
            results[name] = {"n/a": str(error)}
            del metrics[name]


def _metrics(
    settings: Settings, trained: Trained | None
) -> tuple[dict[Name, Metric], dict[Name, dict[str, Any]]]:
    """Those that can run, loaded, and why others cannot."""
    vae = settings.vae if trained is None else trained.vae or settings.vae
    metrics: dict[Name, Metric] = {}
    results: dict[Name, dict[str, Any]] = {}
    for name in settings.metrics or METRICS:
        if name == "vae" and vae is None:
            why = "the model is trained on pixels" if trained else "no model is given, nor --vae"
            results[name] = {"n/a": why}
            continue
        try:
            metrics[name] = _load(name, settings, vae)
        except UserError as error:  # no weights, no package
            if settings.metrics is not None:
                raise
            results[name] = {"n/a": str(error)}
    return metrics, results


def _load(name: Name, settings: Settings, vae: str | None) -> Metric:
    if name == "fvd":
        return FrechetMetric(load_extractor(settings.video_model, "video"), settings.batch)
    if name == "fid":
        return FrechetMetric(load_extractor(settings.image_model, "image"), settings.batch)
    if name == "clip":
        towers = load_clip(settings.clip_model)
        return ClipSimilarity(towers, resolve(clip_reference(settings.clip_model)))
    if name == "vae":
        assert vae is not None
        from vidcurate.models.vae import load_vae

        return Reconstruction(load_vae(vae))
    return MotionScores(MotionScorer())


def _real_clips(
    settings: Settings,
    trained: Trained | None,
    results: dict[Name, dict[str, Any]],
    metrics: dict[Name, Metric],
) -> RealClips | None:
    if trained is not None:
        data, resize = trained.data, trained.resize
    elif settings.shards is not None:
        data, resize = Data(shards=settings.shards), None
    else:
        why = "there are no real clips to compare with: give --shards"
        lacking = [name for name, metric in metrics.items() if name != "clip"]
        if settings.metrics is not None and lacking:
            raise UserError(f"{', '.join(lacking)}: {why}")
        for name in lacking:
            results[name] = {"n/a": why}
            del metrics[name]
        return None
    return RealClips(
        data,
        resize,
        shards=settings.shards,
        samples=settings.samples,
        seed=settings.seed,
        workers=settings.workers,
    )


def _videos(
    settings: Settings,
    real: RealClips | None,
    folder: VideoFolder | None,
    trained: Trained | None,
) -> Iterator[tuple[Side, Video]]:
    """All clips of both kinds; of what is generated, pack by pack."""
    if trained is None:
        yield from (("real", video) for video in real or ())
        yield from (("generated", video) for video in folder or ())
        return
    assert real is not None
    made = 0
    for pack in trained.packs(real, settings.batch):
        yield from (("real", video) for video in pack)
        seeds = [settings.seed + made + i for i in range(len(pack))]
        made += len(pack)
        clips = trained.generate(
            pack, seeds, mode=settings.mode, steps=settings.steps, guidance=settings.guidance
        )
        yield from (("generated", video) for video in clips)
