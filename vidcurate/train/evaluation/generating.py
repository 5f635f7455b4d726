"""Clips of a checkpoint: the one place where evaluation asks the trained model for something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from vidcurate.errors import RunDirectoryError
from vidcurate.models import torch_device
from vidcurate.train import checkpoint as saved
from vidcurate.train.config import Data, Sampled, Size
from vidcurate.train.data import resize_of
from vidcurate.train.evaluation.clips import Video
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.model.flops import Compression
from vidcurate.train.precache.derived import about
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.generate import Generator
from vidcurate.train.sampling.packs import How

Mode = Literal["text_to_video", "image_to_video"]


class Trained:
    """A checkpoint, or the latest of a training's output. Its weights are loaded by `load`.

    Args:
        averaged, vae, text_encoder: as of `Generator`.

    Attributes:
        said: what the checkpoint says of itself (train.json). data: the data section that it was
            trained with. vae: name of its VAE; None: it makes pixels. resize: to its sizes.

    Raises:
        RunDirectoryError: there is no checkpoint, or it does not say what it was trained on.
    """

    def __init__(
        self, path: Path, *, averaged: bool, vae: str | None, text_encoder: str | None
    ) -> None:
        found = [path] if (path / saved.ABOUT).exists() else saved.checkpoints(path / "checkpoints")
        if not found:
            raise RunDirectoryError(
                f"{path} holds no checkpoint; give a folder step-00001000, or a training's output"
            )
        self.path = found[-1]
        self.said = saved.about(self.path)
        if "trained_on" not in self.said:
            raise RunDirectoryError(
                f"{self.path} does not say what it was trained on: it is of an earlier version; "
                "train it a step further, which saves it anew"
            )
        self.data = _of_pixels(Data.model_validate(self.said["trained_on"]))
        encode: dict[str, Any] = self.said.get("encode") or {}
        own: str | None = encode.get("vae")
        self.vae = None if own is None else vae or own
        self._averaged, self._text_encoder = averaged, text_encoder
        along, down, across = encode.get("compression") or (1, 1, 1)
        self._compression: Compression = (along, down, across)
        model = ModelConfig.model_validate(self.said["model"])
        self._patch = model.patch
        self.resize = resize_of(self.data, model, self._compression)

    @cached_property
    def _generator(self) -> Generator:
        return Generator(
            self.path, averaged=self._averaged, vae=self.vae, text_encoder=self._text_encoder
        )

    def load(self) -> None:
        """Read the weights, which may fail, before much else is done."""
        assert self._generator is not None

    def generate(
        self,
        videos: Sequence[Video],
        seeds: Sequence[int],
        *,
        mode: Mode,
        steps: int,
        guidance: float,
    ) -> list[Video]:
        """One clip for each real one, of its prompt, size, length and rate, all in one pack.

        Args:
            mode: image_to_video begins with the real clip's first frame.

        Raises:
            UserError: clips that the model cannot make. ModelError: its VAE or text encoder is not
                to be had.
        """
        how = How(
            steps=steps,
            guidance=guidance,
            device="cuda" if torch_device().type == "cuda" else "cpu",
            at_once=len(videos),
        )
        begun = [_start(video, mode) for video in videos]
        made = self._generator.sample(begun, [v.caption for v in videos], seeds, how)
        return [
            Video(video.name, clip, video.fps, video.caption)
            for video, clip in zip(videos, made, strict=True)
        ]

    def packs(self, videos: Iterable[Video], most: int) -> Iterator[list[Video]]:
        """Videos in order, so many at a time as the training's budget of tokens holds, `most`."""
        waiting: list[Video] = []
        tokens = 0
        for video in videos:
            own = self._tokens(video)
            if waiting and (tokens + own > self.data.budget or len(waiting) == most):
                yield waiting
                waiting, tokens = [], 0
            waiting.append(video)
            tokens += own
        if waiting:
            yield waiting

    def _tokens(self, video: Video) -> int:
        frames, height, width, _ = video.frames.shape
        along, down, across = self._compression
        pt, ph, pw = self._patch
        rows = (1 + (frames - 1) // along) // pt
        return int(rows * (height // down // ph) * (width // across // pw))


def _start(video: Video, mode: Mode) -> starts.Start:
    frames, height, width, _ = video.frames.shape
    if mode == "image_to_video" and frames > 1:
        picture = torch.from_numpy(video.frames[0]).permute(2, 0, 1).float() / 127.5 - 1
        return starts.image_to_video(picture, frames, video.fps)
    return starts.text_to_video((frames, 3, height, width), video.fps)


def _of_pixels(data: Data) -> Data:
    """The section with the sizes that a precached set, where it names one, was made in."""
    made = about(data.shards) if isinstance(data.shards, str) else None
    if made is None:
        return data
    kinds: dict[str, type[Size]] = {"resize": Sampled, "native": Size}
    sizes = {
        name: kind(**{k: made.settings[name].get(k) for k in kind.model_fields})
        for name, kind in kinds.items()
    }
    return data.model_copy(update=sizes)
