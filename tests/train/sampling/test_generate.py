"""Checkpoints to videos: with pixels, a VAE and a text encoder, in each mode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidcurate.errors import ModelError, RunDirectoryError, UserError
from vidcurate.train.sampling.generate import Generator
from vidcurate.train.sampling.modes import Mode
from vidcurate.train.sampling.packs import How

Checkpoint = Callable[..., Path]
Make = Callable[..., Generator]


@pytest.fixture(scope="module")
def trained(checkpoint: Checkpoint) -> Callable[..., Path]:
    """Of random weights, on pixels; or on latents of a VAE of this class, and a T5's rows."""
    torch.set_num_threads(1)

    def make(vae: str | None = None) -> Path:
        if vae is None:
            return checkpoint("trained")
        return checkpoint("trained", str(checkpoint("vae", vae)), str(checkpoint("text_encoder")))

    return make


@pytest.fixture(scope="module")
def generator(trained: Callable[..., Path]) -> Make:
    kept: dict[str | None, Generator] = {}

    def make(vae: str | None = None) -> Generator:
        return kept.setdefault(vae, Generator(trained(vae))) if vae not in kept else kept[vae]

    return make


def clip(frames: int, seed: int = 0, side: int = 32) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3))
    return values.astype(np.uint8)


FEW: dict[str, Any] = {"steps": 2, "guidance": 2.0, "device": "cpu"}
ONE, TWO = clip(8, 1), clip(8, 2)


@pytest.mark.parametrize("vae", [None, "AutoencoderTiny", "AutoencoderKLWan"])
@pytest.mark.parametrize(
    ("mode", "given", "asked", "frames", "kept"),
    [
        ("text_to_video", (), {"frames": 5}, 5, {}),
        ("text_to_image", (), {}, 1, {}),
        ("image_to_video", (ONE,), {"frames": 5}, 5, {0: ONE[:1]}),
        ("forward", (ONE,), {"frames": 4, "keep": 5}, 12, {0: ONE}),
        ("backward", (ONE,), {"frames": 8}, 16, {8: ONE}),
        ("loop", (ONE,), {"frames": 7, "keep": 1}, 15, {0: ONE}),
        ("join", (ONE, TWO), {"frames": 7}, 23, {0: ONE, 15: TWO}),
        ("blend", (ONE, TWO), {"frames": 7}, 9, {0: ONE[:1], 8: TWO[7:]}),
        (
            "interpolate",
            (ONE[:3],),
            {"between": 7},
            17,
            {0: ONE[:1], 8: ONE[1:2], 16: ONE[2:3]},
        ),
        ("edit", (ONE[:5],), {}, 5, {}),
    ],
)
def test_what_is_given_is_in_the_result_where_it_belongs(
    generator: Make,
    vae: str | None,
    mode: Mode,
    given: tuple[np.ndarray, ...],
    asked: dict[str, int],
    frames: int,
    kept: dict[int, np.ndarray],
) -> None:
    made = generator(vae)("a dog", mode=mode, given=given, **asked, **FEW)
    assert made.shape == (frames, 32, 32, 3)
    assert made.dtype == np.uint8
    held = np.zeros(frames, bool)
    for at, want in kept.items():
        assert (made[at : at + len(want)] == want).all()
        held[at : at + len(want)] = True
    for at in np.flatnonzero(~held):
        assert all((made[at] != frame).any() for source in given for frame in source)


def test_a_long_video_begins_with_its_picture_and_fills_gaps_between_key_frames(
    generator: Make,
) -> None:
    made = generator()("a", mode="long", given=ONE[:1], frames=20, **FEW)
    assert made.shape == (20, 32, 32, 3)
    assert (made[0] == ONE[0]).all()
    keys = generator()("a", mode="image_to_video", given=ONE[:1], frames=4, fps=1.0, **FEW)
    assert (made[::8] == keys[:3]).all()  # of 9 frames, every 8th at an 8th of the rate
    long = generator("AutoencoderKLWan")("a", mode="long", frames=12, **FEW)
    assert long.shape == (12, 32, 32, 3)


def test_several_pictures_are_key_frames_of_one_clip_if_the_model_knows_its_length(
    generator: Make,
) -> None:
    made = generator()(
        "a", mode="interpolate", given=[ONE[:1], TWO[:1], ONE[1:2]], between=3, **FEW
    )
    assert made.shape == (9, 32, 32, 3)
    assert (made[[0, 4, 8]] == [ONE[0], TWO[0], ONE[1]]).all()
    # A frame knows of all key frames, not of those of its gap alone.
    other = generator()(
        "a", mode="interpolate", given=[ONE[:1], TWO[:1], TWO[1:2]], between=3, **FEW
    )
    assert (made[1] != other[1]).any()
    with pytest.raises(UserError, match="one picture has nothing after it: give --from once more"):
        generator()("a", mode="interpolate", given=ONE[:1], **FEW)


