"""The training loop: flat, from the shards to the checkpoint."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidcurate.durable import replacing
from vidcurate.errors import DivergedError, UserError
from vidcurate.lock import Lock
from vidcurate.train import checkpoint as saved
from vidcurate.train import fine_tune
from vidcurate.train.codes import Codes, codes_of
from vidcurate.train.config import Optimizer, TrainConfig
from vidcurate.train.data import dataset, endless, rate_of
from vidcurate.train.encoders import Encoders
from vidcurate.train.fresh import forget, refuse_others
from vidcurate.train.metrics import Journal, Meter, Stopwatch, peak_tflops
from vidcurate.train.model.flops import TRAINING, flops
from vidcurate.train.network import (
    Average,
    Network,
    Pack,
    objective_of,
    optimizer_of,
    pack_of,
)
from vidcurate.train.objective import by_quartile, errors
from vidcurate.train.parallel import Place, inner, placed, spread, synced, whole
from vidcurate.train.picture import draw_losses
from vidcurate.train.resume import At, resume, settings_of, tensors_of
from vidcurate.train.tau import causal_weights
from vidcurate.train.validation import Validator, WriteVideo

_log = logging.getLogger("vidcurate.train")


@dataclass(frozen=True)
class Summary:
    """What a run did; OUT/summary.json has the same.

    step: that it ended at. stopped: by SIGTERM, before the last step. seconds: of this process.
    loss: of the last line; None where no step was done. checkpoint: the latest. not_finite: steps
    that were skipped for their loss. skipped: samples that could not be read, by error.
    """

    step: int
    stopped: bool
    seconds: float
    loss: float | None
    checkpoint: str
    not_finite: int
    skipped: dict[str, int]


def train(
    config: TrainConfig,
    *,
    show: Callable[[str], None] = print,
    write: WriteVideo | None = None,
    fresh: bool = False,
) -> Summary:
    """Train to `config.steps`, going on from the latest checkpoint in `config.output`.

    SIGTERM and Ctrl-C end it after the step that is at work, with a checkpoint and without a
    validation; a second one at once. Under torchrun each process calls it.

    Args:
        show: takes each line for people. write: (path, uint8 frames (T, H, W, 3), frames a second)
            writes a video; without it none are generated. fresh: remove what the output holds of a
            training, after saying it, and begin anew.

    Raises:
        UserError: no samples, a clip of more tokens than the budget, a checkpoint of another model
            or data set, `fresh` where the output is no training's. RunDirectoryError: another
            training writes to the output.
        DivergedError: a loss or gradients that are not finite, with on_nan: stop.
        StorageError: the last checkpoint could not be saved.
        KeyboardInterrupt: after a Ctrl-C, with the checkpoint saved.
    """
    with placed(config.device) as place, _signals() as caught, _alone(config, place, fresh=fresh):
        summary = _train(config, place, caught, show, write, fresh=fresh)
        if signal.SIGINT in caught:
            raise KeyboardInterrupt
        return summary


def _train(  # noqa: PLR0912, PLR0915 (flat: read from top to bottom)
    config: TrainConfig,
    place: Place,
    caught: list[int],
    show: Callable[[str], None],
    write: WriteVideo | None,
    *,
    fresh: bool,
) -> Summary:
    output, began = Path(config.output), time.perf_counter()
    codes, line = place.objects(codes_of(config))[0]  # the same on all ranks, whatever appears
    if place.first:
        _say(config, codes, line)
    videos = config.validate_.every is not None and config.validate_.videos > 0
    decodes = videos and write is not None and place.first
    encoders = Encoders(config, codes, place.device, decodes=decodes)
    torch.manual_seed(config.data.seed)  # the same weights on all ranks
    network = Network(
        config.model,
        rows=codes.text_width is not None,
        recompute=config.optimizer.recompute,
        compiled=config.compile,
    )
    own = [] if fresh else saved.checkpoints(output / "checkpoints")
    settings = settings_of(config, codes)
    base = fine_tune.begin(network, config, settings, own[-1] if own else None, place)
    network = network.to(place.device)
    bf16 = config.precision == "bf16"
    model = spread(network, network.dit.blocks, place, config.parallel, bf16=bf16)
    optimizer = optimizer_of(model, config)
    average = Average(model, config.ema) if config.ema is not None else None
    data = dataset(config.data, config.model, codes, split=config.data.split)
    validator = None
    if config.validate_.every is not None:
        validator = Validator(config, encoders, place, write)
    if fresh:  # not before all that the recipe names is found to be there and to fit
        place.by_first(lambda: _forget(config, codes, show))
    saver = saved.Saver(output / "checkpoints", config.checkpoint.keep, place)
    begun, epoch, not_finite = (
        resume(own[-1], settings, codes, model, optimizer, average, data, place) if own else At()
    )
    step = begun
    if place.first and step >= config.steps:
        _log.info("step %d of %d: nothing is left to do; set more steps", step, config.steps)
    journal = Journal(output, step, show) if place.first else None
    peak = config.log.peak_tflops or peak_tflops(place.device, config.precision)
    meter = Meter(
        place,
        budget=config.data.budget if config.data.batching == "pack" else None,
        peak=peak and peak * 1e12,
    )
    watch = Stopwatch(place.device)
    objective = objective_of(config, chained=codes.chained)
    autocast = torch.autocast(place.device.type, torch.bfloat16) if bf16 else nullcontext()
    weights = [w for w in inner(model).parameters() if w.requires_grad]
    batches = endless(data)
    loss, stop, state = None, False, data.state_dict()
    drop = config.data.split != "val"
    like: dict[str, Any] | None = None
    try:
        while step < config.steps and not stop:
            packs: list[Pack] = []
            cost = 0.0
            for _ in range(config.optimizer.accumulation):
                waited = time.perf_counter()
                batch = next(batches)
                meter.add(
                    data_wait=time.perf_counter() - waited,
                    skipped=len(batch.faults),
                    uncaptioned=batch.uncaptioned,
                )
                pack = pack_of(
                    encoders(batch, drop=drop),
                    network,
                    objective,
                    place.device,
                    seed=config.data.seed,
                    step=step,
                )
                packs.append(pack)
                cost += batch.cost if pack.real else 0.0
                state = batch.state
                like = _like(pack, codes) if pack.real or like is None else like
            # Known before the forward pass, so that a token weighs the same in whatever pack.
            real = sum(pack.real for pack in packs)
            every = place.gathered([real, cost, watch.take(), float(bool(caught))])
            total, stop = max(1.0, float(every[:, 0].sum())), bool(every[:, 3].any())
            meter.balance(every[:, 1], every[:, 2].tolist())

            lr = learning_rate(config.optimizer, step, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            found: list[Tensor] = []
            for i, pack in enumerate(packs):
                with synced(model, i == len(packs) - 1):
                    watch.start()
                    with autocast:
                        predicted = pack.through(model)
                    watch.stop()
                    error = errors(predicted, pack.noised)
                    # times the ranks: DDP and FSDP2 take the mean over these
                    (error.sum() * (place.ranks / total)).backward()
                found.append(error.detach())
                _count(meter, config, pack)
            norm = whole(
                nn.utils.clip_grad_norm_(weights, config.optimizer.clip or math.inf)
            ).item()
            if math.isfinite(norm):
                optimizer.step()
                if average is not None:
                    average.update(step)
                for pack, error in zip(packs, found, strict=True):
                    meter.losses(*by_quartile(error, pack.noised, pack.layout))
            else:
                not_finite += 1
                _tell(config, step, _culprits(packs, found, place))
            optimizer.zero_grad(set_to_none=True)
            step += 1
            epoch = _epoch(state)

            last = step == config.steps or stop
            saver.poll()
            if last or (config.checkpoint.every and step % config.checkpoint.every == 0):
                said = {
                    "epoch": epoch,
                    "not_finite": not_finite,
                    "data": state,
                    **settings,
                    "lora": config.lora.model_dump(mode="json") if config.lora else None,
                    "base": base,
                    "averaged": average is not None,
                    "like": like,
                    "trained_on": config.data.model_dump(mode="json"),
                }
                saver.save(tensors_of(model, optimizer, average)[0], step, said)
            if last or step % config.log.every == 0:
                line = meter.line(
                    step=step, epoch=epoch, lr=lr, grad_norm=norm, not_finite=not_finite
                )
                loss = line["loss"]
                if journal is not None:
                    journal.write(line)
            # Not after a SIGTERM: whoever sent it waits for the checkpoint, and not for long.
            due = step == config.steps or step % (config.validate_.every or 1) == 0
            if validator is not None and due and not stop:
                validating = time.perf_counter()
                saver.wait()  # it takes long: a kill in it must not cost what is saved
                checked = validator(model, average, step)
                if journal is not None:
                    journal.write({"step": step, **checked})
                meter.pause(time.perf_counter() - validating)
        saver.finish()
    finally:
        saver.wait()
        batches.close()
        if journal is not None:
            journal.close()
    latest = saved.checkpoints(saver.folder)
    summary = Summary(
        step=step,
        stopped=step < config.steps,
        seconds=time.perf_counter() - began,
        loss=loss,
        checkpoint=str(latest[-1]) if latest else "",
        not_finite=not_finite,
        skipped=dict(sum((Counter(s) for s in place.objects(dict(data.skipped))), Counter())),
    )
    if place.first and (step > begun or not (output / "summary.json").exists()):
        with replacing(output / "summary.json") as temporary:
            temporary.write_text(json.dumps(asdict(summary), indent=1) + "\n")
        draw_losses(output / "metrics.jsonl", output / "losses.svg")
    return summary


def learning_rate(how: Optimizer, step: int, steps: int) -> float:
    """Of the step'th step of `steps`, counted from 0."""
    if step < how.warm_up:
        return how.lr * (step + 1) / how.warm_up
    done = (step - how.warm_up) / max(1, steps - how.warm_up)
    if how.schedule == "cosine":
        return how.lr * (how.final + (1 - how.final) * (1 + math.cos(math.pi * done)) / 2)
    if how.schedule == "linear":
        return how.lr * (how.final + (1 - how.final) * (1 - done))
    return how.lr


