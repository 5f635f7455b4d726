"""A training recipe: YAML to validated settings. Imports no torch.

Read as other recipes are: `${VAR}` from the environment, `--set path.to.key=value`, and every
mistake at once, with its line and the nearest right name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from vidcurate.errors import RecipeError, UserError
from vidcurate.nearest import suggest
from vidcurate.recipe.explain import explain
from vidcurate.recipe.model import Section
from vidcurate.recipe.override import apply_set, expand
from vidcurate.recipe.yaml_lines import Document, parse_yaml
from vidcurate.shards.reader.captions import Captions
from vidcurate.train.model.config import ModelConfig
from vidcurate.train.tau import DEFAULT_WEIGHTS, Kind
from vidcurate.units import Share

Positive = Annotated[int, Field(ge=1)]


class Size(Section):
    """A limit of what is trained on; None: none.

    short_side: pixels. frames: of a clip.
    """

    short_side: Annotated[int, Field(ge=16)] | None = None
    frames: Positive | None = None


class Sampled(Size):
    """A limit, and which frames of a longer clip are taken.

    step: every step-th from the clip's first, closer where the clip is too short for that; None:
    evenly over the whole clip.
    """

    step: Positive | None = None


class Data(Section):
    """The shards, and how their samples become batches.

    shards: a folder with index.json, or a mapping of such to weights, which mixes them.
    split: the samples that are trained on; val is for `validate`. buckets: only these.
    batching: "pack" fills packs of `budget` tokens with clips of all sizes; "bucket" gives batches
        of `batch` clips of one bucket (a number, or numbers by bucket, `*` for all others).
    too_long: a clip of more tokens than the budget stops the training, or is skipped and counted.
    resize: larger clips are scaled down to this short side, and so many frames are taken of longer
        ones, evenly or every `step`-th from the first, whatever their bucket. native: limits of the
        bucket `native` alone, before.
    captions: a template, templates with weights, or `mix`, `words` and `drop`; see
        vidcurate.shards.Captions. Null trains without text.
    drop_captions: share of samples that get the empty prompt, for classifier-free guidance (Ho and
        Salimans, arXiv 2207.12598); a `drop` among the captions goes before it.
    workers: processes that decode, for each rank. 0 decodes in the training process.
    seed: of the order and of all that is random about a sample.
    """

    shards: Annotated[str, Field(min_length=1)] | dict[str, Annotated[float, Field(gt=0)]]
    split: Literal["train", "val", "all"] = "train"
    buckets: tuple[str, ...] | None = None
    batching: Literal["pack", "bucket"] = "pack"
    budget: Positive = 16_384
    batch: Positive | dict[str, Positive] = 8
    too_long: Literal["stop", "skip"] = "stop"
    resize: Sampled = Sampled()
    native: Size = Size()
    captions: Any = None
    drop_captions: Share = 0.1
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("captions")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        try:
            Captions.of(value)
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    def rendered(self, *, drop: bool) -> Captions:
        """The captions; with `drop` some are the empty prompt."""
        captions = Captions.of(self.captions)
        share = (captions.drop or self.drop_captions) if drop else 0.0
        return Captions(captions.mix, captions.words, share)


class Encode(Section):
    """What clips and captions become before the model sees them, by frozen models of a hub.

    vae: its latents in place of pixels: a diffusers AutoencoderKLWan, AutoencoderKL or
        AutoencoderTiny, by the name of a repository or of a folder in it, or a local folder;
        "name@revision" for another than the main one. Null trains on pixels.
    text: rows of a T5, UMT5 or CLIP text encoder, named alike. Null learns an embedding of bytes.
    max_text_tokens: a longer caption ends there.
    variants: captions of each clip that `vidcurate precache` renders and keeps.
    dtype: of what precache keeps.
    precached: "auto" reads what precache has made of the same settings where it is there, and
        encodes while training where not; "only" refuses without it, "off" does not look for it.
    """

    vae: Annotated[str, Field(min_length=1)] | None = None
    text: Annotated[str, Field(min_length=1)] | None = None
    max_text_tokens: Positive = 512
    variants: Annotated[int, Field(ge=1, le=256)] = 4
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    precached: Literal["auto", "only", "off"] = "auto"


class Objective(Section):
    """What the model is trained to predict, and at which noise levels; see train/objective.py.

    name: "flow" (rectified flow), or "epsilon" (DDPM with min-SNR).
    mean, std: of the logit of the time t, for "flow". shift: of t towards noise for a clip of
    `shift_tokens` tokens; clips of more tokens are shifted more, by the square root of their share
    (SD3, arXiv 2403.03206). With `shift_tokens` null all clips are shifted alike.
    masked: share of clips of which frames are kept or edited. modes: weights of the kinds of masks
    among these: image_to_video, forward, backward, join, interpolate, random, edit.
    """

    name: Literal["flow", "epsilon"] = "flow"
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    shift: Annotated[float, Field(gt=0)] = 1.0
    shift_tokens: Positive | None = None
    masked: Share = 0.25
    modes: dict[Kind, Annotated[float, Field(ge=0)]] = DEFAULT_WEIGHTS


class Optimizer(Section):
    """AdamW, its learning rate over the steps, and what a step is made of.

    lr: after `warm_up` steps of linear rise. schedule: "constant", or "cosine" or "linear" down to
        `final` of lr, which is reached after the last step: with 0, too, the last one learns.
    weight_decay: of matrices; vectors and embeddings have none.
    clip: the largest norm of all gradients; null clips none.
    accumulation: batches of each rank in a step. recompute: activations of blocks are computed
        again in the backward pass, which saves memory and costs a third more time.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warm_up: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    final: Share = 0.0
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    accumulation: Positive = 1
    recompute: bool = False


