"""`vidcurate eval`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vidcurate.cli.output import print_table
from vidcurate.durable import replacing
from vidcurate.errors import MissingExtraError, UserError
from vidcurate.nearest import suggest


def evaluate(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT|OUT", help="A checkpoint, or a train's output."),
    ] = None,
    generated: Annotated[
        Path | None,
        typer.Option("--generated", help="A folder of videos of any model, in place of samples."),
    ] = None,
    shards: Annotated[
        str | None, typer.Option("--shards", help="The real clips (split val); default: training's")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", help="Some of fvd,fid,clip,vae,motion; default: all that can be had."
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Clips at most.")] = 2048,
    mode: Annotated[
        str, typer.Option("--mode", help="text_to_video, or image_to_video.")
    ] = "text_to_video",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of clips and of noise.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 50,
    guidance: Annotated[float, typer.Option("--guidance", min=0)] = 4.0,
    raw: Annotated[bool, typer.Option("--raw", help="Not the averaged weights.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Clips at a time.")] = 8,
    workers: Annotated[int, typer.Option("--workers", min=0, help="That decode.")] = 2,
    video_model: Annotated[
        str | None, typer.Option("--video-model", help="Features of FVD; default: VideoMAE.")
    ] = None,
    image_model: Annotated[
        str | None, typer.Option("--image-model", help="Features of FID; default: DINOv2.")
    ] = None,
    clip_model: Annotated[
        str | None, typer.Option("--clip-model", help="As open_clip names it; default: ViT-L-14.")
    ] = None,
    vae: Annotated[str | None, typer.Option("--vae", help="Default: the model's own.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option("--text-encoder", help="Default: the model's own.")
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="All numbers and settings.")] = Path("eval.json"),
) -> None:
    """Compare generated clips with the real ones of the split val.

    FVD and FID, CLIP similarity to the prompt, the VAE's reconstruction, and motion scores.
    Numbers of other extractors, or of other numbers, sizes and lengths of clips do not compare.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("evaluation needs torch: pip install 'vidcurate[train,models]'")
    from vidcurate.train.evaluation import evaluate as work

    if mode not in ("text_to_video", "image_to_video"):
        raise UserError(f"--mode {mode}: text_to_video or image_to_video")
    chosen = None
    if metrics is not None:
        names = [name.strip() for name in metrics.split(",")]
        for name in names:
            if name not in work.METRICS:
                raise UserError(f"no metric {name!r}{suggest(name, work.METRICS)}")
        chosen = tuple(name for name in work.METRICS if name in names)
    models = {"video_model": video_model, "image_model": image_model, "clip_model": clip_model}
    found = work.evaluate(
        work.Settings(
            checkpoint=checkpoint,
            generated=generated,
            shards=shards,
            metrics=chosen,
            samples=samples,
            seed=seed,
            mode="text_to_video" if mode == "text_to_video" else "image_to_video",
            steps=steps,
            guidance=guidance,
            averaged=not raw,
            batch=batch,
            workers=workers,
            vae=vae,
            text_encoder=text_encoder,
            **{key: name for key, name in models.items() if name is not None},
        ),
        show=typer.echo,
    )
    with replacing(to) as temporary:
        temporary.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", "utf-8")
    _print(found)
    typer.echo(f"all of it: {to}")


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    warnings = [*found["warnings"], *(f"left out: {why}" for why in found["broken"])]
    for name, one in found["metrics"].items():
        if "n/a" in one:
            rows.append((name, "n/a", "", "", "", "see below"))
            warnings.append(f"{name} is n/a: {one['n/a']}")
            continue
        warnings += [f"{name}: {text}" for text in one["warnings"]]
        if name == "motion":
            silent = [score for score, own in one["scores"].items() if not any(_counts(own))]
            if silent:
                warnings.append(f"motion: no verdict on any clip of {', '.join(silent)}")
            rows += [
                (
                    score,
                    _number(own["generated"]),
                    _number(own["real"]),
                    _number(own["distance"]),
                    _clips(own["clips"]),
                    own["unit"],
                )
                for score, own in one["scores"].items()
                if score not in silent
            ]
            continue
        of = f"{one.get('extractor') or one['vae']} ({one['revision'][:19]})"
        if name == "vae":
            clips = _clips(one["clips"])
            rows.append(("vae psnr", "", _number(one["psnr"]), "", clips, f"dB; {of}"))
            rows.append(("vae ssim", "", _number(one["ssim"]), "", clips, of))
        elif name == "clip":
            rows.append(
                ("clip", _number(one["value"]), _number(one["real"]), "", _clips(one["clips"]), of)
            )
        else:
            rows.append((name, "", "", _number(one["value"]), _clips(one["clips"]), of))
    print_table(("metric", "generated", "real", "distance", "clips", "of"), rows)
    for text in warnings:
        typer.echo(f"note: {text}")
    typer.echo(f"note: {found['comparable']}")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _counts(one: dict[str, Any]) -> list[int]:
    return list(one["clips"].values())


def _clips(counts: dict[str, int]) -> str:
    return " / ".join(str(counts[side]) for side in ("generated", "real") if side in counts)
