"""A checkpoint and prompts to videos: behind `vidcurate sample`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.train import checkpoint as saved
from vidcurate.train.fine_tune import load_weights
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.network import Network
from vidcurate.train.objective import Objective
from vidcurate.train.parallel import placed
from vidcurate.train.sampling.coding import Coding
from vidcurate.train.sampling.frozen import Frozen
from vidcurate.train.sampling.modes import Mode, Room, Wish, check_given, check_options
from vidcurate.train.sampling.packs import How, Packs, interpolated, long
from vidcurate.train.sampling.sampler import Sampler, to_levels, to_pixels
from vidcurate.train.sampling.starts import Start

Frames = npt.NDArray[np.uint8]


class Generator:
    """Videos from a checkpoint, or from the latest of a training's output.

    averaged: take the moving average of the weights where the checkpoint has it. vae,
    text_encoder: where these lie now, if not where they were in training.

    Attributes:
        like: frames, height, width and fps of a clip that it was trained on.

    Raises:
        RunDirectoryError: there is no checkpoint.
    """

    def __init__(
        self,
        path: Path,
        *,
        averaged: bool = True,
        vae: str | None = None,
        text_encoder: str | None = None,
    ) -> None:
        self._network, said = load_network(path, averaged=averaged)
        self._objective = Objective(**said["objective"])
        self._frozen = Frozen(said.get("encode") or {}, vae, text_encoder)
        self.like: dict[str, Any] = said["like"]

    @property
    def fewest_between(self) -> int:
        """New frames that a gap between two key frames must have."""
        return 2 * self._frozen.every - 1

    def __call__(self, prompt: str, *, seed: int = 0, **settings: Any) -> Frames:
        """One video, uint8 (T, H, W, 3), RGB; with the settings of `many`."""
        return self.many([prompt], [seed], **settings)[0]

    def many(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        mode: Mode = "text_to_video",
        given: Frames | Sequence[Frames] | None = None,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        fps: float | None = None,
        keep: int | None = None,
        between: int | None = None,
        strength: float | None = None,
        how: How | None = None,
        **more: Any,
    ) -> list[Frames]:
        """A video of each prompt and seed, uint8 (T, H, W, 3), RGB.

        What is given is in the result as it was given, but for frames that are edited.

        Args:
            mode: text_to_video and text_to_image (1 frame) start from nothing; image_to_video goes
                on from a first frame, forward and backward make frames after or before a clip, loop
                such that lead from its end to its start, join such that lead from one clip to
                another; blend fades one clip over into another; interpolate makes frames between
                key frames; long makes a video that is longer than what the model was trained on
                from coarse to fine; edit makes a clip anew in part.
            given: clips uint8 (T, H, W, 3), as the mode asks; cut in the middle to whole patches.
            size: (width, height), where nothing is given; default that of training.
            frames: of the whole of text_to_video, image_to_video, long and edit; new ones of
                forward, backward, loop and join; those that both clips share in a blend.
            fps: of the result; default that of training.
            keep: frames of a given clip that the model sees.
            between: new frames in each gap of interpolate.
            strength: of edit (default 0.6) and blend (0.8): how much is made anew.
            how: the sampler's settings, or give them by name (`steps=20`).

        Raises:
            UserError: what does not fit together, or an fps that is no rate.
            ModelError: the VAE or text encoder is not to be had, or not that of training.
        """
        chosen = How(**more) if how is None else how
        if len(prompts) != len(seeds):
            raise UserError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        clips = [given] if isinstance(given, np.ndarray) else list(given or [])
        check_given(mode, len(clips))
        check_options(mode, frames=frames, keep=keep, between=between, strength=strength)
        rate = self.like["fps"] if fps is None else fps
        if not 0 < rate < float("inf"):
            raise UserError(f"fps: frames a second, above 0, not {rate}")
        with placed(chosen.device) as place:
            packs = self._packs(place.device, chosen)
            coding = packs.coding
            wish = Wish(
                mode,
                [self._cut(clip, coding) for clip in clips],
                self._size(size, coding),
                rate,
                frames,
                keep,
                strength,
            )
            room = Room(self.like["frames"], coding.every)
            made: Iterable[Tensor]
            if mode == "interpolate":
                made = map(to_levels, interpolated(packs, wish, room, between, prompts, seeds))
            elif mode == "long":
                made = map(to_levels, long(packs, wish, room, prompts, seeds))
            else:
                laid = wish.laid(room)
                sampled = packs([laid.start], prompts, seeds)
                made = (laid.result(to_levels(clip)) for clip in sampled)
        return [clip.permute(0, 2, 3, 1).contiguous().numpy() for clip in made]

    def sample(
        self,
        begun: Sequence[Start],
        prompts: Sequence[str],
        seeds: Sequence[int],
        how: How | None = None,
    ) -> list[Frames]:
        """A clip of each start, prompt and seed, uint8 (T, H, W, 3), RGB.

        Args:
            begun: of frames in -1..1 (T, 3, H, W), of whatever sizes; see `starts`.

        Raises:
            UserError, ModelError: as `many`.
        """
        chosen = how or How()
        with placed(chosen.device) as place:
            made = self._packs(place.device, chosen)(begun, prompts, seeds)
        return [to_pixels(clip).numpy() for clip in made]

    def _packs(self, device: torch.device, how: How) -> Packs:
        coding = Coding(self._frozen.vae(device))
        return Packs(self._sampler(device, how), coding, device, how)

    def _sampler(self, device: torch.device, how: How) -> Sampler:
        network = self._network.to(device)
        text = self._frozen.text(device) or network.text
        assert text is not None, "an encoder, or bytes"
        return Sampler(
            network.dit,
            text,
            network.dit.config.patch,
            steps=how.steps,
            guidance=how.guidance,
            solver=how.solver,
            objective=self._objective,
            negative=how.negative,
        )

    def _grain(self, coding: Coding) -> tuple[int, int]:
        """Rows and columns that sizes are multiples of."""
        _, rows, columns = self._network.dit.config.patch
        return rows * coding.scale[0], columns * coding.scale[1]

    def _size(self, size: tuple[int, int] | None, coding: Coding) -> tuple[int, int]:
        width, height = size or (self.like["width"], self.like["height"])
        rows, columns = self._grain(coding)
        if width < columns or height < rows or width % columns or height % rows:
            near = f"{max(1, width // columns) * columns}x{max(1, height // rows) * rows}"
            raise UserError(
                f"{width}x{height} is no whole number of patches: this model makes widths in "
                f"multiples of {columns} and heights in multiples of {rows}, as {near}"
            )
        return width, height

    def _cut(self, frames: Frames, coding: Coding) -> Tensor:
        """uint8 RGB (T, 3, H, W), cut in the middle to whole patches."""
        rows, columns = self._grain(coding)
        height, width = frames.shape[1] // rows * rows, frames.shape[2] // columns * columns
        if not len(frames) * height * width:
            raise UserError(
                f"what is given ({frames.shape[2]}x{frames.shape[1]}) is smaller than a patch "
                f"({columns}x{rows})"
            )
        top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
        cut = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
        return torch.from_numpy(cut).permute(0, 3, 1, 2)


def load_network(path: Path, *, averaged: bool) -> tuple[Network, dict[str, Any]]:
    """A trained network in evaluation mode, on the CPU, and what its checkpoint says of it.

    Raises:
        RunDirectoryError: there is no checkpoint, or not the one that its adapters belong to.
    """
    path = saved.find(path)
    said = saved.about(path)
    encode = said.get("encode") or {}
    network = Network(ModelConfig.model_validate(said["model"]), rows=bool(encode.get("text")))
    with placed("cpu") as place:
        load_weights(network, path, averaged=averaged, place=place)
    return network.eval(), said
