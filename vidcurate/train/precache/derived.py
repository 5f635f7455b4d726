"""Derived sets: packed shards of latents and text rows, made by `vidcurate precache`.

`OUT/shards/<selection>@<fingerprint>` is a packed set like any other, with the sample ids, buckets,
splits, captions and scores of its parent. Its tars hold `{sample_id}.safetensors`; index.json has
the key `derived`, which says by which settings they were made. `empty.safetensors` at its root
has the rows of the empty prompt.

This is all that a trainer needs of precache: it imports no part that makes such sets.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from vidcurate.clip import is_url
from vidcurate.errors import (
    DamagedSampleError,
    DataError,
    RunDirectoryError,
    ShardMissingError,
    UserError,
)
from vidcurate.shards.index import EMPTY_FILE, INDEX_FILE
from vidcurate.shards.reader.captions import VERSION as CAPTIONS_VERSION
from vidcurate.shards.reader.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from vidcurate.train.config import TrainConfig

VERSION = 1
"""Of the tensors of a sample and of how clips are decoded; part of the fingerprint."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Parent(_Part):
    """The set that was encoded. digest: of its index. columns: of its captions and scores."""

    digest: str
    columns: str


class VaePart(_Part):
    """The VAE: frames, rows and columns of video to one of the latent; name None for pixels."""

    name: str | None
    channels: PositiveInt
    compression: tuple[PositiveInt, PositiveInt, PositiveInt]
    causal: bool


PIXELS = VaePart(name=None, channels=3, compression=(1, 1, 1), causal=False)
"""What stands for the VAE where there is none: latents are RGB in -1..1."""


class TextPart(_Part):
    """The text encoder. width: of a row. empty: sha256 of empty.safetensors."""

    name: str
    width: PositiveInt
    empty: str


class Derived(_Part):
    """What index.json says of a derived set under `derived`.

    settings: what `settings_of` gave. text: None where it holds none.
    """

    version: NonNegativeInt
    fingerprint: str
    settings: dict[str, Any]
    parent: Parent
    vae: VaePart
    text: TextPart | None


@dataclass
class Encoded:
    """One clip, encoded.

    latent: (T', C, h, w). times: float64 (T',), seconds from the clip's first frame. last,
    last_time: (1, C, h, w) and float64 (1,), the last frame encoded by itself, of a causal VAE
    whose last latent frame depends on earlier ones; else None. texts: rows (L, width) of each
    rendered caption; one that was drawn several times is there as often, as the same tensor.
    """

    latent: Tensor
    times: Tensor
    last: Tensor | None = None
    last_time: Tensor | None = None
    texts: list[Tensor] = field(default_factory=list)


# ---------------------------------------------------------------------- settings


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What decides the bytes of a derived set, as plain values; resolves the models' revisions.

    Raises:
        UserError: the recipe names neither a VAE nor a text encoder.
        ModelError: the weights cannot be had.
    """
    encode, data = config.encode, config.data
    if encode.vae is None and encode.text is None:
        raise UserError(
            "there is nothing to precache: the recipe trains on pixels and bytes; name a model "
            "under encode.vae or encode.text"
        )
    settings: dict[str, Any] = {
        "version": VERSION,
        "vae": None,
        "resize": {**data.resize.model_dump(), "patch": list(config.model.patch)},
        "native": data.native.model_dump(),
        "buckets": sorted(set(data.buckets)) if data.buckets else None,
        "dtype": encode.dtype,
        "text": None,
    }
    if encode.vae is not None:
        from vidcurate.models.vae import vae_config

        settings["vae"] = vae_config(encode.vae).facts
    if encode.text is not None:
        from vidcurate.models.text_encoder import text_encoder_config

        captions = data.rendered(drop=False)
        settings |= {
            "text": text_encoder_config(encode.text).facts,
            "max_text_tokens": encode.max_text_tokens,
            "variants": encode.variants,
            "captions": {
                "version": CAPTIONS_VERSION,
                "mix": [[template, weight] for template, weight in captions.mix.items()],
                "words": {k: [list(pair) for pair in v] for k, v in captions.words.items()},
            },
        }
    return _plain(settings)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """16 hex digits of settings. Where a model lies does not count where its digest is known."""
    own = {**settings, **{kind: identity(settings.get(kind)) for kind in ("vae", "text")}}
    text = json.dumps(_plain(own), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What tells weights from others: not where they lie, where their digest is known."""
    if facts is None:
        return None
    local = str(facts.get("revision", "")).startswith("sha256:")
    return {k: v for k, v in facts.items() if k != "key" and not (local and k == "name")}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that what is read compares equal to what is made."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


# ---------------------------------------------------------------------- the set


def derived_folder(root: str | Path, fingerprint: str) -> str:
    """Where the derived set of a packed set lies: beside it."""
    text = str(root)
    if is_url(text):
        return f"{text.rstrip('/')}@{fingerprint}"
    return f"{os.path.abspath(os.path.expanduser(text))}@{fingerprint}"  # not through links


