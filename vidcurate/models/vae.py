"""VAEs of diffusers: video to latents of about unit scale, and back.

AutoencoderKLWan takes time into its latents (Wan 2.1 and 2.2: frame 0 by itself, then 4 frames to
one, each seeing those before it); AutoencoderKL and AutoencoderTiny take each frame by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcurate.errors import MissingExtraError, ModelError, UserError
from vidcurate.models.device import torch_device
from vidcurate.models.parts import (
    CONFIG,
    Part,
    check_found,
    check_weights,
    find_part,
    loading,
    read_config,
    weights,
    with_less,
)
from vidcurate.models.reference import Hub, ModelRef
from vidcurate.models.torchvision_ops import prepare

if TYPE_CHECKING:
    from torch import Tensor

_WAN = "AutoencoderKLWan"
_KL = "AutoencoderKL"
_TINY = "AutoencoderTiny"
_KINDS = (_WAN, _KL, _TINY)
_FILES = weights("diffusion_pytorch_model")
_PIXELS = 2**20  # of video that a VAE of single frames takes at a time


@dataclass(frozen=True)
class VaeConfig:
    """What a VAE makes of video.

    channels: of a latent.
    compression: frames, rows and columns of video to one of the latent.
    causal: True where a latent depends on all frames before it, and frame 0 has its own.
    facts: name, key, class, and the revision (commit, or digest of the files) that was found;
        JSON values, which fingerprints take.
    """

    channels: int
    compression: tuple[int, int, int]
    causal: bool
    facts: dict[str, Any]

    def latent_size(self, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Frames, rows and columns of the latent of a video of this size.

        Raises:
            UserError: a size that the VAE cannot take whole.
        """
        t, h, w = self.compression
        if rows < 1 or columns < 1 or rows % h or columns % w:
            near = (max(1, rows // h) * h, max(1, columns // w) * w)
            raise UserError(
                f"{self.facts['name']} takes rows in multiples of {h} and columns in multiples of "
                f"{w}, and the video has {rows} x {columns}: resize or crop it to "
                f"{near[0]} x {near[1]}"
            )
        if frames < 1 or (frames - 1) % t:
            near_frames = 1 + max(0, frames - 1) // t * t
            raise UserError(
                f"{self.facts['name']} takes 1 + {t} k frames, and the video has {frames}: take "
                f"{near_frames}"
            )
        return 1 + (frames - 1) // t, rows // h, columns // w


def vae_config(name: str, revision: str | None = None, hub: Hub | None = None) -> VaeConfig:
    """What a VAE makes of video, without its weights (of ModelScope, with them) and torch.

    Args:
        name, revision, hub: see `load_vae`.

    Raises:
        ModelError: the config cannot be had, or is of a class that is not known here.
        MissingExtraError: a package that fetches it is not installed.
    """
    part = find_part(name, revision, hub)
    part = part.taking(CONFIG, *(() if part.resolves_alone else _FILES))
    return _config(part, part.fetch())


def vae_reference(name: str) -> ModelRef:
    """What `load_vae` fetches of a name.

    Raises:
        ModelError: a local path that is not there.
    """
    return find_part(name).taking(CONFIG, *_FILES).ref


def load_vae(
    name: str,
    revision: str | None = None,
    hub: Hub | None = None,
    *,
    device: Any = None,
    dtype: Any = None,
) -> Vae:
    """A VAE, ready to compute.

    Args:
        name: a repository ("madebyollin/taesd"), a folder of one
            ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers/vae"), or a local folder, in diffusers' layout; a
            revision may follow as `@revision`.
        revision, hub: see ModelRef.
        device: of torch; None is this process's, `torch_device`.
        dtype: of torch, in which it computes; None is float32, which latents are worth. float16
            is float32 where the config says `force_upcast`, as of VAEs that overflow in it.

    Raises:
        ModelError: the weights cannot be had, are damaged, or of a class that is not known here.
        MissingExtraError: diffusers is not installed.
    """
    part = find_part(name, revision, hub).taking(CONFIG, *_FILES)
    folder = part.fetch()
    config = _config(part, folder)
    return Vae(config, _model(config, folder, dtype), device or torch_device())


class Vae:
    """A loaded VAE. It computes in evaluation mode and without gradients.

    config: see VaeConfig. device, dtype: of torch, in which it computes, also where the caller
    is in autocast.
    """

    def __init__(self, config: VaeConfig, model: Any, device: Any) -> None:
        import torch

        self.config = config
        self.device = torch.device(device)
        self.dtype = model.dtype
        self._kind = config.facts["class"]
        with loading(config.facts["name"], "the VAE"):
            self._model = model.to(self.device).eval().requires_grad_(False)
        own = model.config
        zero, one = [0.0] * config.channels, [1.0] * config.channels
        mean = torch.tensor(own.get("latents_mean") or zero) + (own.get("shift_factor") or 0.0)
        std = torch.tensor(own.get("latents_std") or one) / (own.get("scaling_factor") or 1.0)
        self._mean = mean.view(-1, 1, 1).to(self.device)
        self._std = std.view(-1, 1, 1).to(self.device)

    def encode(self, video: Tensor) -> Tensor:
        """The latent of a video, of about unit scale; the same each time (the posterior's mode).

        Scaled as its family's pipelines do: by mean and deviation of each channel (Wan), by
        scaling_factor and shift_factor (KL), as it is (Tiny).

        Args:
            video: float (T, 3, H, W) in -1..1, on any device.

        Returns:
            float32 (T', C, H / rows, W / columns) on `device`; T' = 1 + (T - 1) / frames, where
            frames, rows, columns are the config's compression.

        Raises:
            UserError: T, H or W do not fit the compression; the message says which do.
            ModelError: the device's memory ran out, or the numbers of its dtype.
        """
        frames, colours, rows, columns = video.shape
        assert colours == 3, tuple(video.shape)
        assert video.is_floating_point(), video.dtype
        size = self.config.latent_size(frames, rows, columns)
        latent = self._in_parts(video, rows * columns, self._encode)
        latent = (latent - self._mean) / self._std
        assert latent.shape == (size[0], self.config.channels, *size[1:]), tuple(latent.shape)
        return self._finite(latent)

    def decode(self, latent: Tensor) -> Tensor:
        """The video of a latent, float32 (T, 3, H, W) in -1..1 on `device`.

        Args:
            latent: float (T', C, h, w) as `encode` gives it, on any device.

        Raises:
            ModelError: other channels, the device's memory ran out, or the numbers of its dtype.
        """
        _, channels, rows, columns = latent.shape
        if channels != self.config.channels:
            raise ModelError(
                f"{self.config.facts['name']} has latents of {self.config.channels} channels, and "
                f"this one has {channels}: it is another VAE's"
            )
        raw = latent.to(self.device).float() * self._std + self._mean
        pixels = rows * columns * prod(self.config.compression[1:])
        return self._finite(self._in_parts(raw, pixels, self._decode)).clamp(-1, 1)

    def _in_parts(self, frames: Tensor, pixels: int, compute: Any) -> Tensor:
        """`compute` on all frames at once (causal: it keeps memory by itself) or on some at a time.

        pixels: of a frame of video.
        """
        import torch

        some = len(frames) if self.config.causal else max(1, _PIXELS // pixels)

        def computed(size: int) -> Tensor:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                parts = [compute(p.to(self.device, self.dtype)) for p in frames.split(size)]
            return torch.cat(parts).float()

        what = f"{len(frames)} frames" if self.config.causal else "a frame"
        remedy = (
            f"{self.config.facts['name']} cannot take {what} of {pixels} pixels on {self.device}. "
            "Take smaller or shorter clips, a smaller VAE, or a device with more memory"
        )
        if self.config.causal:  # cut in two, the second half would not see the first
            try:
                return with_less(1, lambda _: computed(some), remedy)
            finally:
                self._model.clear_cache()  # which it does itself where nothing failed
        return with_less(some, computed, remedy)

    def _encode(self, frames: Tensor) -> Tensor:
        if self._kind == _TINY:
            latents: Tensor = self._model.encode(frames).latents
            return latents
        if self._kind == _KL:
            mode: Tensor = self._model.encode(frames).latent_dist.mode()
            return mode
        clip = frames.transpose(0, 1)[None]
        of_clip: Tensor = self._model.encode(clip).latent_dist.mode()[0]
        return of_clip.transpose(0, 1)

    def _decode(self, latents: Tensor) -> Tensor:
        if self._kind != _WAN:
            frames: Tensor = self._model.decode(latents).sample
            return frames
        clip: Tensor = self._model.decode(latents.transpose(0, 1)[None]).sample[0]
        return clip.transpose(0, 1)

    def _finite(self, computed: Tensor) -> Tensor:
        if not bool(computed.isfinite().all()):
            raise ModelError(
                f"{self.config.facts['name']} gives numbers that are not finite in {self.dtype}: "
                "compute in float32 or bfloat16, and look whether what it was given is finite"
            )
        return computed


def latent_times(times: Tensor, config: VaeConfig) -> Tensor:
    """Times of latent frames, float64 (T',): frame 0's own, then means of the groups.

    Args:
        times: (T,) of the video's frames, in seconds.
        config: of the VAE that encodes them.

    Raises:
        UserError: as many frames do not fit the compression.
    """
    import torch

    frames = config.compression[0]
    config.latent_size(len(times), *config.compression[1:])
    exact = times.to(torch.float64)
    return torch.cat([exact[:1], exact[1:].view(-1, frames).mean(1)])


def _config(part: Part, folder: Path) -> VaeConfig:
    """Of a config.json; what it leaves out is as of diffusers' classes."""
    found = read_config(folder, part.name)
    kind = found.get("_class_name")
    if kind not in _KINDS:
        raise ModelError(
            f"{part.name} is of the class {kind}; of VAEs, {', '.join(_KINDS)} are known here"
        )
    try:
        if kind == _WAN:
            channels = int(found.get("z_dim", 16))
            frames = 2 ** sum(map(bool, found.get("temperal_downsample", (False, True, True))))
            side = 2 ** (len(found.get("dim_mult", (1, 2, 4, 4))) - 1)
            side *= found.get("patch_size") or 1
        else:
            default = (64,) * 4 if kind == _TINY else (64,)
            stages = "encoder_block_out_channels" if kind == _TINY else "block_out_channels"
            channels = int(found.get("latent_channels", 4))
            frames = 1
            side = 2 ** (len(found.get(stages, default)) - 1)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the {CONFIG} of {part.name} is none of {kind}: {error}") from error
    if kind == _WAN and frames != 4:
        raise ModelError(
            f"{part.name} takes {frames} frames to one latent; diffusers computes {_WAN} by 4"
        )
    return VaeConfig(channels, (frames, side, side), kind == _WAN, part.facts(kind))


def _model(config: VaeConfig, folder: Path, dtype: Any) -> Any:
    """diffusers' model with its weights, on the CPU."""
    import torch

    prepare()  # diffusers may import torchvision
    try:
        import diffusers
        from diffusers.utils import logging
    except ImportError as error:
        raise MissingExtraError(
            f"VAEs need {error.name}: pip install 'vidcurate[train]'"
        ) from error

    name, kind = config.facts["name"], config.facts["class"]
    check_weights(name, folder, _FILES)
    if dtype is None or (dtype == torch.float16 and read_config(folder, name).get("force_upcast")):
        dtype = torch.float32
    with loading(name, "the VAE", logging):
        model, found = getattr(diffusers, kind).from_pretrained(
            folder,
            local_files_only=True,
            torch_dtype=dtype,
            low_cpu_mem_usage=False,  # would ask for accelerate
            output_loading_info=True,
        )
    check_found(name, kind, found["missing_keys"])
    return model
