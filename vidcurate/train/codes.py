"""What the model sees in place of pixels and bytes, and whence: by facts alone, without torch.

A recipe names a VAE and a text encoder. What `vidcurate precache` has made of the same settings is
read where it is there; else clips and captions are encoded while training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vidcurate.errors import UserError
from vidcurate.train.config import Data, Encode, TrainConfig
from vidcurate.train.model.flops import Compression
from vidcurate.train.precache import derived
from vidcurate.train.precache.derived import Derived, identity

PIXELS: Compression = (1, 1, 1)
"""The compression of no VAE."""

PRECACHE = "vidcurate precache RECIPE"


@dataclass(frozen=True)
class Codes:
    """What the model sees in place of pixels and bytes: facts alone, no weights.

    channels: of a latent. compression: frames, rows and columns of the video to one of the latent.
    causal: a latent frame depends on those before it. text_width: of the rows of a text encoder;
    None: the model reads bytes. sets: precached sets to weights, which are read in place of
    data.shards; None: pixels are read, and encoded where there is a VAE. encode: the recipe's, with
    what the precached sets say. facts: plain values of the VAE ("vae") and the text encoder
    ("text"), by which checkpoints are compared.
    """

    channels: int = 3
    compression: Compression = PIXELS
    causal: bool = False
    text_width: int | None = None
    sets: Mapping[str, float] | None = None
    encode: Encode = Encode()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chained(self) -> bool:
        """True where the code of a frame in the middle depends on frames before it."""
        return self.causal and self.compression[0] > 1

    def described(self) -> dict[str, Any]:
        """What a checkpoint says of it: `encode` of the recipe, and the facts; as JSON has them."""
        return {
            **self.encode.model_dump(mode="json"),
            "channels": self.channels,
            "compression": list(self.compression),
            "causal": self.causal,
            "text_width": self.text_width,
            "facts": dict(self.facts),
            "reads": "pixels" if self.sets is None else "a precached set",
        }

    def compare(self, then: Mapping[str, Any], checkpoint: str) -> None:
        """Refuse a checkpoint of another VAE or text encoder, or of samples in another order.

        Args:
            then: what `described` gave when it was saved.

        Raises:
            UserError: says which.
        """
        for kind, name in (("vae", "VAE"), ("text", "text encoder")):
            was, own = then["facts"].get(kind), self.facts.get(kind)
            if identity(was) != identity(own):
                raise UserError(
                    f"{checkpoint} is of another {name}: encode.{kind} was {_named(was)} and is "
                    f"{_named(own)}; set it as it was, or give another output"
                )
        now = self.described()["reads"]
        if then["reads"] != now:
            mode = "off" if then["reads"] == "pixels" else "only"
            raise UserError(
                f"{checkpoint} was trained on {then['reads']}, and the recipe now reads {now}, "
                f"in another order; set encode.precached: {mode} to go on, or give another output"
            )


NO_CODES = Codes()
"""Pixels, and learned bytes."""


def codes_of(config: TrainConfig) -> tuple[Codes, str]:
    """What the model of a recipe sees, and in a line whence that comes; loads no weights.

    Raises:
        UserError: `data.shards` names a precached set of other settings than the recipe's;
            `precached: only` and there is none; model.channels or model.text_width do not fit.
        ModelError: a model's config cannot be had.
    """
    shards = config.data.shards
    weights = {shards: 1.0} if isinstance(shards, str) else dict(shards)
    named = {root: derived.about(root) for root in weights}
    if any(named.values()):
        codes, line = _of_named(config, named, weights)
    elif config.encode.vae is None and config.encode.text is None:
        if config.encode.precached == "only":
            raise UserError(
                "encode.precached is only, and the recipe trains on pixels and bytes, which are "
                "not precached; name encode.vae or encode.text, or leave it out"
            )
        codes, line = NO_CODES, "reads pixels"
    else:
        codes, line = _of_recipe(config, weights)
    _check_widths(config, codes)
    return codes, line


def check_model(config: TrainConfig) -> None:
    """Look whether the model fits what the recipe's VAE and text encoder give.

    Raises:
        UserError: model.channels or model.text_width do not fit.
        ModelError: a model's config cannot be had.
    """
    _check_widths(config, _on_the_fly(config.encode))


def _of_named(
    config: TrainConfig, named: Mapping[str, Derived | None], weights: Mapping[str, float]
) -> tuple[Codes, str]:
    """Of precached sets that the recipe itself names."""
    plain = [root for root, said in named.items() if said is None]
    if plain:
        raise UserError(
            f"data.shards mixes precached sets with {plain[0]}, which is none; name the precached "
            "set of that, too, or the parents of all"
        )
    first, *others = [(root, said) for root, said in named.items() if said is not None]
    for root, said in others:
        if said.fingerprint != first[1].fingerprint:
            raise UserError(
                f"data.shards mixes {first[0]} and {root}, which are of other settings: "
                f"{'; '.join(_differences(first[1].settings, said.settings))}"
            )
    if config.encode.precached == "off":
        raise UserError(
            f"encode.precached is off, and data.shards names {first[0]}, which is precached; name "
            "the set that it was made of, or leave encode.precached out"
        )
    other = _disagreements(config, first[1])
    if other:
        raise UserError(
            f"{first[0]} was precached with other settings than the recipe's: {'; '.join(other)}; "
            f"set these as they were, or name the parent set and run `{PRECACHE}`"
        )
    return _of_set(config.encode, first[1], weights), f"reads precached {', '.join(named)}"


def _of_recipe(config: TrainConfig, weights: Mapping[str, float]) -> tuple[Codes, str]:
    """Of sets of pixels: what was precached of these by the recipe's settings, if all were."""
    encode = config.encode
    what = " and ".join(name for name in (encode.vae, encode.text) if name is not None)
    if encode.precached == "off":
        return _on_the_fly(encode), f"encodes while training, by {what}"
    mark = derived.fingerprint(derived.settings_of(config))
    sets: dict[str, float] = {}
    missing: list[str] = []
    for root, weight in weights.items():
        folder = derived.derived_folder(root, mark)
        said, parent = derived.about(folder), derived.parent_of(root)
        if said is None:
            missing.append(f"{folder} is not there")
        elif parent is None:
            missing.append(f"{root} has no index (to train without it name {folder} itself)")
        elif said.parent.digest != parent.digest:
            missing.append(f"{folder} is of an earlier state of {root}")
        elif said.text is not None and said.parent.columns != parent.columns:
            missing.append(f"{folder} has captions of an earlier state of {root}")
        else:
            sets[folder] = weight
            held = said
    if not missing:
        return _of_set(encode, held, sets), f"reads precached {', '.join(sets)}"
    if encode.precached == "only":
        raise UserError(f"encode.precached is only, and {'; '.join(missing)}: run `{PRECACHE}`")
    line = f"encodes while training, by {what}: {'; '.join(missing)} (`{PRECACHE}` makes it)"
    return _on_the_fly(encode), line


