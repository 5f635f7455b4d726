"""Features are those that the libraries themselves give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vidcurate.errors import ModelError
from vidcurate.models import prepare_torchvision
from vidcurate.train.evaluation.features import even, load_extractor

prepare_torchvision()

import transformers  # noqa: E402

Checkpoint = Callable[..., Path]
Frames = npt.NDArray[np.uint8]


def clips() -> list[Frames]:
    """Clips of several lengths and sizes."""
    rng = np.random.default_rng(0)
    sizes = [(9, 40, 64), (5, 36, 36), (3, 48, 32)]
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_frames_are_the_middles_of_equal_parts() -> None:
    assert even(16, 16).tolist() == list(range(16))
    assert even(81, 8).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert even(2, 4).tolist() == [0, 0, 1, 1]
    assert even(9, 1).tolist() == [4]


def test_a_video_classifier_gives_what_its_last_layer_reads(checkpoint: Checkpoint) -> None:
    folder = checkpoint("videomae")
    extractor = load_extractor(str(folder), "video")
    assert extractor.frames == 4
    found = extractor([extractor.seen(clip) for clip in clips()])

    model = transformers.VideoMAEForVideoClassification.from_pretrained(folder).eval()
    processor = transformers.VideoMAEImageProcessor.from_pretrained(folder)
    for clip, features in zip(clips(), found, strict=True):
        inputs = processor([list(clip[even(len(clip), 4)])], return_tensors="pt")
        with torch.no_grad():
            tokens = model.videomae(**inputs).last_hidden_state
            want = model.fc_norm(tokens.mean(1))[0]
        assert features == pytest.approx(want.numpy(), abs=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01  # it sees the clips


def test_a_pre_trained_video_model_gives_the_mean_of_its_tokens(checkpoint: Checkpoint) -> None:
    folder = checkpoint("videomae", True)
    extractor = load_extractor(str(folder), "video")
    clip = clips()[0][even(9, 4)]
    model = transformers.VideoMAEModel.from_pretrained(folder).eval()
    inputs = transformers.VideoMAEImageProcessor.from_pretrained(folder)(
        [list(clip)], return_tensors="pt"
    )
    with torch.no_grad():
        want = model(**inputs).last_hidden_state.mean(1)[0]
    assert extractor([clip])[0] == pytest.approx(want.numpy(), abs=1e-5)


def test_an_image_model_gives_its_pooled_output(checkpoint: Checkpoint) -> None:
    folder = checkpoint("dinov2")
    extractor = load_extractor(str(folder), "image")
    pictures = [clip[0] for clip in clips()]
    model = transformers.Dinov2Model.from_pretrained(folder).eval()
    processor = transformers.BitImageProcessor.from_pretrained(folder)
    for picture, features in zip(pictures, extractor(pictures), strict=True):
        with torch.no_grad():
            want = model(**processor(picture, return_tensors="pt")).pooler_output[0]
        assert features == pytest.approx(want.numpy(), abs=1e-5)


def test_an_image_classifier_gives_what_its_last_layer_reads(checkpoint: Checkpoint) -> None:
    folder = checkpoint("image_classifier")
    picture = clips()[0][0]
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        want = model.vit(**processor(picture, return_tensors="pt")).last_hidden_state[0, 0]
    found = load_extractor(str(folder), "image")([picture])
    assert found[0] == pytest.approx(want.numpy(), abs=1e-5)


def test_a_model_of_timm_gives_its_pooled_features(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False).eval()
    settings = model.pretrained_cfg
    about = {
        "architecture": "test_vit",
        "num_classes": 1000,
        "num_features": model.num_features,
        "pretrained_cfg": {k: settings[k] for k in ("input_size", "mean", "std", "interpolation")},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    picture = clips()[0][0]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(about["pretrained_cfg"]))
    from PIL import Image

    with torch.no_grad():
        seen = transform(Image.fromarray(picture))[None]
        want = model.forward_head(model.forward_features(seen), pre_logits=True)[0]
    found = load_extractor(str(tmp_path), "image")([picture])
    assert found[0] == pytest.approx(want.numpy(), abs=1e-4)


def test_what_is_no_such_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no video model: its config has no num_frames"):
        load_extractor(str(checkpoint("dinov2")), "video")
    with pytest.raises(ModelError, match="no file or folder"):
        load_extractor(str(tmp_path / "absent"), "video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        load_extractor(str(tmp_path / "empty"), "video")
    partly = shutil.copytree(checkpoint("dinov2"), tmp_path / "partly")
    from safetensors.torch import load_file, save_file

    weights = load_file(partly / "model.safetensors")
    weights = {k: v for k, v in weights.items() if not k.startswith("layernorm")}
    save_file(weights, partly / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing \(layernorm"):
        load_extractor(str(partly), "image")
