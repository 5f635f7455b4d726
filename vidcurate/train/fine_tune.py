"""Training that begins with the weights of another: all are trained, or LoRA adapters beside them.

LoRA (Hu et al., arXiv 2106.09685) is peft's. A checkpoint then holds the adapters alone; its
train.json names the checkpoint that they belong to, by its path and a digest of its weights.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidcurate.errors import MissingExtraError, RunDirectoryError, UserError
from vidcurate.models.torchvision_ops import prepare as prepare_torchvision
from vidcurate.nearest import suggest
from vidcurate.train import checkpoint as saved
from vidcurate.train.config import TrainConfig
from vidcurate.train.network import Network, differences
from vidcurate.train.parallel import Place
from vidcurate.train.precache.derived import identity

_NAMED = 4  # so many tensors in a message
_log = logging.getLogger("vidcurate.train")


def begin(
    network: Network,
    config: TrainConfig,
    settings: Mapping[str, Any],
    latest: Path | None,
    place: Place,
) -> dict[str, Any] | None:
    """Give a new network the weights and adapters that the recipe asks for. All ranks call it.

    Call it before the network is spread over ranks, and with the same random numbers on all.

    Args:
        settings: "model", "objective" and "encode" as train.json has them, which are compared with
            those of the other training. latest: this training's own checkpoint,
            which is loaded after; then only LoRA's base is needed.

    Returns:
        what train.json says as `base`: checkpoint, averaged, and with LoRA the digest; None where
        the training begins from nothing.

    Raises:
        UserError: shapes that differ, no such modules, other settings than `latest` has.
        RunDirectoryError: no such checkpoint, or LoRA's base is not there any more.
        MissingExtraError: LoRA without peft.
    """
    said = saved.about(latest) if latest is not None else None
    lora = config.lora.model_dump(mode="json") if config.lora is not None else None
    if said is not None:
        _check_same(said.get("lora"), lora, latest)
        base: dict[str, Any] | None = said.get("base")
        if lora is not None:
            assert base is not None
            given = config.init_from.checkpoint if config.init_from is not None else ""
            load_base(network, base, place, or_in=Path(given))
    elif config.init_from is not None:
        path = saved.find(Path(config.init_from.checkpoint))
        base = {"checkpoint": str(path.resolve()), "averaged": config.init_from.averaged}
        if place.first:
            _tell(path, config.init_from.averaged, settings)
        digest = load_weights(network, path, averaged=config.init_from.averaged, place=place)
        if lora is not None:
            base["digest"] = digest
    else:
        return None
    if lora is not None:
        add_adapters(network, lora, seed=config.data.seed)
    return base


def load_weights(network: Network, checkpoint: Path, *, averaged: bool, place: Place) -> str:
    """Load a checkpoint into a network without adapters; LoRA's are merged into their base.

    Args:
        averaged: the moving average, where it has one.

    Returns:
        a digest of the weights, 32 hex digits, the same on however many ranks they were saved.

    Raises:
        UserError: shapes that differ. RunDirectoryError: damaged, or LoRA's base is not there.
        MissingExtraError: LoRA without peft.
    """
    said = saved.about(checkpoint)
    part = "ema" if averaged and said["averaged"] else "model"
    hashed = hashlib.blake2b(digest_size=16)
    if said.get("lora"):
        load_base(network, said["base"], place)
        hashed.update(said["base"]["digest"].encode())
        add_adapters(network, said["lora"])
    tensors = trained(network)
    _check_shapes(checkpoint, part, tensors)
    saved.load({part: tensors}, checkpoint, place)
    for name, tensor in tensors.items():
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hashed.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    if said.get("lora"):
        merge(network)
    return hashed.hexdigest()


def load_base(
    network: Network, base: Mapping[str, Any], place: Place, *, or_in: Path | None = None
) -> None:
    """Load the weights that adapters belong to, as `base` of train.json names them.

    Args:
        or_in: a checkpoint or a training's output to look into, where the path is not there.

    Raises:
        RunDirectoryError: it is not there, or its weights are others.
    """
    path = Path(base["checkpoint"])
    if not (path / saved.ABOUT).exists() and or_in is not None:
        path = saved.find(or_in)
    if not (path / saved.ABOUT).exists():
        raise RunDirectoryError(
            f"{path}, whose weights these adapters belong to, is not there; put it back, or name "
            "where it is as base.checkpoint in the adapters' train.json"
        )
    digest = load_weights(network, path, averaged=base["averaged"], place=place)
    if digest != base["digest"]:
        raise RunDirectoryError(
            f"{path} has other weights (digest {digest}) than these adapters belong to "
            f"({base['digest']}); give the checkpoint that they were trained on"
        )


def trained(network: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, and that checkpoints hold, by name; they share memory."""
    return {name: w.detach() for name, w in network.named_parameters() if w.requires_grad}


