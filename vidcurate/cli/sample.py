"""`vidcurate sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidcurate.cli.train import need_torch
from vidcurate.errors import UserError

if TYPE_CHECKING:
    from vidcurate.train.sampling.modes import Mode

_NEAR = 1.1  # a video of so much more than the model's frames a second is not thinned to these


def sample(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT|OUT", help="A checkpoint, or a train's output.")
    ],
    prompt: Annotated[str | None, typer.Option("--prompt", help="What to generate.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file of prompts, one a line.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="The video: .mp4 or .gif; of one frame also .png. Default sample.mp4 (.png of "
            "text_to_image). Several are numbered: sample-000.mp4.",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="text_to_video or text_to_image; of one --from: image_to_video (of a picture the "
            "default), forward (of a video the default: goes on), backward, loop or edit; of two: "
            "join or blend; of key frames: interpolate; long: more frames than it was trained on, "
            "from coarse to fine.",
        ),
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", help="A picture or video to start from; give it once or more."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Default: as it was trained. What is given is scaled to cover it and cut.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            min=1,
            help="Of the result; of forward, backward, loop and join: new ones; of blend: those "
            "that both clips share.",
        ),
    ] = None,
    between: Annotated[
        int | None,
        typer.Option("--between", min=1, help="New frames in each gap of interpolate."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Frames of what is given that the model looks at."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            min=0.1,
            max=1000,
            help="Of the result. Default: that of training; given videos are thinned to it. Of "
            "interpolate: the video's, times the new frames.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="How much edit (0.6) and blend (0.8) make anew, 0 to 1."),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="Of each prompt, with seeds from --seed on.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of the noise.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Along the ODE.")] = 50,
    guidance: Annotated[
        float, typer.Option("--guidance", min=0, help="Towards the prompt; 1: none, twice as fast.")
    ] = 4.0,
    negative: Annotated[
        str, typer.Option("--negative", help="A prompt that guidance leads away from.")
    ] = "",
    solver: Annotated[str, typer.Option("--solver", metavar="euler|heun")] = "euler",
    raw: Annotated[bool, typer.Option("--raw", help="Not the averaged weights.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Clips in one pack.")] = 8,
    vae: Annotated[
        str | None, typer.Option("--vae", help="Where the VAE of its training is, if it moved.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option("--text-encoder", help="The same of the text encoder.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="auto|bf16|fp32", help="auto: bf16 on a GPU.")
    ] = "auto",
) -> None:
    """Generate videos with a trained model: from prompts, pictures or videos."""
    need_torch()
    from vidcurate.media.frame_files import PICTURE, check_output, save_frames
    from vidcurate.train.sampling.generate import Generator
    from vidcurate.train.sampling.modes import check_given, check_mode, check_options
    from vidcurate.train.sampling.packs import How

    given = sources or []
    chosen = check_mode(mode or _usual(given))
    check_given(chosen, len(given))
    check_options(chosen, frames=frames, keep=keep, between=between, strength=strength)
    how = How.of(
        steps=steps,
        guidance=guidance,
        solver=solver,
        negative=negative,
        device=device,
        precision=precision,
        at_once=batch,
    )
    one = chosen in ("text_to_image", "edit") or (chosen == "text_to_video" and frames == 1)
    path = to or Path("sample" + (PICTURE if chosen == "text_to_image" else ".mp4"))
    check_output(path, picture=one)
    jobs = [(text, seed + i) for text in _prompts(prompt, prompts) for i in range(count)]
    generator = Generator(checkpoint, averaged=not raw, vae=vae, text_encoder=text_encoder)
    pixels = _size(size) or (generator.like["width"], generator.like["height"])
    clips, rate, between = _load(chosen, given, pixels, fps, between, generator)
    one = one if chosen != "edit" else frames == 1 or len(clips[0]) == 1
    check_output(path, picture=one, fps=rate)
    for at in range(0, len(jobs), batch):
        texts, seeds = zip(*jobs[at : at + batch], strict=True)
        made = generator.many(
            texts,
            seeds,
            mode=chosen,
            given=clips,
            size=pixels,
            frames=frames,
            fps=rate,
            keep=keep,
            between=between,
            strength=strength,
            how=how,
        )
        for number, video in enumerate(made, at):
            name = f"{path.stem}-{number:03d}{path.suffix}" if len(jobs) > 1 else path.name
            save_frames(path.with_name(name), video, rate)
            typer.echo(f"{len(video)} frames: {path.with_name(name)}")


def _usual(given: list[Path]) -> str:
    """The mode of what is given."""
    from vidcurate.media.frame_files import is_picture

    if len(given) > 1:
        raise UserError(
            f"--from is given {len(given)} times: say --mode join, blend or interpolate"
        )
    if not given:
        return "text_to_video"
    return "image_to_video" if is_picture(given[0]) else "forward"


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if file is None:
        return [prompt or ""]
    if prompt is not None:
        raise UserError("give --prompt or --prompts, not both")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {file} cannot be read as text in UTF-8: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"--prompts {file} holds no prompt; write one a line")
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UserError(f"--size {text}: write it as 256x144")
    return int(width), int(height)


def _load(
    mode: Mode,
    paths: list[Path],
    size: tuple[int, int],
    fps: float | None,
    between: int | None,
    generator: Any,
) -> tuple[list[Any], float, int | None]:
    """Clips uint8 (T, H, W, 3), frames a second of the result, and new frames between two."""
    from vidcurate.media.frame_files import at_rate, load_frames

    first = 1 if mode in ("image_to_video", "long") else None
    loaded = [load_frames(path, size=size, count=first) for path in paths]
    clips, rates = [clip for clip, _ in loaded], [rate for _, rate in loaded if rate]
    usual = generator.like["fps"]
    if first or not rates:
        return clips, fps or usual, between
    least = min(rates)
    if mode == "interpolate":
        new = between or generator.fewest_between
        thinned = [at_rate(clip, own, least) if own else clip for clip, own in loaded]
        return thinned, fps or least * (new + 1), new
    rate = fps or (least if least <= _NEAR * usual else usual)
    return [at_rate(clip, own, rate) if own else clip for clip, own in loaded], rate, between