@pytest.mark.parametrize("vae", [None, "AutoencoderKLWan"])
def test_a_video_is_that_of_its_prompt_and_seed_in_whatever_pack(
    generator: Make, vae: str | None
) -> None:
    settings: dict[str, Any] = {"mode": "backward", "given": ONE, "frames": 8, **FEW}
    prompts = ["a dog", "a dog", "two cats that sleep"]
    three = generator(vae).many(prompts, [4, 5, 4], **settings)
    alone = generator(vae)("two cats that sleep", seed=4, **settings)
    assert np.abs(three[2].astype(int) - alone).max() <= 1  # sums in another order
    assert (three[0] != three[1]).any()
    assert (three[0] != three[2]).any()
    some = generator(vae).many(prompts, [4, 5, 4], **{**settings, "at_once": 2})
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(three, some, strict=True))


def test_bf16_is_near_fp32(generator: Make) -> None:
    exact, near = (
        generator()("a dog", frames=3, **FEW, precision=precision) for precision in ("fp32", "bf16")
    )
    off = np.abs(exact.astype(int) - near)
    assert 0 < off.mean() < 4


def test_sizes_are_whole_patches_of_latents(generator: Make) -> None:
    made = generator()("", size=(40, 24), frames=1, **FEW)
    assert made.shape == (1, 24, 40, 3)
    with pytest.raises(UserError, match=r"40x24 is no whole number of patches.*16.*as 32x16"):
        generator("AutoencoderTiny")("", size=(40, 24), frames=1, **FEW)
    wide = np.concatenate([clip(1, side=48)[:, :34]] * 2, axis=1)[:, :38]
    made = generator()("", mode="image_to_video", given=wide, frames=2, **FEW)
    assert (made[0] == wide[0, 1:37]).all()  # cut in the middle
    with pytest.raises(UserError, match=r"4x4\) is smaller than a patch \(16x16\)"):
        generator("AutoencoderTiny")("", mode="image_to_video", given=clip(1, side=4), **FEW)
    with pytest.raises(UserError, match="of one size, not"):
        generator()("", mode="join", given=[ONE, clip(8, side=16)], **FEW)


def test_a_vae_or_text_encoder_that_is_elsewhere_is_named(
    trained: Callable[..., Path], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    own = trained("AutoencoderTiny")
    (about,) = own.glob("checkpoints/*/train.json")
    moved = tmp_path / "moved"
    shutil.copytree(own, moved)
    said = json.loads(about.read_text())
    said["encode"]["vae"] = said["encode"]["text"] = str(tmp_path / "gone")
    (moved / about.relative_to(own)).write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"the VAE .* cannot be had: .*gone.*give --vae"):
        Generator(moved)("", frames=1, **FEW)
    vae, text = (str(checkpoint(*n)) for n in (("vae", "AutoencoderTiny"), ("text_encoder",)))
    with pytest.raises(ModelError, match=r"the text encoder .* cannot be had: .*--text-encoder"):
        Generator(moved, vae=vae)("", frames=1, **FEW)
    found = Generator(moved, vae=vae, text_encoder=text)("a", frames=1, **FEW)
    assert (found == Generator(own)("a", frames=1, **FEW)).all()
    kl = str(checkpoint("vae", "AutoencoderKL"))
    with pytest.raises(
        ModelError, match=r"is not the VAE that this model was trained with, .*gone"
    ):
        Generator(moved, vae=kl)("", frames=1, **FEW)
    with pytest.raises(UserError, match="trained without a VAE: leave --vae out"):
        Generator(trained(), vae=vae)


def test_settings_and_places_that_there_are_not(generator: Make, tmp_path: Path) -> None:
    for wrong, message in (
        ({"device": "cdua"}, r"no device 'cdua'.*cuda"),
        ({"solver": "euller"}, r"no solver 'euller'.*euler"),
        ({"precision": "fp16"}, "no precision 'fp16'"),
    ):
        with pytest.raises(UserError, match=message):
            How.of(**wrong)
    with pytest.raises(UserError, match="2 prompts need as many seeds, not 1"):
        generator().many(["a", "b"], [1], **FEW)
    for fps in (0.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="frames a second, above 0, not"):
            generator()("", fps=fps, **FEW)
    with pytest.raises(RunDirectoryError, match="holds no checkpoint"):
        Generator(tmp_path)