class Checkpoint(Section):
    """every: steps between saves; null saves at the end only. keep: so many of the latest."""

    every: Positive | None = 1000
    keep: Positive = 2


class Log(Section):
    """every: steps between lines. peak_tflops: of one device in this precision, for the MFU where
    the device is not known."""

    every: Positive = 10
    peak_tflops: Annotated[float, Field(gt=0)] | None = None


class Validate(Section):
    """every: steps between validations; null: none. batches: of the split val, for each rank.

    timesteps: noise levels at which the loss is taken. videos: so many clips of the split are
    generated from their captions. sampling_steps, guidance: of these.
    """

    every: Positive | None = None
    batches: Positive = 8
    timesteps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    videos: Annotated[int, Field(ge=0)] = 0
    sampling_steps: Positive = 50
    guidance: Annotated[float, Field(ge=0)] = 4.0


class InitFrom(Section):
    """Weights of another training to begin with, where the output holds no checkpoint yet.

    checkpoint: a folder step-00001000, or a training's output: its latest. averaged: take the
        moving average of its weights, where it has one. Optimiser, data and step begin anew.
    """

    checkpoint: Annotated[str, Field(min_length=1)]
    averaged: bool = True


class Lora(Section):
    """Train matrices of low rank beside the weights of `init_from`, which stay as they are.

    rank: of these (Hu et al., arXiv 2106.09685). alpha: what they add is multiplied by alpha /
        rank. modules: linear layers that get them, by name: qkv, q, kv, out, mlp, modulation and
        others.
    """

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 16.0
    modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("qkv", "q", "kv", "out")


class TrainConfig(Section):
    """A training recipe.

    steps: of the optimiser, in all. output: the folder of checkpoints, metrics and samples; going
        on where it holds a checkpoint.
    ema: decay of the moving average of the weights; null keeps none.
    precision: "bf16" computes in bfloat16 by autocast; weights stay float32.
    parallel: "ddp" holds the model whole on each rank, "fsdp2" shards it.
    compile: blocks by torch.compile, which takes minutes to begin; on CPU it needs a C++ compiler.
    device: "cuda", "cpu", or "auto".
    on_nan: a loss or gradient that is not finite stops the training, or its step is skipped.
    init_from, lora: fine-tuning of another training's weights, all or by LoRA.
    """

    name: Annotated[str, Field(min_length=1)]
    data: Data
    encode: Encode = Encode()
    model: ModelConfig
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    ema: Annotated[float, Field(ge=0, lt=1)] | None = 0.9999
    precision: Literal["fp32", "bf16"] = "bf16"
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    validate_: Annotated[Validate, Field(alias="validate")] = Validate()
    steps: Positive
    on_nan: Literal["stop", "skip"] = "stop"
    init_from: InitFrom | None = None
    lora: Lora | None = None
    output: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _together(self) -> Self:
        warm = self.optimizer.warm_up
        if warm > self.steps:
            raise ValueError(f"optimizer.warm_up: {warm} steps are more than the {self.steps}")
        if self.lora is not None and self.init_from is None:
            raise ValueError("lora: needs init_from: {checkpoint: ...}, the weights beside it")
        return self


def is_training_recipe(path: Path) -> bool:
    """Whether it is one of training: these alone have a model. Loading it tells mistakes."""
    try:
        data = parse_yaml(path.read_text("utf-8-sig"), str(path)).data
    except (OSError, UnicodeDecodeError, RecipeError):
        return False
    return isinstance(data, dict) and "model" in data and "source" not in data


def load(path: str | Path, *, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read and validate a training recipe.

    Args:
        path: the YAML file. overrides: `path.to.key=value`, as `--set` takes them, in order.

    Raises:
        RecipeError: with one message for each mistake: file, line, key, remedy.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        hint = suggest(file.name, sorted(p.name for p in file.parent.glob("*.yaml")))
        raise RecipeError(f"there is no training recipe {path}{hint}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file in UTF-8 ({error.reason})") from error
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    return _checked(parse_yaml(text, str(path)), overrides, file.stem)


def from_raw(raw: Mapping[str, Any], *, overrides: Sequence[str] = ()) -> TrainConfig:
    """As `load`, from plain values.

    Raises:
        RecipeError: as `load`, without line numbers.
    """
    return _checked(Document("training recipe", dict(raw)), overrides, "train")


def _checked(document: Document, overrides: Sequence[str], name: str) -> TrainConfig:
    if not isinstance(document.data, dict):
        raise RecipeError(
            f"{document.name}: no mapping of keys; it needs at least data, model, steps, output"
        )
    for override in overrides:
        apply_set(document, override)
    data = expand(document, document.data)
    # A key without a value stands for its defaults, but for those where null says "none".
    given = {k: v for k, v in data.items() if v is not None or k == "ema"}
    given.setdefault("name", name)
    raw = {**document.data, "name": given["name"]}
    try:
        config = TrainConfig.model_validate(given, context={"recipe": True})
    except ValidationError as error:
        for where, message in explain(error, TrainConfig, raw):
            document.problem(where, message)
        raise RecipeError(*document.messages()) from error
    if document.problems:
        raise RecipeError(*document.messages())
    return config
