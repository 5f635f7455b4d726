"""A checkpoint and prompts to videos: behind `vidcurate sample`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcurate.errors import DataError, ModelError, RunDirectoryError, UserError
from vidcurate.nearest import suggest
from vidcurate.train import checkpoint as saved
from vidcurate.train.codes import identity
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.network import Network
from vidcurate.train.objective import Objective
from vidcurate.train.parallel import placed
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.coding import Coding
from vidcurate.train.sampling.modes import Mode, Room, Wish, check_given, check_options, keys_of
from vidcurate.train.sampling.sampler import Sampler, to_pixels
from vidcurate.train.sampling.starts import Start
from vidcurate.train.text import TextEncoder

Device = Literal["auto", "cpu", "cuda"]
Solver = Literal["euler", "heun"]
Precision = Literal["auto", "bf16", "fp32"]
Frames = npt.NDArray[np.uint8]

_CALLED = {"vae": ("VAE", "--vae"), "text": ("text encoder", "--text-encoder")}
_LEVEL = 10_007  # to the seed of the next finer level of a long video


@dataclass(frozen=True)
class How:
    """How clips are sampled; steps, guidance, solver and negative as of `Sampler`.

    precision: "bf16" by autocast; "auto": that on a GPU. at_once: clips in one pack.

    Raises:
        UserError: a device, solver or precision that there is not.
    """

    steps: int = 50
    guidance: float = 4.0
    solver: Solver = "euler"
    negative: str = ""
    device: Device = "auto"
    precision: Precision = "auto"
    at_once: int = 8

    def __post_init__(self) -> None:
        for name, known in (("device", Device), ("solver", Solver), ("precision", Precision)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise UserError(f"no {name} {value!r}{suggest(str(value), get_args(known))}")

    @staticmethod
    def of(**settings: Any) -> How:
        """Of settings by name, from people."""
        return How(**settings)


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
        self._encode: dict[str, Any] = said.get("encode") or {}
        self._names: dict[str, str | None] = {}
        for kind, other in (("vae", vae), ("text", text_encoder)):
            own = self._encode.get(kind)
            if other is not None and own is None:
                raise UserError(
                    f"this model was trained without a {_CALLED[kind][0]}: leave "
                    f"{_CALLED[kind][1]} out"
                )
            self._names[kind] = other or own
        self._loaded: dict[tuple[str, torch.device], Any] = {}
        self.like: dict[str, Any] = said["like"]

    @property
    def every(self) -> int:
        """Frames in a latent frame of a causal VAE; 1 where each frame stands for itself."""
        return int(self._encode.get("compression", (1, 1, 1))[0]) if self._names["vae"] else 1

    @property
    def fewest_between(self) -> int:
        """New frames that a gap between two key frames must have."""
        return 2 * self.every - 1

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
            UserError: what does not fit together.
            ModelError: the VAE or text encoder is not to be had, or not that of training.
        """
        chosen = How(**more) if how is None else how
        if len(prompts) != len(seeds):
            raise UserError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        clips = [given] if isinstance(given, np.ndarray) else list(given or [])
        check_given(mode, len(clips))
        check_options(mode, frames=frames, keep=keep, between=between, strength=strength)
        rate = fps or self.like["fps"]
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
            if mode == "interpolate":
                made = _interpolated(packs, wish, room, between, prompts, seeds)
            elif mode == "long":
                made = _long(packs, wish, room, prompts, seeds)
            else:
                laid = wish.laid(room)
                made = [laid.result(clip) for clip in packs([laid.start], prompts, seeds)]
        return [to_pixels(clip).numpy() for clip in made]

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

    def _packs(self, device: torch.device, how: How) -> _Packs:
        coding = Coding(self._vae(device))
        return _Packs(self._sampler(device, how), coding, device, how)

    def _sampler(self, device: torch.device, how: How) -> Sampler:
        network = self._network.to(device)
        return Sampler(
            network.dit,
            self._text(device),
            network.dit.config.patch,
            steps=how.steps,
            guidance=how.guidance,
            solver=how.solver,
            objective=self._objective,
            negative=how.negative,
        )

    def _text(self, device: torch.device) -> TextEncoder:
        name = self._names["text"]
        if name is None:
            assert self._network.text is not None
            learned: TextEncoder = self._network.text
            return learned
        if ("text", device) not in self._loaded:
            from vidcurate.models.text_encoder import load_text_encoder

            with self._of_training("text"):
                tower = load_text_encoder(
                    name, max_tokens=self._encode["max_text_tokens"], device=device
                )
            self._check("text", tower.facts, tower.width, self._encode["text_width"])
            self._loaded["text", device] = tower
        found: TextEncoder = self._loaded["text", device]
        return found

    def _vae(self, device: torch.device) -> Any:
        name = self._names["vae"]
        if name is None:
            return None
        if ("vae", device) not in self._loaded:
            from vidcurate.models.vae import load_vae

            with self._of_training("vae"):
                vae = load_vae(name, device=device)
            self._check(
                "vae",
                vae.config.facts,
                [vae.config.channels, *vae.config.compression],
                [self._encode["channels"], *self._encode["compression"]],
            )
            self._loaded["vae", device] = vae
        return self._loaded["vae", device]

    @contextmanager
    def _of_training(self, kind: str) -> Iterator[None]:
        what, option = _CALLED[kind]
        try:
            yield
        except ModelError as error:
            raise ModelError(
                f"the {what} that this model was trained with cannot be had: {error}; if it lies "
                f"elsewhere now, give {option}"
            ) from error

    def _check(self, kind: str, facts: Mapping[str, Any], shape: object, trained: object) -> None:
        """Refuse another model than that of training, whose latents or rows mean something else."""
        was = (self._encode.get("facts") or {}).get(kind)
        # A digest of files says nothing of a commit.
        digests = [str(f["revision"]).startswith("sha256:") for f in (facts, was) if f is not None]
        other = was is not None and len(set(digests)) == 1 and identity(was) != identity(facts)
        if other or shape != trained:
            what, option = _CALLED[kind]
            raise ModelError(
                f"{self._names[kind]} is not the {what} that this model was trained with, "
                f"{self._encode[kind]}: give that by {option}"
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
        """RGB in -1..1 (T, 3, H, W), cut in the middle to whole patches."""
        rows, columns = self._grain(coding)
        height, width = frames.shape[1] // rows * rows, frames.shape[2] // columns * columns
        if not len(frames) * height * width:
            raise UserError(
                f"what is given ({frames.shape[2]}x{frames.shape[1]}) is smaller than a patch "
                f"({columns}x{rows})"
            )
        top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
        cut = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
        return torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class _Packs:
    """Starts of frames through the sampler, some in each pack."""

    sampler: Sampler
    coding: Coding
    device: torch.device
    how: How

    def __call__(
        self, begun: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        """Clips (T, 3, H, W); one start may stand for all prompts."""
        if len(begun) == 1:
            begun = list(begun) * len(prompts)
        made: list[Tensor] = []
        for at in range(0, len(begun), self.how.at_once):
            some = slice(at, at + self.how.at_once)
            made += self.coding.sample(self._computed, begun[some], prompts[some], seeds[some])
        return made

    def _computed(
        self, begun: Sequence[Start], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Tensor]:
        half = self.how.precision == "bf16" or (
            self.how.precision == "auto" and self.device.type == "cuda"
        )
        autocast = torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()
        try:
            with autocast:
                return self.sampler(begun, prompts, seeds)
        except DataError as error:
            raise UserError(str(error)) from error


def _interpolated(
    packs: _Packs,
    wish: Wish,
    room: Room,
    between: int | None,
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> list[Tensor]:
    """Key frames, and new ones between; in one clip where the model knows such a length."""
    starts.same_size(wish.given)
    keys = torch.cat(list(wish.given))
    if len(keys) < 2:
        raise UserError("interpolate: one picture has nothing after it: give --from once more")
    # Between pictures a clip of the usual length; between frames of a video as few as can be.
    usual = room if len(wish.given) > 1 else Room(1, room.every)
    count = usual.new("interpolate", between, 2, after=True, before=True)
    if room.every == 1 and len(keys) + (len(keys) - 1) * count <= room.frames:
        return packs([starts.interpolate(keys, count, wish.fps)], prompts, seeds)
    return [
        starts.fill_gaps(packs, prompt, keys, count, wish.fps, seed, packs.how.at_once)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def _long(
    packs: _Packs, wish: Wish, room: Room, prompts: Sequence[str], seeds: Sequence[int]
) -> list[Tensor]:
    """From coarse to fine: a clip of key frames, then the gaps between them, and theirs."""
    frames = wish.frames or 4 * room.frames
    keys, step, levels = room.levels(frames)
    rate = wish.fps / step**levels
    if wish.given:
        start = starts.image_to_video(wish.given[0][0], keys, rate)
    else:
        start = starts.text_to_video((keys, 3, wish.size[1], wish.size[0]), rate)
    clips = packs([start], prompts, seeds)
    for level in reversed(range(levels)):
        needed = keys_of(frames, step ** (level + 1))
        fill = partial(starts.fill_gaps, packs, between=step - 1, rate=wish.fps / step**level)
        clips = [
            fill(prompt, clip[:needed], seed=seed + _LEVEL * (level + 1), at_once=packs.how.at_once)
            for prompt, seed, clip in zip(prompts, seeds, clips, strict=True)
        ]
    return [clip[:frames] for clip in clips]


def load_network(path: Path, *, averaged: bool) -> tuple[Network, dict[str, Any]]:
    """A trained network in evaluation mode, on the CPU, and what its checkpoint says of it.

    Raises:
        RunDirectoryError: there is no checkpoint.
    """
    if not (path / saved.ABOUT).exists():
        found = saved.checkpoints(path / "checkpoints")
        if not found:
            raise RunDirectoryError(
                f"{path} holds no checkpoint; give a folder step-00001000, or a training's output"
            )
        path = found[-1]
    said = saved.about(path)
    encode = said.get("encode") or {}
    network = Network(ModelConfig.model_validate(said["model"]), rows=bool(encode.get("text")))
    weights = dict(network.named_parameters())
    part = "ema" if averaged and said["averaged"] else "model"
    tensors = {name: weight.detach() for name, weight in weights.items()}
    with placed("cpu") as place:
        saved.load({part: tensors}, path, place)
    return network.eval(), said
