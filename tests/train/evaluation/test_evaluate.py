"""`vidcurate eval` from its command line: a model trained for two steps, and folders of videos."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.media.frame_files import load_frames, save_frames
from vidcurate.train.config import Data, from_raw
from vidcurate.train.evaluation.clips import RealClips
from vidcurate.train.loop import train

Checkpoint = Callable[..., Path]
Shards = Callable[..., Path]

SIZES = ((9, 32, 48), (5, 48, 48))
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def trained(output: Path, folder: Path, **sections: Any) -> Path:
    raw: dict[str, Any] = {
        "data": {
            "shards": str(folder),
            "budget": 2000,
            "captions": "source",
            "workers": 0,
        },
        "model": {"width": 32, "depth": 1, "heads": 2, "patch": [1, 8, 8], "text_width": 16},
        "precision": "fp32",
        "device": "cpu",
        "steps": 2,
        "output": str(output),
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section}
    train(from_raw(raw), show=lambda _: None)
    return output


@pytest.fixture(scope="module")
def model(shapes: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on pixels, hardly trained; never write to it."""
    output = tmp_path_factory.mktemp("eval") / "model"
    return trained(output, shapes(24, SIZES, 0.5))


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["eval", *(str(a) for a in arguments)])


def found(to: Path, *arguments: Any) -> dict[str, Any]:
    result = run(*arguments, "--to", to, "--workers", 0)
    assert result.exit_code == 0, result.output
    numbers: dict[str, Any] = json.loads(to.read_text())
    numbers["shown"] = result.output
    return numbers


def extractors(checkpoint: Checkpoint) -> list[Any]:
    return [
        *("--video-model", checkpoint("videomae")),
        *("--image-model", checkpoint("dinov2")),
        *("--clip-model", checkpoint("open_clip")),
    ]


def test_a_trained_model_gets_all_numbers(
    model: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    fast = ["--samples", 5, "--steps", 2, "--guidance", 2, "--seed", 3]
    one = found(tmp_path / "a.json", model, *fast, *extractors(checkpoint))
    metrics = one["metrics"]
    assert list(metrics) == ["fvd", "fid", "clip", "vae", "motion"]
    assert metrics["fvd"]["clips"] == {"real": 5, "generated": 5}
    assert metrics["fvd"]["extractor"] == str(checkpoint("videomae"))
    assert metrics["fvd"]["revision"].startswith("sha256:")
    assert metrics["fvd"]["value"] > 0
    assert metrics["fid"]["value"] > 0
    assert metrics["fid"]["features"]["real"] == metrics["fid"]["features"]["generated"] > 5
    assert -1 < metrics["clip"]["value"] < 1
    assert metrics["clip"]["clips"] == {"real": 5, "generated": 5}
    assert metrics["vae"] == {"n/a": "the model is trained on pixels"}
    assert metrics["motion"]["scores"]["motion_mean"]["clips"]["real"] == 5
    assert one["clips"]["real"] == one["clips"]["generated"]
    assert one["checkpoint"]["step"] == 2
    assert one["settings"]["guidance"] == 2
    assert one["settings"]["seed"] == 3
    shown = one["shown"]
    assert "5 features of width 32: too few" in shown
    assert "the model is trained on pixels" in shown
    assert "numbers compare only with those of the same extractor" in " ".join(shown.split())
    assert all(math.isfinite(v) for v in _numbers(metrics))

    again = found(tmp_path / "b.json", model, *fast, *extractors(checkpoint), "--batch", 2)
    for name in ("fvd", "fid", "clip"):  # other packs and batches change nothing
        assert again["metrics"][name]["value"] == pytest.approx(metrics[name]["value"], rel=1e-3)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in _numbers(v)]
    return [value] if isinstance(value, float) else []


