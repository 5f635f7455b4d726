"""VAEs give what diffusers gives, scaled as its pipelines scale it, whatever calls them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, HubServer

from vidcurate.errors import ModelError, UserError
from vidcurate.models import latent_times, load_vae, prepare_torchvision, vae, vae_config

prepare_torchvision()

import diffusers  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

Checkpoint = Callable[..., Path]

WAN, KL, TINY = "AutoencoderKLWan", "AutoencoderKL", "AutoencoderTiny"
kinds = pytest.mark.parametrize("kind", [WAN, KL, TINY])

torch.set_num_threads(1)


def video(frames: int = 5, rows: int = 16, columns: int = 24, seed: int = 0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.rand(frames, 3, rows, columns, generator=noise) * 2 - 1


def library(folder: Path, kind: str) -> Any:
    return getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()


def problem(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def pipeline(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of a repository as a pipeline lies there, with what nobody asks for."""
    index = {"_class_name": "WanPipeline", "vae": ["diffusers", WAN], "scheduler": ["d", "s"]}
    files = {
        "README.md": b"a card",
        "model_index.json": json.dumps(index).encode(),
        "transformer/diffusion_pytorch_model.safetensors": b"large" * 1000,
        "vae/diffusion_pytorch_model.fp16.safetensors": b"another precision",
        "vae/diffusion_pytorch_model.bin": b"a pickle",
    }
    for file in checkpoint("vae", WAN).iterdir():
        files[f"vae/{file.name}"] = file.read_bytes()
    return files


@torch.no_grad()
def test_latents_of_wan_are_the_mode_by_mean_and_deviation_of_each_channel(
    checkpoint: Checkpoint,
) -> None:
    folder = checkpoint("vae", WAN)
    model, clip = library(folder, WAN), video()
    mode = model.encode(clip.transpose(0, 1)[None]).latent_dist.mode()[0]
    config = json.loads((folder / "config.json").read_text())
    by_hand = torch.stack(
        [
            (mode[c] - config["latents_mean"][c]) / config["latents_std"][c]
            for c in range(len(config["latents_mean"]))
        ],
        dim=1,
    )
    loaded = load_vae(str(folder))
    latent = loaded.encode(clip)
    assert latent.shape == (2, 16, 2, 3)
    torch.testing.assert_close(latent, by_hand)
    decoded = model.decode(mode[None]).sample[0].transpose(0, 1)
    assert decoded.shape == clip.shape
    torch.testing.assert_close(loaded.decode(latent), decoded, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "scale", "shift"), [(KL, 0.5, 0.1), (TINY, 1.0, 0.0)])
def test_latents_of_single_frames_are_scaled_as_their_config_says(
    checkpoint: Checkpoint, kind: str, scale: float, shift: float
) -> None:
    folder, clip = checkpoint("vae", kind), video(3)
    model, loaded = library(folder, kind), load_vae(str(folder))
    raw = [
        model.encode(frame[None]).latents
        if kind == TINY
        else model.encode(frame[None]).latent_dist.mode()
        for frame in clip
    ]
    latent = loaded.encode(clip)
    torch.testing.assert_close(latent, (torch.cat(raw) - shift) * scale)
    decoded = torch.cat([model.decode(z).sample for z in raw])
    torch.testing.assert_close(loaded.decode(latent), decoded.clamp(-1, 1), atol=1e-4, rtol=1e-4)
    assert (loaded.config.channels, loaded.config.compression) == (4, (1, 8, 8))
    assert not loaded.config.causal


