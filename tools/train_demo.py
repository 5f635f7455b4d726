"""Train a small model, check that it learnt something, and show what it makes of a first frame.

    tools/train_demo                      # sets up, runs tools/demo where it has not run, then this
    python tools/train_demo.py [--recipe FILE] [--set path.to.key=value] [--show WORDS]

Trains the recipe (default recipes/train/dit_demo.yaml), or goes on where it stopped. Then:

- the loss of the trained model, beside that of the best constant predictor on the same clips,
  masks, noise and noise levels (see `fit`): it must be under 0.8 of it;
- padding and rank imbalance of the run's packs;
- image to video: the first frame of a clip is given, the others are sampled, by the trained model
  and, from the same noise, by one that was not trained. The second frame must be nearer to the
  first than the untrained model's is;
- OUTPUT/sample.gif and .mp4: the given frame, what was made of it, and the clip itself;
  OUTPUT/demo.json: all figures.

Clips are shown by the words of `--show`, given once a row, in the path of their video (in the
sample id, where the shards belong to no run). Exits 1, saying why, where a check fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

import vidcurate
from vidcurate.errors import UserError, VidcurateError
from vidcurate.media.frame_files import save_frames
from vidcurate.shards.reader.batch import Batch
from vidcurate.train.checkpoint import checkpoints
from vidcurate.train.config import TrainConfig, load
from vidcurate.train.data import Clips, clips, dataset, rate_of
from vidcurate.train.loop import train
from vidcurate.train.metrics import read
from vidcurate.train.network import Network, objective_of, pack_of
from vidcurate.train.objective import errors
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.generate import load_network
from vidcurate.train.sampling.sampler import Sampler, to_pixels

REPO = Path(__file__).resolve().parent.parent
MOST_OF_CONSTANT = 0.8
SHOWN = ("bigbuckbunny", "made/pan_4px")  # free to show, unlike the demo's other footage
_DRAWS = 4  # of noise and masks for each clip
_STEPS = 50  # of the ODE
_SCALE, _FPS = 4, 4.0  # of the pictures
_CPU = torch.device("cpu")

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fit:
    """Losses over the same targets: of the trained model, and of the best constant predictor."""

    model: float
    constant: float

    @property
    def share(self) -> float:
        """The model's of the constant's."""
        return self.model / self.constant


@dataclass(frozen=True)
class Run:
    """How the packs of the run were filled and dealt, shares of 1.

    padding: of the tokens that packs have room for. balance_predicted: mean / max over the ranks of
    the run, of cost; two_ranks: what it would be if two ranks shared the packs of an epoch.
    """

    padding: float | None
    balance_predicted: float | None
    balance_two_ranks: float
    data_wait: float
    tokens_per_s: float


@dataclass(frozen=True)
class Shown:
    """A clip and what was made of its first frame.

    moved, untrained, real: mean absolute difference of the second frame to the first, in levels of
    0..255, of the sample, of the untrained model's and of the clip itself.
    """

    sample: str
    caption: str
    moved: float
    untrained: float
    real: float


@torch.no_grad()  # type: ignore[untyped-decorator]
def fit(network: Network, packs: Sequence[Clips], config: TrainConfig) -> Fit:
    """The losses over the training clips, with noise, masks and levels that are drawn as in
    training, but are none of training's draws.

    The best constant predictor gives the same D numbers for each token. Squared errors are least by
    the mean of the targets, so its loss is their variance: of velocities about 1 (the noise) and
    the variance of pixels. Where the loss has weights (epsilon), mean and variance have them, too.
    """
    objective = objective_of(config)
    found, count, weights = 0.0, 0, 0.0
    total = squares = torch.zeros((), dtype=torch.float64)
    for draw in range(_DRAWS):
        for own in packs:
            pack = pack_of(own, network, objective, _CPU, seed=config.data.seed, step=-1 - draw)
            found += float(errors(pack.through(network), pack.noised).sum(dtype=torch.float64))
            real = pack.noised.real
            target, weight = pack.noised.target[real].double(), pack.noised.weight[real].double()
            count += len(target)
            weights += float(weight.sum())
            total = total + weight @ target  # (D,)
            squares = squares + weight @ target.square()
    constant = (squares - total.square() / weights).mean() / count
    return Fit(found / count, float(constant))


def run_of(config: TrainConfig, batches: Sequence[Batch]) -> Run:
    """Means over the lines of the run's journal; `batches` of an epoch."""
    lines = [line for line in read(Path(config.output) / "metrics.jsonl") if "tokens_per_s" in line]

    def mean(name: str) -> float | None:
        values = [line[name] for line in lines if line[name] is not None]
        return float(np.mean(values)) if values else None

    costs = [batch.cost for batch in batches]
    pairs = list(zip(costs[::2], costs[1::2], strict=False))
    return Run(
        padding=mean("padding"),
        balance_predicted=mean("balance_predicted"),
        balance_two_ranks=float(np.mean([sum(pair) / 2 / max(pair) for pair in pairs] or [1.0])),
        data_wait=mean("data_wait") or 0.0,
        tokens_per_s=mean("tokens_per_s") or 0.0,
    )