@contextmanager
def _alone(config: TrainConfig, place: Place, *, fresh: bool) -> Iterator[None]:
    """No other training writes to the output inside."""
    output = Path(config.output)
    with ExitStack() as held:
        if fresh:  # before the lock leaves a file there
            place.by_first(lambda: refuse_others(output))
        place.by_first(lambda: held.enter_context(Lock(output)))
        yield


def _forget(config: TrainConfig, codes: Codes, show: Callable[[str], None]) -> None:
    """`--fresh`: what the output holds of a training, but never what is begun from."""
    output = Path(config.output)
    if config.init_from is not None:
        begun = saved.find(Path(config.init_from.checkpoint)).resolve()
        if begun.is_relative_to(output.resolve()):
            raise UserError(
                f"--fresh would remove {begun}, which init_from begins with; give another output"
            )
    # The first batch is planned and read, so that clips which do not fit are told before.
    next(iter(dataset(config.data, config.model, codes, split=config.data.split, workers=0)))
    forget(output, show)


def _say(config: TrainConfig, codes: Codes, line: str) -> None:
    """Whence samples come, and which masks they cannot be trained on."""
    _log.info("%s", line)
    weights = config.objective.modes
    fits = causal_weights(weights, config.model.patch[0])
    without = [kind for kind, weight in weights.items() if weight > 0 and not fits[kind]]
    if codes.chained and config.objective.masked and without:
        _log.info(
            "no masks of %s: a kept frame in the middle of a causal VAE's latents tells of those "
            "before it",
            " and ".join(without),
        )


