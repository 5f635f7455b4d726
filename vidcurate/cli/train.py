"""`vidcurate train` and `vidcurate sample`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from vidcurate.cli.recipes import Overrides
from vidcurate.errors import MissingExtraError, UserError


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of recipes/train.")],
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    output: Annotated[
        str | None, typer.Option("--output", help="Replaces the folder of the results.")
    ] = None,
) -> None:
    """Train the included DiT on packed shards, or go on from its latest checkpoint.

    On several GPUs: torchrun --nproc-per-node N -m vidcurate.train RECIPE.
    """
    _need_torch()
    from vidcurate.media.frame_files import save_frames
    from vidcurate.train.config import load
    from vidcurate.train.loop import train as run

    given = [*overrides, *([f"output={output}"] if output is not None else [])]
    config = load(recipe, overrides=given)
    summary = run(config, show=typer.echo, write=save_frames)
    if summary.stopped:
        typer.echo(f"stopped at step {summary.step} of {config.steps}; the same command goes on")
    typer.echo(f"checkpoint: {summary.checkpoint}")
    typer.echo(f"losses: {Path(config.output) / 'losses.svg'}")


def sample(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT|OUT", help="A checkpoint, or a train's output.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", help="What to generate.")] = "",
    to: Annotated[Path, typer.Option("--to", help="The video: .mp4 or .gif.")] = Path("sample.mp4"),
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="text_to_video; with --from: image_to_video, forward, backward, loop or edit.",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A picture or video to start from.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Default: as it was trained.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Of the result, or new ones.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1)] = None,
    strength: Annotated[float, typer.Option("--strength", help="How much edit makes anew.")] = 0.6,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 50,
    guidance: Annotated[float, typer.Option("--guidance", min=0)] = 4.0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Not the averaged weights.")] = False,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda")] = "auto",
) -> None:
    """Generate a video with a trained model: from a prompt, or from a picture or video."""
    _need_torch()
    from vidcurate.media.frame_files import load_frames, save_frames
    from vidcurate.train.sampling.generate import Generator, check_device, check_mode

    width, _, height = (size or "").lower().partition("x")
    if size is not None and not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size {size}: write it as 256x144")
    chosen = check_mode(mode or ("text_to_video" if source is None else "image_to_video"))
    generator = Generator(checkpoint, averaged=not raw)
    like = generator.like
    pixels = (int(width), int(height)) if size else (like["width"], like["height"])
    given, rate = None, 0.0
    if source is not None:
        given, rate = load_frames(source, size=pixels)
    made = generator(
        prompt,
        mode=chosen,
        given=given,
        size=pixels,
        frames=frames or like["frames"],
        fps=fps or rate or like["fps"],
        strength=strength,
        steps=steps,
        guidance=guidance,
        seed=seed,
        device=check_device(device),
    )
    save_frames(to, made, fps or rate or like["fps"])
    typer.echo(f"{len(made)} frames: {to}")


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("training needs torch: pip install 'vidcurate[train]'")
