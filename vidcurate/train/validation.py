"""Validation while training: the loss at fixed noise levels on the held-out split, and videos."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidcurate.train.config import TrainConfig
from vidcurate.train.data import Clips, dataset, rate_of
from vidcurate.train.encoders import Encoders, KnownText
from vidcurate.train.network import Average, Network, objective_of, pack_of
from vidcurate.train.objective import errors
from vidcurate.train.parallel import Place, gathered, inner
from vidcurate.train.sampling.sampler import Sampler, to_pixels
from vidcurate.train.sampling.starts import Start

WriteVideo = Callable[[Path, Any, float], None]
"""Writes uint8 frames (T, H, W, 3), a numpy array, at frames a second."""

_SEED = 1_000_003  # of noise in validation: the same at every step


class Validator:
    """The first batches of the split val, at every call the same ones with the same noise.

    every: steps between calls.

    Raises:
        UserError: the split is empty, or does not fit, as in training.
    """

    def __init__(
        self, config: TrainConfig, encoders: Encoders, place: Place, write: WriteVideo | None
    ) -> None:
        assert config.validate_.every is not None
        self.every = config.validate_.every
        self._config, self._encoders, self._place, self._write = config, encoders, place, write
        self._settings = config.validate_
        self._objective = objective_of(config)
        self._data = dataset(config.data, config.model, encoders.codes, split="val", workers=0)
        self._start = self._data.state_dict()

    def __call__(self, model: nn.Module, average: Average | None, step: int) -> dict[str, Any]:
        """`val_loss`, and at each level `val_loss_0.5`; `ema_...` the same of the average.

        Videos go to OUT/samples/step-00001000/. All ranks call it.
        """
        self._data.load_state_dict(self._start)
        batches = islice(iter(self._data), self._settings.batches)
        held = [self._encoders(batch, drop=False) for batch in batches]
        found = self._one(model, held, step, "raw")
        line = {f"val_{name}": value for name, value in found.items()}
        if average is not None:
            with average.used():
                found = self._one(model, held, step, "ema")
            line |= {f"ema_{name}": value for name, value in found.items()}
        return line

    def _one(
        self, model: nn.Module, held: list[Clips], step: int, which: str
    ) -> dict[str, float | None]:
        bf16 = self._config.precision == "bf16"
        autocast = torch.autocast(self._place.device.type, torch.bfloat16)
        with torch.no_grad(), autocast if bf16 else nullcontext():
            found = self._losses(model, held)
            if self._settings.videos and self._write is not None:
                self._videos(model, held, step, which)
        return found

    def _losses(self, model: nn.Module, held: list[Clips]) -> dict[str, float | None]:
        levels = self._settings.timesteps
        sums = torch.zeros(len(levels), dtype=torch.float64, device=self._place.device)
        counts = [0.0] * len(levels)
        network = inner(model)
        assert isinstance(network, Network)
        for own in held:
            for i, level in enumerate(levels):
                pack = pack_of(
                    own,
                    network,
                    self._objective,
                    self._place.device,
                    seed=_SEED,
                    step=i,
                    time=level,
                )
                sums[i] += errors(pack.through(network), pack.noised).sum()
                counts[i] += pack.real
        every = self._place.gathered([*sums.tolist(), *counts]).sum(0).tolist()
        means = [
            total / count if count else None
            for total, count in zip(every[: len(levels)], every[len(levels) :], strict=True)
        ]
        known = [mean for mean in means if mean is not None]
        return {
            "loss": sum(known) / len(known) if known else None,
            **{f"loss_{level:g}": mean for level, mean in zip(levels, means, strict=True)},
        }

    def _videos(self, model: nn.Module, held: list[Clips], step: int, which: str) -> None:
        """Generate from captions of the split; all ranks the same, the first writes them."""
        wanted = self._settings.videos
        chosen = [
            (
                own.ids[i],
                own.captions[i],
                None if own.texts is None else own.texts[i].cpu(),
                tuple(own.latents[i].shape),
                own.times[i],
            )
            for own in held
            for i in range(len(own.ids))
            if own.weight[i] > 0
        ][:wanted]
        chosen = self._place.objects(chosen)[0]
        folder = Path(self._config.output) / "samples" / f"step-{step:08d}"
        along = self._encoders.codes.compression[0]
        network = inner(model)
        assert isinstance(network, Network)
        with gathered(network):
            for n, (sample, caption, rows, shape, times) in enumerate(chosen):
                # By the sample's id: the caption, and which of its variants, may be unknown.
                prompt = caption if rows is None else sample
                known = {} if rows is None else {sample: rows, "": self._encoders.empty}
                width = self._config.model.text_width
                text = network.text or KnownText(known, width, self._place.device)
                sampler = Sampler(
                    network.dit,
                    text,
                    self._config.model.patch,
                    steps=self._settings.sampling_steps,
                    guidance=self._settings.guidance,
                    objective=self._objective,
                )
                start = Start(torch.zeros(shape), times, torch.ones(shape[0], dtype=torch.float64))
                (latent,) = sampler([start], [prompt], [n])
                if self._place.first and self._write is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                    path = folder / f"{which}-{sample[:12]}.mp4"
                    frames = to_pixels(self._encoders.decode(latent)).numpy()
                    self._write(path, frames, rate_of(times, along))