def modules_of(model: nn.Module) -> dict[str, list[str]]:
    """Linear layers by the names that `lora.modules` takes: the last word of where they stand."""
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            words = [word for word in path.split(".") if not word.isdigit()]
            found.setdefault(words[-1], []).append(path)
    return found


def add_adapters(network: Network, lora: Mapping[str, Any], *, seed: int = 0) -> None:
    """Freeze a network and put LoRA adapters, which change nothing at first, into its DiT.

    Args:
        lora: rank, alpha, modules. seed: of their weights.

    Raises:
        UserError: no such modules. MissingExtraError: no peft.
    """
    if find_spec("peft") is None:
        raise MissingExtraError("lora needs peft: pip install 'vidcurate[train]'")
    prepare_torchvision()  # peft imports transformers, which imports it
    from peft import LoraConfig, inject_adapter_in_model

    known = modules_of(network.dit)
    wrong = [name for name in lora["modules"] if name not in known]
    if wrong:
        hint = suggest(wrong[0], sorted(known))
        raise UserError(f"lora.modules: the model has no linear layer {wrong[0]!r}{hint}")
    network.requires_grad_(False)
    targets = [path for name in lora["modules"] for path in known[name]]
    settings = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets)
    torch.manual_seed(seed)
    inject_adapter_in_model(settings, network.dit)


def merge(network: Network) -> None:
    """Add the adapters to the weights that they stand beside, and be a plain network again."""
    from peft.tuners.lora import LoraLayer

    for path, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            above, _, name = path.rpartition(".")
            setattr(network.get_submodule(above), name, module.get_base_layer())
    del network.dit.peft_config  # peft's mark of a model with adapters
    network.requires_grad_(True)


def _check_same(then: Any, now: Any, latest: Path | None) -> None:
    """That a training goes on with the adapters that it began with."""
    if then == now:
        return
    if then is None or now is None:
        what = "of all weights, without lora" if then is None else f"of LoRA, {then}"
    else:
        what = f"of LoRA of other settings: {'; '.join(differences(then, now))}"
    raise UserError(f"{latest} is {what}; set lora as it was, or give another output")


def _check_shapes(checkpoint: Path, part: str, tensors: Mapping[str, Tensor]) -> None:
    stored = saved.shapes(checkpoint, part)
    wrong = [
        f"{name} is {stored[name]} there and {tuple(tensor.shape)} here"
        if name in stored
        else f"{name} is not there"
        for name, tensor in tensors.items()
        if stored.get(name) != tuple(tensor.shape)
    ]
    if wrong:
        raise UserError(
            f"{checkpoint} does not fit this model: {_some(wrong)}; set model as it was there"
        )
    left = [name for name in stored if name not in tensors]
    if left:
        _log.warning("%s: not taken, as this model has none: %s", checkpoint, _some(left))


def _tell(path: Path, averaged: bool, settings: Mapping[str, Any]) -> None:
    """What is begun with, and settings that differ though all shapes may fit."""
    said = saved.about(path)
    which = "the moving average of " if averaged and said["averaged"] else ""
    _log.info("beginning with %sthe weights of %s", which, path)
    for section in ("model", "objective"):
        other = differences(said.get(section) or {}, settings[section])
        if other:
            _log.warning("%s differs from that of %s: %s", section, path, "; ".join(other))
    then, now = said["encode"]["facts"], settings["encode"]["facts"]
    for kind, name in (("vae", "VAE"), ("text", "text encoder")):
        if identity(then.get(kind)) != identity(now.get(kind)):
            _log.warning("the %s (encode.%s) is another than that of %s", name, kind, path)


def _some(texts: Sequence[str]) -> str:
    rest = len(texts) - _NAMED
    return "; ".join(texts[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
