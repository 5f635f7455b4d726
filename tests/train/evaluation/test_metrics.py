"""Each metric against what its parts give by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vidcurate.errors import UserError
from vidcurate.models import load_clip
from vidcurate.models.vae import load_vae
from vidcurate.train.evaluation.clips import Video
from vidcurate.train.evaluation.distances import frechet
from vidcurate.train.evaluation.features import even, load_extractor
from vidcurate.train.evaluation.metrics import (
    ClipSimilarity,
    FrechetMetric,
    MotionScores,
    Reconstruction,
)
from vidcurate.train.evaluation.motion import MotionScorer
from vidcurate.train.evaluation.quality import psnr, ssim

Checkpoint = Callable[..., Path]


def noise(count: int, *, frames: int = 6, seed: int = 0, caption: str = "a dog") -> list[Video]:
    rng = np.random.default_rng(seed)
    sizes = [(frames + i % 2, 32, 40 + 8 * (i % 2), 3) for i in range(count)]
    return [
        Video(f"{i}", rng.integers(0, 256, size, np.uint8), 8.0, caption)
        for i, size in enumerate(sizes)
    ]


def moving(name: str, speed: int) -> Video:
    """A textured square that moves by `speed` pixels a frame."""
    texture = np.random.default_rng(0).integers(60, 256, (24, 24, 3), np.uint8)
    frames = np.full((17, 64, 96, 3), 20, np.uint8)
    for i in range(17):
        frames[i, 20:44, speed * i : speed * i + 24] = texture
    return Video(name, frames, 8.0, "")


def test_fvd_is_that_of_all_features_whatever_the_batch(checkpoint: Checkpoint) -> None:
    extractor = load_extractor(str(checkpoint("videomae")), "video")
    real, made = noise(5), noise(4, seed=1)
    pictures = noise(1, frames=1)
    values = []
    for batch in (1, 3, 8):
        metric = FrechetMetric(extractor, batch)
        for video in [*real, *pictures]:
            metric.add("real", video)
        for video in made:
            metric.add("generated", video)
        found = metric.result()
        assert found["clips"] == found["features"] == {"real": 5, "generated": 4}
        assert found["width"] == 32
        assert found["frames"] == 4
        assert found["revision"].startswith("sha256:")
        assert "4 features of width 32" in found["warnings"][0]
        values.append(found["value"])
    features = [extractor([extractor.seen(v.frames) for v in some]) for some in (real, made)]
    assert values == pytest.approx([frechet(*features)] * 3, rel=1e-4)
    assert values[0] > 0.1


def test_fid_takes_frames_of_each_clip_and_pictures(checkpoint: Checkpoint) -> None:
    extractor = load_extractor(str(checkpoint("dinov2")), "image")
    metric = FrechetMetric(extractor, 4)
    real = [*noise(2, frames=20), *noise(1, frames=1)]
    for video in real:
        metric.add("real", video)
        metric.add("generated", video)
    found = metric.result()
    assert found["features"] == {"real": 17, "generated": 17}  # 8 of each, and a picture
    assert found["clips"] == {"real": 3, "generated": 3}
    assert found["value"] == pytest.approx(0, abs=1e-6)


def test_a_distance_of_one_clip_is_none(checkpoint: Checkpoint) -> None:
    metric = FrechetMetric(load_extractor(str(checkpoint("videomae")), "video"), 4)
    for video in noise(3):
        metric.add("real", video)
    metric.add("generated", noise(1)[0])
    with pytest.raises(UserError, match="1 generated videos"):
        metric.result()


def test_clip_similarity_is_the_mean_cosine_over_frames(checkpoint: Checkpoint) -> None:
    towers = load_clip(str(checkpoint("open_clip")))
    metric = ClipSimilarity(towers, "r")
    long, short = noise(1, frames=20)[0], noise(1, seed=3, caption="two people")[0]
    metric.add("generated", long)
    metric.add("generated", short)
    metric.add("generated", noise(1, caption="")[0])
    metric.add("real", short)
    want = []
    for video in (long, short):
        count = len(video.frames)
        pictures = towers.encode_images(list(video.frames[even(count, min(8, count))]))
        want.append((pictures @ towers.encode_text([video.caption])[0]).mean())
    found = metric.result()
    assert found["value"] == pytest.approx(np.mean(want), abs=1e-6)
    assert found["real"] == pytest.approx(want[1], abs=1e-6)
    assert found["clips"] == {"real": 1, "generated": 2}
    empty = ClipSimilarity(towers, "r")
    empty.add("generated", noise(1, caption="")[0])
    with pytest.raises(UserError, match="has a prompt"):
        empty.result()


@pytest.mark.parametrize(("kind", "frames"), [("AutoencoderTiny", 6), ("AutoencoderKLWan", 5)])
def test_reconstruction_is_of_the_middle_that_the_vae_takes(
    checkpoint: Checkpoint, kind: str, frames: int
) -> None:
    vae = load_vae(str(checkpoint("vae", kind)))
    _, down, across = vae.config.compression
    metric = Reconstruction(vae)
    (video,) = noise(1)
    padded = np.pad(video.frames, ((0, 0), (1, 2), (2, 1), (0, 0)))
    metric.add("real", Video("0", padded, 8.0, ""))
    metric.add("real", Video("small", padded[:, :10], 8.0, ""))  # below the window: left out
    found = metric.result()
    top, left = (35 % down) // 2, (43 % across) // 2
    size = 35 // down * down, 43 // across * across
    cut = padded[:frames, top : top + size[0], left : left + size[1]]
    shown = torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 255
    made = (vae.decode(vae.encode(shown * 2 - 1)) + 1) / 2
    assert made.shape[0] == frames
    assert found["psnr"] == pytest.approx(psnr(shown, made), abs=1e-6)
    assert found["ssim"] == pytest.approx(float(ssim(shown, made).mean()), abs=1e-6)
    assert 0 < found["psnr"] < 20
    assert found["clips"] == {"real": 1}


def test_motion_scores_tell_fast_clips_from_slow_ones() -> None:
    metric = MotionScores(MotionScorer(("motion", "static", "cadence")))
    slow, fast = moving("slow", 1), moving("fast", 4)
    for video in (slow, slow, fast):
        metric.add("real", video)
    for video in (fast, moving("still", 0)):
        metric.add("generated", video)
    metric.add("generated", Video("picture", fast.frames[:1], 1.0, ""))
    found = metric.result()["scores"]
    assert sorted(found) == [
        "cadence_dup_frames",
        "motion_mean",
        "motion_p95",
        "motion_residual",
        "static",
    ]
    p95 = found["motion_p95"]
    assert p95["clips"] == {"real": 3, "generated": 2}
    scorer = MotionScorer(("motion",))
    one, four, none = (
        scorer(v.frames, v.fps)["motion_p95"] for v in (slow, fast, moving("still", 0))
    )
    assert one is not None
    assert four is not None
    assert none is not None
    assert 3 * one < four < 5 * one
    assert none < 0.1 * one
    assert p95["real"] == pytest.approx((2 * one + four) / 3)
    assert p95["generated"] == pytest.approx((four + none) / 2)
    # One half from none to one; a sixth of the mass from four to one.
    assert p95["distance"] == pytest.approx((one - none) / 2 + (four - one) / 6)
    assert found["static"]["generated"] == pytest.approx(0.5)
    assert found["static"]["real"] == 0
    assert found["cadence_dup_frames"]["clips"] == {"real": 3, "generated": 1}


def test_clips_that_no_scorer_judges_are_said() -> None:
    metric = MotionScores(MotionScorer(("motion",)))
    metric.add("real", moving("slow", 1))
    metric.add("generated", Video("tiny", moving("slow", 1).frames[:, :16, :16], 8.0, ""))
    found = metric.result()["scores"]["motion_mean"]
    assert found["generated"] is None
    assert found["distance"] is None
    with pytest.raises(UserError, match="no scorer says anything"):
        MotionScores(MotionScorer(("motion",))).result()