def about(root: str | Path) -> Derived | None:
    """What a set says of how it was derived; None where it was not, or has no index yet.

    Args:
        root: a local folder, or a URL that fsspec knows.

    Raises:
        RunDirectoryError: its index.json is damaged, or of another version.
        StoreError: it cannot be read.
    """
    store = Store(root)
    try:
        data = store.read_all(INDEX_FILE)
    except ShardMissingError:
        return None
    where = store.shown(INDEX_FILE)
    try:
        found = json.loads(data)
        said = found.get("derived") if isinstance(found, dict) else None
        if said is None:
            return None
        derived = Derived.model_validate(said)
    except ValueError as error:  # pydantic's too
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise RunDirectoryError(
            f"{where} is damaged ({why}): remove its folder and run `vidcurate precache` again"
        ) from error
    if derived.version != VERSION:
        raise RunDirectoryError(
            f"{where} is a derived set of another version of vidcurate ({derived.version}, this "
            f"one reads {VERSION}): run `vidcurate precache` again"
        )
    return derived


def parent_of(root: str | Path) -> Parent | None:
    """What `Derived.parent` says of a packed set, as it is now; None without an index.

    Raises:
        RunDirectoryError: its index.json is damaged. StoreError: it cannot be read.
    """
    store = Store(root)
    try:
        found = json.loads(store.read_all(INDEX_FILE))
        return Parent(digest=found["digest"], columns=found["columns"])
    except ShardMissingError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{store.shown(INDEX_FILE)} is damaged ({error}): pack or index again"
        ) from error


def empty_text(root: str | Path) -> Tensor:
    """The rows (L, width) of the empty prompt of a derived set that holds text.

    Raises:
        StoreError: it cannot be read. DamagedSampleError: it is not what precache wrote.
        RunDirectoryError: as of `about`.
    """
    said = about(root)
    assert said is not None
    assert said.text is not None
    store = Store(root)
    where = store.shown(EMPTY_FILE)
    data = store.read_all(EMPTY_FILE)
    if hashlib.sha256(data).hexdigest() != said.text.empty:
        raise DamagedSampleError(
            f"{where} is not what was written (sha256 differs): remove it and run "
            "`vidcurate precache` again"
        )
    rows: Tensor = _tensors(data, where)["text"]
    return rows


# ---------------------------------------------------------------------- samples


def write_sample(encoded: Encoded, dtype: str) -> bytes:
    """The bytes of the member of a sample; the same for the same tensors.

    dtype: "bf16", "fp16" or "fp32", of latents and text.

    Raises:
        DataError: a number is not finite, in this type.
    """
    tensors = {"latent": _stored(encoded.latent, dtype), "times": _times(encoded.times)}
    if encoded.last is not None:
        assert encoded.last_time is not None
        tensors |= {"last": _stored(encoded.last, dtype), "last_time": _times(encoded.last_time)}
    if encoded.texts:
        import torch

        distinct = list({id(rows): rows for rows in encoded.texts}.values())
        places = {id(rows): i for i, rows in enumerate(distinct)}
        tensors |= {f"text_{i}": _stored(rows, dtype) for i, rows in enumerate(distinct)}
        tensors["drawn"] = torch.tensor([places[id(rows)] for rows in encoded.texts])
    return _bytes(tensors)


def read_sample(data: bytes) -> Encoded:
    """A sample from its member's bytes, in the types that were stored, on the CPU.

    Raises:
        DamagedSampleError: they are not what precache wrote.
    """
    found = _tensors(data, "a derived sample")
    latent, times = found.get("latent"), found.get("times")
    last, last_time = found.get("last"), found.get("last_time")
    drawn = found["drawn"].tolist() if "drawn" in found else []
    if not _fits(latent, times, last, last_time) or any(f"text_{i}" not in found for i in drawn):
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        raise DamagedSampleError(
            f"a derived sample holds what precache does not write ({shapes}): run precache again"
        )
    assert latent is not None
    assert times is not None
    return Encoded(latent, times, last, last_time, [found[f"text_{i}"] for i in drawn])


def _fits(
    latent: Tensor | None, times: Tensor | None, last: Tensor | None, last_time: Tensor | None
) -> bool:
    """Whether the shapes are those of one clip."""
    if latent is None or times is None or (last is None) != (last_time is None):
        return False
    if latent.ndim != 4 or not len(latent) or times.shape != latent.shape[:1]:
        return False
    if last is None or last_time is None:
        return True
    return bool(last.shape == (1, *latent.shape[1:]) and last_time.shape == (1,))


def write_empty(rows: Tensor, dtype: str) -> bytes:
    """The bytes of `empty.safetensors`: rows (L, width) of the empty prompt."""
    return _bytes({"text": _stored(rows, dtype)})


def _stored(values: Tensor, dtype: str) -> Tensor:
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    stored = values.detach().to("cpu", kinds[dtype]).contiguous()
    if not bool(torch.isfinite(stored).all()):
        raise DataError(f"the encoded clip has numbers that are not finite in {dtype}")
    return stored


def _times(values: Tensor) -> Tensor:
    import torch

    return values.detach().to("cpu", torch.float64).contiguous()


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    data: bytes = save(dict(tensors))
    return data


def _tensors(data: bytes, what: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedSampleError(f"{what} is no safetensors file ({error})") from error
    return found
