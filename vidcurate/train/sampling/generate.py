"""A checkpoint and a prompt to a video: behind `vidcurate sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcurate.errors import DataError, RunDirectoryError, UserError
from vidcurate.nearest import suggest
from vidcurate.train import checkpoint as saved
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.network import Network
from vidcurate.train.objective import Objective
from vidcurate.train.parallel import placed
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.sampler import Sampler, to_pixels

Mode = Literal["text_to_video", "image_to_video", "forward", "backward", "loop", "edit"]
Device = Literal["auto", "cpu", "cuda"]
Frames = npt.NDArray[np.uint8]


def check_mode(text: str) -> Mode:
    """The mode of a name.

    Raises:
        UserError: there is none.
    """
    for mode in get_args(Mode):
        if text == mode:
            return cast(Mode, mode)
    raise UserError(f"no mode {text!r}{suggest(text, get_args(Mode))}")


def check_device(text: str) -> Device:
    """The device of a name.

    Raises:
        UserError: there is none.
    """
    for device in get_args(Device):
        if text == device:
            return cast(Device, device)
    raise UserError(f"no device {text!r}{suggest(text, get_args(Device))}")


class Generator:
    """Videos from a checkpoint, or from the latest of a training's output.

    averaged: take the moving average of the weights where the checkpoint has it.

    Attributes:
        like: frames, height, width and fps of a clip that it was trained on.

    Raises:
        RunDirectoryError: there is no checkpoint.
    """

    def __init__(self, path: Path, *, averaged: bool = True) -> None:
        self._network, said = load_network(path, averaged=averaged)
        self._objective = Objective(**said["objective"])
        self.like: dict[str, Any] = said["like"]

    def __call__(
        self,
        prompt: str,
        *,
        mode: Mode = "text_to_video",
        given: Frames | None = None,
        size: tuple[int, int] | None = None,
        frames: int,
        fps: float,
        strength: float = 0.6,
        steps: int = 50,
        guidance: float = 4.0,
        seed: int = 0,
        device: Device = "auto",
    ) -> Frames:
        """Frames uint8 (T, H, W, 3), RGB.

        Args:
            mode: what is made of `given`, uint8 (T, H, W, 3): "image_to_video" goes on from its
                first frame, "forward" and "backward" make `frames` more after or before it, "loop"
                so many that lead from its end to its start, "edit" makes `strength` of it anew.
            size: (width, height), where nothing is given; default that of training.
            frames: of the result, or new ones. steps, guidance: as of `Sampler`.

        Raises:
            UserError: what does not fit together.
        """
        if (given is None) != (mode == "text_to_video"):
            raise UserError(
                f"{mode} starts from nothing: leave --from out, or give another mode"
                if given is not None
                else f"{mode} needs a picture or video to start from: give --from"
            )
        if given is None:
            width, height = size or (self.like["width"], self.like["height"])
            start = starts.text_to_video((frames, 3, height, width), fps)
        else:
            start = _start(mode, _latent(given, self._network), frames, fps, strength)
        with placed(device) as place:
            network = self._network.to(place.device)
            sampler = Sampler(
                network.dit,
                network.text,
                network.dit.config.patch,
                steps=steps,
                guidance=guidance,
                objective=self._objective,
            )
            try:
                (made,) = sampler([start], [prompt], [seed])
            except DataError as error:
                raise UserError(str(error)) from error
        shown: Frames = to_pixels(made).numpy()
        return shown


def _start(mode: Mode, latent: Tensor, frames: int, fps: float, strength: float) -> starts.Start:
    if mode == "image_to_video":
        return starts.image_to_video(latent[0], frames, fps)
    if mode == "edit":
        return starts.edit(latent, strength, fps)
    if mode == "loop":
        return starts.loop(latent, frames, fps)
    return (starts.forward if mode == "forward" else starts.backward)(latent, frames, fps)


def load_network(path: Path, *, averaged: bool) -> tuple[Network, dict[str, Any]]:
    """A trained network in evaluation mode, on the CPU, and what its checkpoint says of it.

    Raises:
        RunDirectoryError: there is no checkpoint.
    """
    found = saved.checkpoints(path / "checkpoints")
    if not (path / saved.ABOUT).exists():
        if not found:
            raise RunDirectoryError(
                f"{path} holds no checkpoint; give a folder step-00001000, or a training's output"
            )
        path = found[-1]
    said = saved.about(path)
    network = Network(ModelConfig.model_validate(said["model"]))
    weights = dict(network.named_parameters())
    part = "ema" if averaged and said["averaged"] else "model"
    tensors = {name: weight.detach() for name, weight in weights.items()}
    with placed("cpu") as place:
        saved.load({part: tensors}, path, place)
    return network.eval(), said


def _latent(frames: Frames, network: Network) -> Tensor:
    """RGB in -1..1 (T, 3, H, W), cut in the middle to whole patches."""
    pt, ph, pw = network.dit.config.patch
    t, h, w = (n // p * p for n, p in zip(frames.shape[:3], (pt, ph, pw), strict=True))
    if not t * h * w:
        raise UserError(
            f"what is given ({frames.shape}) is smaller than a patch ({pt}, {ph}, {pw})"
        )
    top, left = (frames.shape[1] - h) // 2, (frames.shape[2] - w) // 2
    cut = torch.from_numpy(np.ascontiguousarray(frames[:t, top : top + h, left : left + w]))
    return cut.permute(0, 3, 1, 2).float() / 127.5 - 1