def test_means_and_deviations_of_a_kl_config_count_too(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("vae", KL), tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    config |= {"latents_mean": [0.0, 1.0, 2.0, 3.0], "latents_std": [1.0, 2.0, 4.0, 8.0]}
    (folder / "config.json").write_text(json.dumps(config))
    clip = video(1)
    plain = load_vae(str(checkpoint("vae", KL))).encode(clip)  # (mode - 0.1) * 0.5
    channel = torch.arange(4.0).view(-1, 1, 1)
    other = load_vae(str(folder))
    torch.testing.assert_close(other.encode(clip), (plain - channel * 0.5) / 2**channel)
    torch.testing.assert_close(
        other.decode(other.encode(clip)), load_vae(str(checkpoint("vae", KL))).decode(plain)
    )


def test_wan_2_2_takes_patches_of_pixels(checkpoint: Checkpoint) -> None:
    loaded = load_vae(str(checkpoint("vae", WAN, 2)))
    assert loaded.config.compression == (4, 16, 16)
    latent = loaded.encode(video(9, 32, 48))
    assert latent.shape == (3, 16, 2, 3)
    assert loaded.decode(latent).shape == (9, 3, 32, 48)


def test_latents_of_a_causal_vae_depend_on_the_frames_before_alone(checkpoint: Checkpoint) -> None:
    loaded = load_vae(str(checkpoint("vae", WAN)))
    clip = video(9)
    whole = loaded.encode(clip)
    torch.testing.assert_close(whole[:2], loaded.encode(clip[:5]))
    torch.testing.assert_close(whole[:1], loaded.encode(clip[:1]))
    alone = loaded.encode(clip[-1:])  # of the last frame, which the precache keeps
    assert alone.shape == (1, *whole.shape[1:])
    assert (alone[0] - whole[-1]).abs().max() > 1e-3


@kinds
def test_what_is_computed_is_the_same_each_time_in_the_callers_modes_and_has_no_gradient(
    checkpoint: Checkpoint, kind: str
) -> None:
    loaded = load_vae(str(checkpoint("vae", kind)))
    clip = video(rows=32, columns=40).requires_grad_()
    latent = loaded.encode(clip)
    assert torch.equal(latent, loaded.encode(clip))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(latent, loaded.encode(clip))
        assert torch.equal(loaded.decode(latent), loaded.decode(latent))
        assert loaded.decode(latent).dtype == torch.float32
    assert latent.dtype == torch.float32
    assert not latent.requires_grad
    weight = torch.ones(1, requires_grad=True)
    (latent * weight).sum().backward()  # no tensor of inference mode: a model trains on it
    assert weight.grad is not None
    model = loaded._model
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    pixels = loaded.decode(latent * 50)
    assert pixels.shape == clip.shape
    assert pixels.abs().max() <= 1


@pytest.mark.parametrize("kind", [KL, TINY])
def test_frames_are_taken_some_at_a_time(
    checkpoint: Checkpoint, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_vae(str(checkpoint("vae", kind)))
    clip = video(5)
    at_once = loaded.encode(clip)
    taken: list[int] = []
    loaded._model.encoder.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    monkeypatch.setattr(vae, "_PIXELS", 2 * 16 * 24 + 1)
    in_parts = loaded.encode(clip)
    assert taken == [2, 2, 1]
    torch.testing.assert_close(in_parts, at_once)


def no_room_for(most: int) -> Callable[..., None]:
    def check(_: object, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return check


def test_where_memory_runs_out_fewer_frames_are_taken_at_a_time(checkpoint: Checkpoint) -> None:
    loaded = load_vae(str(checkpoint("vae", TINY)))
    latent = loaded.encode(video(3))
    hook = loaded._model.encoder.register_forward_pre_hook(no_room_for(1))
    torch.testing.assert_close(loaded.encode(video(3)), latent)
    hook.remove()
    loaded._model.encoder.register_forward_pre_hook(no_room_for(0))
    message = problem(ModelError, lambda: loaded.encode(video(1)))
    assert "cannot take a frame of 384 pixels on cpu" in message
    assert "smaller or shorter clips" in message


def test_memory_that_runs_out_within_a_causal_vae_is_told(checkpoint: Checkpoint) -> None:
    loaded = load_vae(str(checkpoint("vae", WAN)))
    hook = loaded._model.encoder.conv_out.register_forward_pre_hook(no_room_for(0))
    message = problem(ModelError, lambda: loaded.encode(video(5)))
    assert "cannot take 5 frames of 384 pixels" in message
    assert all(kept is None for kept in loaded._model._enc_feat_map)  # it holds nothing of them
    hook.remove()
    assert loaded.encode(video(5)).shape == (2, 16, 2, 3)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((5, 20, 24), "the video has 20 x 24: resize or crop it to 16 x 24"),
        ((5, 16, 4), "crop it to 16 x 8"),
        ((6, 16, 24), "1 + 4 k frames, and the video has 6: take 5"),
        ((4, 16, 24), "take 1"),
    ],
)
def test_sizes_that_do_not_fit(
    checkpoint: Checkpoint, size: tuple[int, int, int], told: str
) -> None:
    loaded = load_vae(str(checkpoint("vae", WAN)))
    assert told in problem(UserError, lambda: loaded.encode(video(*size)))
    assert told in problem(UserError, lambda: loaded.config.latent_size(*size))


def test_latents_of_another_vae_are_refused(checkpoint: Checkpoint) -> None:
    loaded = load_vae(str(checkpoint("vae", TINY)))
    message = problem(ModelError, lambda: loaded.decode(torch.zeros(1, 16, 2, 2)))
    assert "latents of 4 channels, and this one has 16" in message


def test_times_are_those_of_the_frames_in_a_latent(checkpoint: Checkpoint) -> None:
    times = torch.tensor([0.5, 1.0, 1.1, 1.2, 1.5, 2.0, 2.0, 2.0, 3.0], dtype=torch.float32)
    wan = vae_config(str(checkpoint("vae", WAN)))
    found = latent_times(times, wan)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([0.5, 1.2, 2.25], abs=1e-6)
    assert latent_times(times[:1], wan).tolist() == [0.5]
    tiny = vae_config(str(checkpoint("vae", TINY)))
    assert latent_times(times, tiny).tolist() == times.tolist()
    assert "take 5" in problem(UserError, lambda: latent_times(times[:8], wan))


def test_types_in_which_it_computes(checkpoint: Checkpoint) -> None:
    clip = video()
    exact = load_vae(str(checkpoint("vae", WAN))).encode(clip)
    loaded = load_vae(str(checkpoint("vae", WAN)), dtype=torch.bfloat16)
    rounded = loaded.encode(clip)
    assert loaded.dtype == torch.bfloat16
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1
    # Its config says that it overflows in half precision.
    assert load_vae(str(checkpoint("vae", KL)), dtype=torch.float16).dtype == torch.float32
    assert load_vae(str(checkpoint("vae", TINY)), dtype=torch.float16).dtype == torch.float16


def test_numbers_that_are_not_finite_are_no_latent(checkpoint: Checkpoint) -> None:
    loaded = load_vae(str(checkpoint("vae", TINY)))
    clip = video(1)
    clip[0, 0, 0, 0] = torch.nan
    assert "not finite in torch.float32" in problem(ModelError, lambda: loaded.encode(clip))


def test_a_config_needs_no_torch(checkpoint: Checkpoint) -> None:
    code = (
        "import sys; from vidcurate.models import vae_config\n"
        "config = vae_config(sys.argv[1])\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)\n"
        "print(config.channels, config.compression, config.causal, config.facts['class'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint("vae", WAN))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == f"16 (4, 8, 8) True {WAN}".split()


def test_facts_follow_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("vae", TINY), tmp_path / "vae")
    before = vae_config(str(folder))
    assert before == load_vae(str(folder)).config
    assert before.facts["name"] == before.facts["key"] == str(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = vae_config(str(folder)).facts
    assert after["revision"] != before.facts["revision"]
    assert after["revision"].startswith("sha256:")


@pytest.mark.parametrize("name", ["me/model/vae", f"me/model/vae@{COMMIT}"])
def test_a_folder_of_a_repository(checkpoint: Checkpoint, model_hub: HubServer, name: str) -> None:
    model_hub.files = pipeline(checkpoint)
    config = vae_config(name)
    assert {path for path, _, _ in model_hub.sent} == {
        "README.md",
        "model_index.json",
        "vae/config.json",
    }
    assert config.facts == {
        "name": "me/model/vae",
        "key": name,
        "class": WAN,
        "revision": COMMIT,
    }
    loaded = load_vae(name)
    assert loaded.config == config
    assert {path for path, _, _ in model_hub.sent} == {
        "README.md",
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    local = load_vae(str(checkpoint("vae", WAN)))
    assert torch.equal(loaded.encode(video()), local.encode(video()))
    asked = len(model_hub.asked)
    assert load_vae(name).config == config
    assert len(model_hub.asked) == asked  # the hub is not asked again
    message = problem(ModelError, lambda: load_vae(f"me/model/vae@{COMMIT}", "main"))
    assert "two revisions" in message


def test_a_folder_of_a_repository_of_modelscope(
    checkpoint: Checkpoint, model_hub: HubServer
) -> None:
    model_hub.files = pipeline(checkpoint)
    config = vae_config("me/model/vae", hub="modelscope")
    assert config.facts["revision"].startswith("sha256:")  # ModelScope has no commits
    assert config.facts["key"] == "modelscope:me/model/vae"
    assert load_vae("me/model/vae", hub="modelscope").config == config


def test_a_pipeline_is_no_vae(checkpoint: Checkpoint, model_hub: HubServer) -> None:
    model_hub.files = pipeline(checkpoint)
    for call in (vae_config, load_vae):
        message = problem(ModelError, lambda call=call: call("me/model"))
        assert "a pipeline of several (scheduler, vae)" in message
        assert "as me/model/vae" in message


def test_what_cannot_be_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def changed(name: str, **config: Any) -> Path:
        folder = shutil.copytree(checkpoint("vae", TINY), tmp_path / name)
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | config))
        return folder

    weights = "diffusion_pytorch_model.safetensors"
    other = changed("other", _class_name="AutoencoderDC")
    assert "class AutoencoderDC; of VAEs, AutoencoderKLWan" in problem(
        ModelError, lambda: vae_config(str(other))
    )
    small = changed("small", num_decoder_blocks=[4, 3, 3, 1])
    assert "no whole AutoencoderTiny" in problem(ModelError, lambda: load_vae(str(small)))
    wide = changed("wide", decoder_block_out_channels=[16, 16, 16, 16])
    assert f"{wide} cannot be loaded" in problem(ModelError, lambda: load_vae(str(wide)))
    damaged = changed("damaged")
    (damaged / weights).write_bytes((damaged / weights).read_bytes()[:1000])
    assert "damaged" in problem(ModelError, lambda: load_vae(str(damaged)))
    missing = changed("missing")
    (missing / weights).unlink()
    assert f"holds no weights: there is none of {weights}" in problem(
        ModelError, lambda: load_vae(str(missing))
    )
    (missing / "config.json").write_text("{")
    assert "config.json of" in problem(ModelError, lambda: vae_config(str(missing)))
    (missing / "config.json").unlink()
    assert "has no file config.json" in problem(ModelError, lambda: vae_config(str(missing)))
    nowhere = str(tmp_path / "nowhere")
    assert "there is no file or folder" in problem(ModelError, lambda: vae_config(nowhere))


@kinds
def test_loading_says_nothing(
    checkpoint: Checkpoint, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    load_vae(str(checkpoint("vae", kind)))
    assert capfd.readouterr() == ("", "")