def sources(shards: Path) -> dict[str, str]:
    """Where the samples of a packed selection come from: the source's key of each sample id.

    Empty where the shards belong to no run.
    """
    out = shards.resolve().parent.parent
    if not (out / "run.json").exists():
        return {}
    with vidcurate.open(out) as run:
        rows = run.sql(
            f"SELECT sample_id, source_key FROM index JOIN videos USING (video_id) "
            f"WHERE selection = '{shards.resolve().name}'"
        )
        return {row["sample_id"]: row["source_key"] for row in rows.to_pylist()}


def chosen(packs: Sequence[Clips], words: Sequence[str], known: dict[str, str]) -> list[Clips]:
    """For each word the first clip with it in its source, as a pack of its own.

    Raises:
        UserError: no clip has it.
    """
    every = sorted((own.ids[i], n, i) for n, own in enumerate(packs) for i in range(len(own.ids)))
    found = []
    for word in words:
        at = next(((n, i) for sample, n, i in every if word in known.get(sample, sample)), None)
        if at is None:
            raise UserError(f"no clip of more than one frame comes from {word!r}: give --show")
        own, i = packs[at[0]], at[1]
        found.append(
            replace(
                own,
                ids=[own.ids[i]],
                captions=[own.captions[i]],
                latents=[own.latents[i]],
                times=[own.times[i]],
                weight=own.weight[i : i + 1],
            )
        )
    return found


def made_of(network: Network, given: Sequence[Clips], config: TrainConfig) -> list[Frames]:
    """Image to video: each clip's first frame, continued to its length."""
    assert network.text is not None, "captions are read as bytes"
    sampler = Sampler(
        network.dit,
        network.text,
        config.model.patch,
        steps=_STEPS,
        guidance=1,
        objective=objective_of(config),
    )
    begun = [
        starts.image_to_video(own.latents[0][0], len(own.latents[0]), rate_of(own.times[0]))
        for own in given
    ]
    made = sampler(begun, [own.captions[0] for own in given], list(range(len(given))))
    return [to_pixels(latent).numpy() for latent in made]


def moved(frames: Frames) -> float:
    """Mean absolute difference of the second frame to the first, in levels of 0..255."""
    return float(np.abs(frames[1].astype(np.float64) - frames[0]).mean())


