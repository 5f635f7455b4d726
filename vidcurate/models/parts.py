"""Models that are one folder of a repository, as diffusers lays a pipeline out, or all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vidcurate.errors import MissingExtraError, ModelError
from vidcurate.models.device import free_memory, is_out_of_memory
from vidcurate.models.hub import fetch, hub_of, resolve
from vidcurate.models.reference import Hub, ModelRef

_T = TypeVar("_T")

CONFIG = "config.json"
_INDEX = "model_index.json"  # of a pipeline's repository: its models lie in folders


@dataclass(frozen=True)
class Part:
    """A folder of a repository, or of this machine.

    ref: names the repository, or the local folder. folder: in it; "" is the whole of it.
    """

    ref: ModelRef
    folder: str

    @property
    def name(self) -> str:
        """As recipes write it, without the revision."""
        return f"{self.ref.name}/{self.folder}" if self.folder else self.ref.name

    @property
    def key(self) -> str:
        """As ModelRef.key, with the folder."""
        return replace(self.ref, name=self.name).key

    @property
    def resolves_alone(self) -> bool:
        """True where any one file tells the revision: a repository of Hugging Face has commits."""
        return hub_of(self.ref) == "huggingface"

    def taking(self, *files: str) -> Part:
        """The same part, of which these files of its folder are wanted; `*` stands for any text.

        What begins with "../" lies beside the folder.
        """
        at = f"{self.folder}/" if self.folder else ""
        up = f"{self.folder.rpartition('/')[0]}/" if "/" in self.folder else ""
        wanted = [up + f[3:] if f.startswith("../") else at + f for f in files]
        return replace(self, ref=replace(self.ref, files=(*wanted, _INDEX)))

    def fetch(self) -> Path:
        """The local folder of the part's files; see `models.fetch`.

        Raises:
            ModelError: they cannot be had, or are no single model's.
            MissingExtraError: a package that fetches them is not installed.
        """
        root = fetch(self.ref)
        place = root / self.folder
        if place.is_dir() and (place / CONFIG).is_file():
            return place
        if (root / _INDEX).is_file():
            held = json.loads((root / _INDEX).read_text("utf-8"))
            parts = ", ".join(sorted(k for k, v in held.items() if isinstance(v, list)))
            raise ModelError(
                f"{self.name} is no model but a pipeline of several ({parts}): name the folder of "
                f"the one that is meant, as {self.ref.name}/vae"
            )
        raise ModelError(
            f"{self.name} holds no model: there is no {CONFIG} in {place}; name a repository or a "
            "folder in the layout of diffusers or transformers"
        )

    def facts(self, kind: str) -> dict[str, Any]:
        """What was loaded, as JSON values: name, key, class and what the revision stands for now.

        kind: the class. Files must be on this machine.
        """
        return {
            "name": self.name,
            "key": self.key,
            "class": kind,
            "revision": resolve(self.ref),
        }


def find_part(name: str, revision: str | None = None, hub: Hub | None = None) -> Part:
    """The part that a recipe names.

    Args:
        name: a local folder; a repository ("madebyollin/taesd"); or a repository and a folder in
            it ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers/vae"). A revision may follow as `@revision`.
        revision: commit, tag or branch; not said in `name`, too.
        hub: see ModelRef.

    Raises:
        ModelError: two revisions, or a local path that is not there.
    """
    if name.startswith((".", "~", "/")) or Path(name).expanduser().exists():
        return Part(ModelRef(name), "")
    plain, _, said = name.partition("@")
    if said and revision not in (None, said):
        raise ModelError(f"two revisions are asked of {plain}: {said} and {revision}")
    owner, _, rest = plain.strip("/").partition("/")
    repository, _, folder = rest.partition("/")
    root = f"{owner}/{repository}" if repository else owner
    return Part(ModelRef(root, said or revision, hub), folder)


def weights(stem: str) -> tuple[str, ...]:
    """The files of a model's weights as `from_pretrained` looks for them: whole, or in pieces.

    Copies in other precisions ("model.fp16.safetensors") and pickles beside safetensors are not.
    """
    pickle = stem if stem != "model" else "pytorch_model"
    return (
        f"{stem}.safetensors",
        f"{stem}-0*.safetensors",
        f"{stem}.safetensors.index.json",
        f"{pickle}.bin",
        f"{pickle}-0*.bin",
        f"{pickle}.bin.index.json",
    )


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        ModelError: it is no JSON object.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise ModelError(
            f"the {CONFIG} of {name} is damaged ({error}): delete {folder / CONFIG} and fetch it "
            "again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"the {CONFIG} of {name} is no JSON object: {folder / CONFIG}")
    return config


@contextmanager
def loading(name: str, needs: str, logging: Any = None) -> Iterator[None]:
    """Inside, a library loads a model: its errors are told as ModelError, its advice is not shown.

    Args:
        name: of the model. needs: what is missing where an import fails.
        logging: the library's own module of that name (`transformers.utils.logging`).

    Raises:
        ModelError: the weights are damaged, incomplete, or not such a model's.
        MissingExtraError: a package is not installed.
    """
    from safetensors import SafetensorError

    level = None
    if logging is not None:
        level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    except SafetensorError as error:
        raise ModelError(
            f"the weights of {name} are damaged: {error}. Delete them and fetch them again"
        ) from error
    except ImportError as error:
        raise MissingExtraError(
            f"{needs} of {name} cannot be loaded without a package that is not installed: "
            f"{_first_line(error)}; pip install 'vidcurate[train]'"
        ) from error
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"the memory of the device does not hold the weights of {name}: take a smaller "
                "model, or set VIDCURATE_DEVICE to a device with more"
            ) from error
        raise ModelError(f"{name} cannot be loaded: {_first_line(error)}") from error
    finally:
        if level is not None:
            logging.set_verbosity(level)


def check_weights(name: str, folder: Path, files: Sequence[str]) -> None:
    """Refuse a folder without weights, before a library looks for them.

    files: patterns, as of `weights`.

    Raises:
        ModelError: `folder` has none of these.
    """
    if not any(any(folder.glob(file)) for file in files):
        raise ModelError(
            f"{name} holds no weights: there is none of {', '.join(files)} in {folder}; copies in "
            "other precisions (*.fp16.safetensors) are not taken"
        )


def check_found(name: str, kind: str, missing: Sequence[str]) -> None:
    """Refuse weights that are not all of the model's.

    Raises:
        ModelError: `missing`, names of weights, is not empty.
    """
    if missing:
        some = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        raise ModelError(
            f"{name} is no whole {kind}: {len(missing)} of its weights are missing ({some})"
        )


def with_less(size: int, compute: Callable[[int], _T], remedy: str) -> _T:
    """`compute` of `size`, or of half of it, and so on, until it fits the device's memory.

    Args:
        size: how much is computed at a time, at least 1. remedy: what to say where 1 is too much.

    Raises:
        ModelError: not even a size of 1 fits.
    """
    while True:
        try:
            return compute(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise ModelError(f"the memory of the device ran out: {remedy}") from error
        free_memory()  # here, where the error no longer holds what was computed
        size //= 2


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