def _on_the_fly(encode: Encode) -> Codes:
    codes = Codes(encode=encode)
    if encode.vae is not None:
        from vidcurate.models.vae import vae_config

        vae = vae_config(encode.vae)
        codes = replace(
            codes,
            channels=vae.channels,
            compression=vae.compression,
            causal=vae.causal,
            facts={"vae": vae.facts},
        )
    if encode.text is not None:
        from vidcurate.models.text_encoder import text_encoder_config

        text = text_encoder_config(encode.text)
        codes = replace(codes, text_width=text.width, facts={**codes.facts, "text": text.facts})
    return codes


def _of_set(encode: Encode, said: Derived, sets: Mapping[str, float]) -> Codes:
    """Of precached sets; what `encode` leaves open is taken from them."""
    facts = {kind: said.settings[kind] for kind in ("vae", "text") if said.settings.get(kind)}
    known: dict[str, Any] = {
        name: said.settings[name]
        for name in ("max_text_tokens", "variants", "dtype")
        if name in said.settings
    }
    for kind, own in facts.items():
        known[kind] = getattr(encode, kind) or own["key"]
    return Codes(
        channels=said.vae.channels,
        compression=said.vae.compression,
        causal=said.vae.causal,
        text_width=None if said.text is None else said.text.width,
        sets=dict(sets),
        encode=encode.model_copy(update=known),
        facts=facts,
    )


def _disagreements(config: TrainConfig, said: Derived) -> list[str]:
    """What the recipe gives and a precached set was made otherwise with, in words."""
    then, encode, data = said.settings, config.encode, config.data
    now: dict[str, Any] = {
        name: getattr(encode, name)
        for name in ("max_text_tokens", "variants", "dtype")
        if name in encode.model_fields_set and name in then
    }
    kinds: list[Literal["vae", "text"]] = ["vae", "text"]
    for kind in kinds:
        name = getattr(encode, kind)
        if name is not None and name != (then[kind] or {}).get("key"):
            now[kind] = derived.settings_of(config)[kind]
            if then[kind] is not None and identity(then[kind]) == identity(now[kind]):
                del now[kind]
    if data.captions is not None and then["text"] is not None:
        now["captions"] = {**then["captions"], **_captions(data)}
    for name in ("resize", "native"):
        if name in data.model_fields_set:
            own = getattr(data, name).model_dump()
            now[name] = {**then[name], **own}
    different = _differences({key: then.get(key) for key in now}, now)
    made = then["resize"]["patch"]
    if any(whole % patch for whole, patch in zip(made, config.model.patch, strict=True)):
        different.append(f"model.patch was {made} and is {list(config.model.patch)}")
    return different


def _captions(data: Data) -> dict[str, Any]:
    """As a set's settings have them."""
    own = data.rendered(drop=False)
    plain = {"mix": list(own.mix.items()), "words": dict(own.words)}
    found: dict[str, Any] = json.loads(json.dumps(plain))
    return found


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} was {then.get(key)!r} and is {now.get(key)!r}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def _named(facts: Mapping[str, Any] | None) -> str:
    return "null" if facts is None else f"{facts['key']} (revision {facts['revision']})"


def _check_widths(config: TrainConfig, codes: Codes) -> None:
    model = config.model
    if model.channels != codes.channels:
        whose = "pixels" if codes.encode.vae is None else f"the latents of {codes.encode.vae}"
        raise UserError(
            f"model.channels is {model.channels}, and {whose} have {codes.channels}; set "
            f"model.channels: {codes.channels}"
        )
    if codes.text_width not in (None, model.text_width):
        raise UserError(
            f"model.text_width is {model.text_width}, and the rows of {codes.encode.text} have "
            f"{codes.text_width}; set model.text_width: {codes.text_width}"
        )