def test_image_to_video_begins_with_the_real_frame(
    model: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """So with clips of which the first frame alone is seen nothing is different."""
    arguments = [model, "--samples", 4, "--steps", 1, "--metrics", "fid", *extractors(checkpoint)]
    text = found(tmp_path / "text.json", *arguments)["metrics"]["fid"]["value"]
    picture = found(tmp_path / "picture.json", *arguments, "--mode", "image_to_video")
    assert picture["settings"]["mode"] == "image_to_video"
    assert picture["metrics"]["fid"]["value"] < text


def test_a_folder_of_the_real_clips_is_at_no_distance(
    shapes: Shards, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = shapes(24, SIZES, 0.5)
    clips = RealClips(
        Data(shards=str(folder), captions="source"), None, samples=99, seed=0, workers=0
    )
    made, other = tmp_path / "made", tmp_path / "other"
    for video in clips:
        save_frames(made / f"{video.name}.mp4", video.frames, video.fps)
        save_frames(other / f"{video.name}.mp4", 255 - video.frames[::-1], video.fps)
    arguments = ["--shards", folder, *extractors(checkpoint), "--metrics", "fvd,fid"]
    same = found(tmp_path / "same.json", "--generated", made, *arguments)
    far = found(tmp_path / "far.json", "--generated", other, *arguments)
    for name in ("fvd", "fid"):
        assert same["metrics"][name]["value"] < 0.02 * far["metrics"][name]["value"]
    assert same["checkpoint"] is None
    assert same["clips"]["generated"]["count"] == same["clips"]["real"]["count"] > 4


def test_captions_are_asked_for_by_the_metric_that_needs_them(
    shapes: Shards, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    frames, fps = load_frames(_any_video(tmp_path))
    assert fps
    made = tmp_path / "made"
    save_frames(made / "a.mp4", frames, fps)
    arguments = ["--generated", made, "--clip-model", checkpoint("open_clip")]
    refused = run(*arguments, "--metrics", "clip", "--to", tmp_path / "e.json")
    assert refused.exit_code == 2
    assert "have no captions" in refused.output
    (made / "a.txt").write_text("a dog")
    one = found(tmp_path / "e.json", *arguments, "--metrics", "clip")["metrics"]["clip"]
    assert one["clips"] == {"real": 0, "generated": 1}
    assert one["real"] is None


def _any_video(folder: Path) -> Path:
    import numpy as np

    save_frames(folder / "any.mp4", np.zeros((5, 32, 32, 3), np.uint8), 8.0)
    return folder / "any.mp4"


def test_metrics_that_cannot_run_are_left_out_or_refused(
    model: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    nowhere = ["--video-model", tmp_path / "absent", "--image-model", checkpoint("dinov2")]
    nowhere += ["--clip-model", tmp_path / "absent", "--samples", 2, "--steps", 1]
    one = found(tmp_path / "e.json", model, *nowhere)["metrics"]
    assert "no file or folder" in one["fvd"]["n/a"]
    assert "no file or folder" in one["clip"]["n/a"]
    assert one["fid"]["value"] > 0
    refused = run(model, *nowhere, "--metrics", "fvd,fid", "--to", tmp_path / "f.json")
    assert refused.exit_code == 2
    assert "no file or folder" in refused.output
    assert not (tmp_path / "f.json").exists()


@pytest.mark.parametrize("kind", ["AutoencoderTiny", "AutoencoderKLWan"])
def test_a_model_of_latents_is_evaluated_with_its_vae(
    kind: str, shapes: Shards, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    vae = checkpoint("vae", kind)
    channels = json.loads((vae / "config.json").read_text())
    output = trained(
        tmp_path / "out",
        shapes(24, SIZES, 0.5),
        encode={"vae": str(vae), "text": str(checkpoint("text_encoder"))},
        model={
            "patch": [1, 1, 1],
            "channels": channels.get("z_dim") or channels["latent_channels"],
            "text_width": 32,
        },
    )
    arguments = ["--samples", 3, "--steps", 1, "--metrics", "fvd,vae", *extractors(checkpoint)]
    one = found(tmp_path / "e.json", output, *arguments)
    assert one["metrics"]["fvd"]["clips"] == {"real": 3, "generated": 3}
    assert one["clips"]["real"] == one["clips"]["generated"]
    assert one["metrics"]["vae"]["vae"] == str(vae)
    assert 0 < one["metrics"]["vae"]["psnr"] < 40


def test_a_vae_is_measured_without_a_model(
    shapes: Shards, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    vae = checkpoint("vae", "AutoencoderTiny")
    one = found(
        tmp_path / "e.json",
        *("--shards", shapes(24, SIZES, 0.5), "--vae", vae, "--metrics", "vae", "--samples", 3),
    )
    assert one["metrics"]["vae"]["clips"] == {"real": 3}
    assert one["clips"]["generated"]["count"] == 0