def _epoch(state: dict[str, Any]) -> int:
    """Of the data set that is least far, where several are mixed."""
    return min(int(source["epoch"]) for source in state["sources"])


def _like(pack: Pack, codes: Codes) -> dict[str, Any]:
    """A clip of a pack, in frames and pixels, for what is sampled where nobody says how large."""
    at = max(range(len(pack.clips.ids)), key=lambda i: len(pack.clips.times[i]))
    latent, _, rows, columns = pack.clips.latents[at].shape
    along, down, across = codes.compression
    return {
        "frames": 1 + (latent - 1) * along,
        "height": rows * down,
        "width": columns * across,
        "fps": rate_of(pack.clips.times[at], along),
    }


def _count(meter: Meter, config: TrainConfig, pack: Pack) -> None:
    grids = pack.layout.grids if pack.clips.weight.any() else []  # else a rank without work
    meter.pack(
        samples=int(pack.clips.weight.sum()),
        seconds=pack.clips.seconds,
        tokens=sum(math.prod(grid) for grid in grids),
        # Frozen weights need no gradients; attention's third, of inputs alone, is told too low.
        flops=(TRAINING if config.lora is None else 2)
        * flops(config.model, grids, pack.texts[: len(grids)]),
    )


def _culprits(packs: list[Pack], found: list[Tensor], place: Place) -> list[str]:
    """Samples of all ranks whose error is not finite; where none is, all of the step."""
    bad: list[str] = []
    for pack, error in zip(packs, found, strict=True):
        places = pack.layout.sample[~error.isfinite()].unique().tolist()
        bad += [pack.clips.ids[i] for i in places]
    every = [sample for ids in place.objects(bad) for sample in ids]
    if every:
        return every
    ids = [sample for pack in packs if pack.real for sample in pack.clips.ids]
    return [sample for own in place.objects(ids) for sample in own]


def _tell(config: TrainConfig, step: int, samples: list[str]) -> None:
    """Stop, or say that the step is skipped.

    Raises:
        DivergedError: with on_nan: stop.
    """
    what = f"loss or gradients of step {step} are not finite, samples {', '.join(samples)}"
    if config.on_nan == "stop":
        raise DivergedError(
            f"{what}; look at these, lower optimizer.lr or set on_nan: skip; the same command goes "
            "on from the latest checkpoint"
        )
    _log.warning("%s: the step is skipped", what)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the first SIGTERM and SIGINT inside; later ones end the process as ever."""
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def catch(number: int, _: Any) -> None:
        caught.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for known in (signal.SIGTERM, signal.SIGINT):
            before[known] = signal.signal(known, catch)
    except ValueError:  # not the main thread: whoever started it stops it
        pass
    try:
        yield caught
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
