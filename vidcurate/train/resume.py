"""Going on from a checkpoint: what it must agree with, and what of it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from vidcurate.errors import UserError
from vidcurate.train import checkpoint as saved
from vidcurate.train.codes import Codes
from vidcurate.train.config import TrainConfig
from vidcurate.train.network import Average, differences
from vidcurate.train.parallel import Place

_log = logging.getLogger("vidcurate.train")
# Of the model only what is trained; all of that must be there, which `checkpoint.load` sees to.
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class At(NamedTuple):
    """Where a training stands: steps done, epoch, and steps that were skipped so far."""

    step: int = 0
    epoch: int = 0
    not_finite: int = 0


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All tensors that a checkpoint holds, by names that do not depend on the ranks.

    Frozen weights, beside LoRA's adapters, are not among them.

    Returns:
        them, and the optimiser's state as torch's functions take it. The optimiser's settings are
        not saved: they are the recipe's.
    """
    weights, state = get_state_dict(model, optimizer, options=_TRAINED)
    tensors = {"model": weights, "optimizer": state["state"]}
    if average is not None:
        tensors["ema"] = dict(average.tensors)
    return tensors, state


def settings_of(config: TrainConfig, codes: Codes) -> dict[str, Any]:
    """What train.json says of the model, the codes that it sees and the objective; as JSON."""
    model: dict[str, Any] = config.model.model_dump(mode="json", exclude={"preset"})
    model["blocks"] = list(config.model.attention)
    return {
        "model": model,
        "encode": codes.described(),
        "objective": config.objective.model_dump(mode="json"),
    }


def resume(
    latest: Path,
    settings: Mapping[str, Any],
    codes: Codes,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    data: Any,
    place: Place,
) -> At:
    """Load a checkpoint into all that is trained and into the data. All ranks call it.

    Args:
        settings: of this training, as `settings_of` gives them. data: with `load_state_dict`.

    Raises:
        UserError: it is of another model, objective, VAE, text encoder or data set.
        RunDirectoryError: it is damaged.
    """
    said = saved.about(latest)
    _refuse(latest, "model", differences(said["model"], settings["model"]))
    then, now = said["objective"], settings["objective"]
    if then["name"] != now["name"]:
        _refuse(latest, "objective", differences({"name": then["name"]}, {"name": now["name"]}))
    codes.compare(said["encode"], str(latest))
    tensors, state = tensors_of(model, optimizer, average)
    saved.load(tensors, latest, place)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=tensors["model"],
        optim_state_dict=state,
        options=_TRAINED,
    )
    data.load_state_dict(said["data"])
    if place.first:
        _log.info("going on from %s", latest)
        if other := differences(then, now):
            _log.warning("with another objective from here on: %s", "; ".join(other))
    return At(int(said["step"]), int(said["epoch"]), int(said.get("not_finite", 0)))


def _refuse(latest: Path, what: str, other: list[str]) -> None:
    if other:
        raise UserError(
            f"{latest} is of another {what}: {'; '.join(other)}; set {what} as it was, or give "
            "another output"
        )