def picture(rows: Sequence[tuple[Frames, Frames]]) -> Frames:
    """Frames of a picture with a row for each (clip, what was made of its first frame)."""
    height, width = (max(clip.shape[side] for clip, _ in rows) * _SCALE for side in (1, 2))
    length = max(len(clip) for clip, _ in rows)
    head, gap = 22, 6
    across, down = 3 * (width + gap) + gap, head + len(rows) * (height + gap)
    canvas = np.full((length, down, across, 3), 255, np.uint8)
    for column, title in enumerate(("given: one frame", "generated", "the clip itself")):
        for frame in canvas:
            at = (gap + column * (width + gap), head - 7)
            cv2.putText(frame, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for row, (clip, made) in enumerate(rows):
        top = head + row * (height + gap)
        for column, shown in enumerate((clip[:1], made, clip)):
            left = gap + column * (width + gap)
            for n in range(length):
                large = _enlarged(shown[min(n, len(shown) - 1)])
                canvas[n, top : top + large.shape[0], left : left + large.shape[1]] = large
    return canvas


def _enlarged(frame: Frames) -> Frames:
    size = (frame.shape[1] * _SCALE, frame.shape[0] * _SCALE)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def untrained(config: TrainConfig) -> Network:
    """The network as training began with it."""
    torch.manual_seed(config.data.seed)
    network = Network(config.model)
    network.eval()
    return network


def demo(config: TrainConfig, words: Sequence[str]) -> Iterator[str]:
    """All of it; lines for people. What fails is told at the end.

    Raises:
        UserError: as training, and where `words` name no clip.
    """
    output, shards = Path(config.output), config.data.shards
    if not isinstance(shards, str):
        raise UserError("the demo shows clips of one folder of shards: data.shards names several")
    if config.encode.vae or config.encode.text:
        raise UserError("the demo trains on pixels and bytes: leave encode.vae and encode.text out")
    again = bool(checkpoints(output / "checkpoints"))
    began, busy = time.perf_counter(), time.process_time()
    train(config, show=print, write=save_frames)
    took, busy = time.perf_counter() - began, time.process_time() - busy
    network, _ = load_network(output, averaged=True)
    captioned = config.data.model_copy(update={"drop_captions": 0.0})
    batches = list(dataset(captioned, config.model, split=config.data.split, workers=0))
    packs = [clips(batch, config.model.patch) for batch in batches]
    fitted, run = fit(network, packs, config), run_of(config, batches)
    given = chosen(packs, words, sources(Path(shards)))
    made, first = made_of(network, given, config), made_of(untrained(config), given, config)
    real = [to_pixels(own.latents[0]).numpy() for own in given]
    shown = [
        Shown(own.ids[0], own.captions[0], moved(new), moved(old), moved(clip))
        for own, new, old, clip in zip(given, made, first, real, strict=True)
    ]
    film = picture(list(zip(real, made, strict=True)))
    for suffix in ("gif", "mp4"):
        save_frames(output / f"sample.{suffix}", film, _FPS)

    failures = []
    if not fitted.share < MOST_OF_CONSTANT:
        failures.append(f"the loss is {fitted.share:.2f} of the best constant predictor's")
    failures += [
        f"frame 2 of {one.sample} is no nearer to frame 1 ({one.moved:.1f}) than an untrained "
        f"model's ({one.untrained:.1f})"
        for one in shown
        if not one.moved < one.untrained
    ]
    figures = {
        "seconds": took,
        "cpu_seconds": busy,
        "fit": asdict(fitted),
        "run": asdict(run),
        "shown": [asdict(one) for one in shown],
        "failures": failures,
    }
    (output / "demo.json").write_text(json.dumps(figures, indent=1) + "\n")

    yield (
        f"trained in               {took:.0f} s, {busy:.0f} s of CPU time"
        f"{' from the checkpoint that was there' if again else ''}"
    )
    yield f"tokens a second          {run.tokens_per_s:,.0f}"
    yield f"loss                     {fitted.model:.3f}"
    yield f"  best constant's        {fitted.constant:.3f}"
    yield f"  share                  {fitted.share:.2f} (to be under {MOST_OF_CONSTANT})"
    if run.padding is not None:
        yield f"padding                  {run.padding:.1%}"
    yield f"rank imbalance           {1 - run.balance_two_ranks:.1%} if two ranks shared the packs"
    yield f"waiting for data         {run.data_wait:.1%}"
    yield "frame 2 from frame 1, in levels of 0..255: sample, untrained model's, the clip itself"
    for one in shown:
        yield f"  {one.sample[:12]:<22} {one.moved:.1f}, {one.untrained:.1f}, {one.real:.1f}"
    yield f"sample                   {output / 'sample.gif'}"
    if failures:
        raise DemoFailedError("; ".join(failures))


class DemoFailedError(VidcurateError):
    """The trained model is not what it should be."""

    exit_status = 1


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Train and check the demo's model.")
    parser.add_argument("--recipe", type=Path, default=REPO / "recipes/train/dit_demo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="PATH.TO.KEY=VALUE")
    parser.add_argument("--show", action="append", metavar="WORDS")
    given = parser.parse_args(arguments)
    try:
        for line in demo(load(given.recipe, overrides=given.set), given.show or SHOWN):
            print(line)
    except VidcurateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
