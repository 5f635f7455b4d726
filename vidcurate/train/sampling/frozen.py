"""The VAE and text encoder that a checkpoint was trained with, loaded where they lie now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vidcurate.errors import ModelError, UserError
from vidcurate.train.precache.derived import identity
from vidcurate.train.text import TextEncoder

if TYPE_CHECKING:
    from vidcurate.models.vae import Vae

_CALLED = {"vae": ("VAE", "--vae"), "text": ("text encoder", "--text-encoder")}


class Frozen:
    """Loads each once, when it is first asked for.

    encode: of the checkpoint. vae, text_encoder: where these lie now, if not where they were.

    Raises:
        UserError: one is named that the model was trained without.
    """

    def __init__(
        self, encode: Mapping[str, Any], vae: str | None = None, text_encoder: str | None = None
    ) -> None:
        self._encode = encode
        self._loaded: dict[tuple[str, torch.device], Any] = {}
        self._names: dict[str, str | None] = {}
        for kind, other in (("vae", vae), ("text", text_encoder)):
            own = encode.get(kind)
            if other is not None and own is None:
                what, option = _CALLED[kind]
                raise UserError(f"this model was trained without a {what}: leave {option} out")
            self._names[kind] = other or own

    @property
    def every(self) -> int:
        """Frames in a latent frame of a causal VAE; 1 where each frame stands for itself."""
        return int(self._encode["compression"][0]) if self._names["vae"] is not None else 1

    def text(self, device: torch.device) -> TextEncoder | None:
        """The text encoder; None where the model learned one of its own.

        Raises:
            ModelError: it is not to be had, or not that of training.
        """
        name = self._names["text"]
        if name is None:
            return None
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

    def vae(self, device: torch.device) -> Vae | None:
        """The VAE; None where the model makes pixels.

        Raises:
            ModelError: it is not to be had, or not that of training.
        """
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
        loaded: Vae = self._loaded["vae", device]
        return loaded

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
