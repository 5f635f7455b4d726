"""Text encoders of transformers: captions to one row a token, of T5, UMT5 or CLIP's text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcurate.errors import MissingExtraError, ModelError
from vidcurate.models.device import torch_device, torch_dtype
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

_CLASSES = {  # by the config's model_type
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}
_FILES = weights("model")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")  # one of them at least
_ENCODER, _BESIDE = "text_encoder", "tokenizer"  # folders of a pipeline: text_encoder_2, too
_TOKENS = 2**14  # in one forward pass, with padding


@dataclass(frozen=True)
class TextConfig:
    """What a text encoder gives.

    width: of a row. facts: name, key, class, and the revision (commit, or digest of the files)
    that was found; JSON values, which fingerprints take.
    """

    width: int
    facts: dict[str, Any]


def text_encoder_config(
    name: str, revision: str | None = None, hub: Hub | None = None
) -> TextConfig:
    """What a text encoder gives, without its weights (of ModelScope, with them) and torch.

    Args:
        name, revision, hub: see `load_text_encoder`.

    Raises:
        ModelError: the config cannot be had, or is of a model that is not known here.
        MissingExtraError: a package that fetches it is not installed.
    """
    part = find_part(name, revision, hub)
    part = part.taking(CONFIG) if part.resolves_alone else _whole(part)
    return _config(part, part.fetch())[0]


def text_encoder_reference(name: str) -> ModelRef:
    """What `load_text_encoder` fetches of a name.

    Raises:
        ModelError: a local path that is not there.
    """
    return _whole(find_part(name)).ref


def load_text_encoder(
    name: str,
    revision: str | None = None,
    hub: Hub | None = None,
    *,
    max_tokens: int = 512,
    device: Any = None,
    dtype: Any = None,
) -> TextTower:
    """A text encoder with its tokenizer, ready to compute.

    Args:
        name: a repository ("google/t5-v1_1-base", "openai/clip-vit-large-patch14"), a folder of
            one ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers/text_encoder", whose tokenizer lies in the
            folder "tokenizer" beside), or a local folder, in transformers' layout; a revision may
            follow as `@revision`.
        revision, hub: see ModelRef.
        max_tokens: longer captions end there; CLIP holds no more than 77.
        device: of torch; None is this process's, `torch_device`.
        dtype: of torch, in which it computes; None is bfloat16 on a GPU, float32 on the CPU.

    Raises:
        ModelError: the weights or the tokenizer cannot be had, are damaged, or of a model that is
            not known here.
        MissingExtraError: transformers is not installed.
    """
    assert max_tokens >= 2, max_tokens
    part = _whole(find_part(name, revision, hub))
    folder = part.fetch()
    config, most = _config(part, folder)
    tokenizer, model = _loaded(config, folder, dtype or torch_dtype())
    limit = max_tokens if most is None else min(max_tokens, most)
    return TextTower(config, model, tokenizer, limit, device or torch_device())


class TextTower:
    """A loaded text encoder. It computes in evaluation mode and without gradients.

    width: of a row. facts: see TextConfig. max_tokens: of a caption, at most. shortened: captions
    so far that were longer, and lost their end. device: of torch.
    """

    def __init__(
        self, config: TextConfig, model: Any, tokenizer: Any, max_tokens: int, device: Any
    ) -> None:
        import torch

        self.width = config.width
        self.facts = config.facts
        self.max_tokens = max_tokens
        self.shortened = 0
        self.device = torch.device(device)
        with loading(self.facts["name"], "the text encoder"):
            self._model = model.to(self.device).eval().requires_grad_(False)
        self._tokenizer = tokenizer

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows of captions, without padding, from the encoder's last layer (and its norm).

        A row is a token; the marks of begin and end have theirs, so that "" has at least one.

        Returns:
            rows: float32 (L, width) on `device`.
            offsets: int32 (S + 1,) on the CPU; rows offsets[i]:offsets[i + 1] are caption i's.

        Raises:
            ModelError: the device's memory ran out, or the numbers of its dtype.
        """
        import torch

        tokens = [self._tokens(caption) for caption in captions]
        lengths = torch.tensor([0, *map(len, tokens)])
        offsets = lengths.cumsum(0).to(torch.int32)
        distinct = sorted(set(tokens), key=len)  # of like lengths together: little padding
        if not distinct:
            return torch.zeros(0, self.width, device=self.device), offsets
        longest = len(distinct[-1])
        found = with_less(
            max(1, _TOKENS // longest),
            lambda size: self._compute(distinct, size),
            f"{self.facts['name']} cannot take a caption of {longest} tokens on {self.device}. "
            "Take a smaller text encoder, fewer tokens, or a device with more memory",
        )
        return torch.cat([found[own] for own in tokens]), offsets

    def _tokens(self, caption: str) -> tuple[int, ...]:
        text = caption.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate has no UTF-8
        ids = self._tokenizer(text, verbose=False).input_ids
        if len(ids) > self.max_tokens:
            self.shortened += 1
            ids = self._tokenizer(text, truncation=True, max_length=self.max_tokens).input_ids
        if not ids:  # a tokenizer that marks neither begin nor end
            ids = [self._tokenizer.eos_token_id or self._tokenizer.pad_token_id or 0]
        return tuple(ids)

    def _compute(
        self, distinct: Sequence[tuple[int, ...]], size: int
    ) -> dict[tuple[int, ...], Tensor]:
        import torch

        found = {}
        for at in range(0, len(distinct), size):
            some = distinct[at : at + size]
            ids = torch.zeros(len(some), len(some[-1]), dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for i, own in enumerate(some):
                ids[i, : len(own)] = torch.tensor(own)
                mask[i, : len(own)] = 1
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                hidden = self._model(
                    input_ids=ids.to(self.device), attention_mask=mask.to(self.device)
                ).last_hidden_state.float()
            for i, own in enumerate(some):
                found[own] = hidden[i, : len(own)]
        if not all(bool(rows.isfinite().all()) for rows in found.values()):
            raise ModelError(
                f"{self.facts['name']} gives numbers that are not finite in {self._model.dtype}: "
                "compute in float32 or bfloat16"
            )
        return found


def _whole(part: Part) -> Part:
    """The part, with its weights and its tokenizer wanted."""
    files = (CONFIG, *_FILES, *_TOKENIZER)
    here = Path(part.ref.name).expanduser()
    if not part.folder and _beside(here.name) != here.name and here.is_dir():
        part = Part(ModelRef(str(here.parent)), here.name)
    last = part.folder.rpartition("/")[2]
    if _beside(last) != last:
        files += tuple(f"../{_beside(last)}/{file}" for file in _TOKENIZER)
    return part.taking(*files)


def _beside(folder: str) -> str:
    """The name of the tokenizer's folder in a pipeline: "tokenizer_2" of "text_encoder_2"."""
    return folder.replace(_ENCODER, _BESIDE, 1) if folder.startswith(_ENCODER) else folder


def _config(part: Part, folder: Path) -> tuple[TextConfig, int | None]:
    """Of a config.json, and the most tokens that it takes (None: any)."""
    found = read_config(folder, part.name)
    kind = _CLASSES.get(found.get("model_type", ""))
    if kind is None:
        raise ModelError(
            f"{part.name} is a model of the type {found.get('model_type')}; of text encoders, "
            f"{', '.join(_CLASSES)} are known here"
        )
    if kind != "CLIPTextModel":
        return TextConfig(int(found.get("d_model", 512)), part.facts(kind)), None
    own = found
    if found["model_type"] == "clip":
        own = found.get("text_config") or found.get("text_config_dict") or {}
    width = int(own.get("hidden_size", 512))
    return TextConfig(width, part.facts(kind)), int(own.get("max_position_embeddings", 77))


def _loaded(config: TextConfig, folder: Path, dtype: Any) -> tuple[Any, Any]:
    """transformers' tokenizer and model, on the CPU."""
    prepare()  # transformers may import torchvision
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(
            f"text encoders need {error.name}: pip install 'vidcurate[train]'"
        ) from error

    name, kind = config.facts["name"], config.facts["class"]
    beside = folder.parent / _beside(folder.name)
    held = {p: [f for f in _VOCABULARIES if (p / f).is_file()] for p in (folder, beside)}
    place = folder if held[folder] else beside
    if not held[place]:  # transformers would make one that knows no word
        raise ModelError(
            f"{name} has no tokenizer: there is none of {', '.join(_VOCABULARIES)} in {folder}"
            + (f" or {beside}" if beside != folder else "")
        )
    if held[place] == ["spiece.model"] and find_spec("sentencepiece") is None:
        raise MissingExtraError(
            f"the tokenizer of {name} is a spiece.model alone, and sentencepiece, which reads it, "
            "is not installed: pip install sentencepiece"
        )
    check_weights(name, folder, _FILES)
    with loading(name, "the tokenizer", logging):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    with loading(name, "the text encoder", logging):
        model, found = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, dtype=dtype, output_loading_info=True
        )
    check_found(name, kind, list(found["missing_keys"]))
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ModelError(
            f"the tokenizer in {place} has {len(tokenizer)} tokens and {name} knows {known}: they "
            "are not of one model"
        )
    return tokenizer, model
