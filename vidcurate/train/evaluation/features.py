"""Features of pictures and of clips, by models of a hub: what Fréchet distances compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidcurate.errors import MissingExtraError, ModelError
from vidcurate.models import prepare_torchvision, resolve, torch_device
from vidcurate.models.parts import (
    CONFIG,
    check_found,
    find_part,
    loading,
    read_config,
    weights,
    with_less,
)

Frames = npt.NDArray[np.uint8]
"""RGB, (T, H, W, 3)."""

VIDEO_MODEL = "MCG-NJU/videomae-base-finetuned-ssv2"
"""VideoMAE, fine-tuned on Something-Something v2, whose actions are told by motion: features of
classifiers of Kinetics see the content of single frames before all (arXiv 2404.12391)."""

IMAGE_MODEL = "facebook/dinov2-large"
"""DINOv2, whose distances agree with people better than Inception's do (arXiv 2306.04675).

An Inception of timm, as timm/inception_v3.tf_in1k, can be named too; it is not the one of published
FIDs, whose numbers do not compare with its own.
"""

Kind = Literal["video", "image"]

_HEADS = {"video": "ForVideoClassification", "image": "ForImageClassification"}
_PROCESSOR = "preprocessor_config.json"


def even(frames: int, count: int) -> npt.NDArray[np.int64]:
    """Which of `frames` frames are the middles of `count` equal parts; of too few some repeat."""
    return ((np.arange(count) + 0.5) * frames / count).astype(np.int64)


@dataclass(frozen=True)
class Extractor:
    """A model that makes one vector of a picture or of a clip.

    name: as it was asked for. revision: what that stands for. kind: "video" or "image".
    frames: of a clip that the model sees, taken evenly over its length; 1 of an image model.
    """

    name: str
    revision: str
    kind: Kind
    frames: int
    _model: Any
    _processor: Any
    _head: Any = None

    def seen(self, clip: Frames) -> Frames:
        """The frames of a clip that a video model looks at."""
        return clip[even(len(clip), self.frames)]

    def __call__(self, given: Sequence[Frames]) -> npt.NDArray[np.float32]:
        """Features (N, width) of `seen` frames of clips, or of pictures (H, W, 3), of any sizes.

        Each is prepared by the model's own processor. Of a classifier the features are what its
        last layer reads; else the model's pooled output, or the mean of its tokens.

        Raises:
            ModelError: the device's memory is too small for one.
        """

        def some(size: int) -> npt.NDArray[np.float32]:
            return np.concatenate(
                [self._batch(given[at : at + size]) for at in range(0, len(given), size)]
            )

        return with_less(len(given), some, f"{self.name} looks at one {self.kind} of its size")

    def _batch(self, given: Sequence[Frames]) -> npt.NDArray[np.float32]:
        import torch
        from PIL import Image

        pictures: list[Any] = [
            [Image.fromarray(frame) for frame in one]
            if self.kind == "video"
            else Image.fromarray(one)
            for one in given
        ]
        inputs = self._processor(pictures, return_tensors="pt")
        with torch.inference_mode():
            found = self._features(inputs["pixel_values"].to(torch_device()))
        return np.asarray(found.flatten(1).float().cpu())

    def _features(self, pixels: Any) -> Any:
        if self._head is None:
            made = self._model(pixel_values=pixels)
            pooled = getattr(made, "pooler_output", None)
            return made.last_hidden_state.mean(1) if pooled is None else pooled
        read: list[Any] = []
        watching = self._head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            self._model(pixel_values=pixels)
        finally:
            watching.remove()
        return read[0]


def load_extractor(name: str, kind: Kind) -> Extractor:
    """A feature extractor on this process's device, in float32.

    Args:
        name: of a repository in the layout of transformers or (images) of timm, as
            `repository@revision` where not the newest is meant; or a local folder.

    Raises:
        ModelError: the weights cannot be had, or are of no such model.
        MissingExtraError: transformers is not installed.
    """
    part = find_part(name).taking(CONFIG, _PROCESSOR, *weights("model"))
    folder = part.fetch()
    config = read_config(folder, name)
    prepare_torchvision()
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(
            "feature extractors need transformers: pip install 'vidcurate[models]'"
        ) from error
    has_head = any(str(a).endswith(_HEADS[kind]) for a in config.get("architectures") or ())
    loader = getattr(transformers, f"AutoModel{_HEADS[kind]}" if has_head else "AutoModel")
    with loading(name, f"the {kind} model", logging):
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model, found = loader.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    check_found(name, f"{kind} model", found["missing_keys"])
    frames = 1 if kind == "image" else getattr(model.config, "num_frames", None)
    if frames is None:
        raise ModelError(
            f"{name} is no video model: its config has no num_frames; take one as {VIDEO_MODEL}"
        )
    head = getattr(model, "classifier", None) if has_head else None
    model = model.to(torch_device()).eval().requires_grad_(False)
    return Extractor(name, resolve(part.ref), kind, int(frames), model, processor, head)
