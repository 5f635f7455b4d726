"""Buckets chosen from the clips: what is chosen, and that no rule is broken by it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from vidcurate.errors import UserError
from vidcurate.recipe.model import Buckets, Fit
from vidcurate.shards.auto_buckets import choose, measure
from vidcurate.shards.buckets import assign, crop_loss

FIXED = Buckets(short_side=(256, 480, 720), frames=(1, 49, 97, 121))
COMMON = [(1920, 1080), (1280, 720), (854, 480), (640, 360), (1080, 1920), (640, 480), (1920, 800)]


def repeated(*groups: tuple[int, int, int, int]) -> tuple[np.ndarray, ...]:
    """Groups of (clips, width, height, frames) at 25 fps."""
    table = np.concatenate([np.tile(g[1:], (g[0], 1)) for g in groups])
    return (*table.T, table[:, 2] / 25)


def mixed(clips: int, seed: int, images: float = 0.1) -> tuple[np.ndarray, ...]:
    """Common sizes and wild ones, lengths of a log-normal distribution, and images."""
    rng = np.random.default_rng(seed)
    sizes = np.array(COMMON)[
        rng.choice(len(COMMON), clips, p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.06, 0.04])
    ]
    wild = rng.random(clips) < 0.2
    sizes[wild] = rng.integers(100, 2200, (wild.sum(), 2))
    frames = np.maximum(rng.lognormal(4.6, 0.7, clips).astype(int), 2)
    frames[rng.random(clips) < images] = 1
    return (*sizes.T, frames, frames / 25)


def test_clips_all_equal() -> None:
    choice = choose(*repeated((500, 1280, 720, 100)), Fit())
    assert choice.buckets == Buckets(short_side=(720,), aspect=("16:9",), frames=(97,))
    assert choice.counts == {"720p_16x9_97f": 500}
    assert choice.no_bucket == 0
    assert choice.kept == pytest.approx(0.97)
    assert choice.unused == pytest.approx(500 * 4 * 0.03)
    assert choice.lines() == [
        "buckets for 500 clips: short sides 720; aspects 16:9; frames 97",
        "  1280x720 (16:9): 100.0 % of the clips: 97f 500",
        "without a bucket: 0 clips (0.0 %), packed at their own size",
        "of a picture on average 0.0 % is cropped and 0.0 % scaled away",
        "unused: 3.0 % of 2,000.0 s lie beyond the frames of their bucket",
    ]


@pytest.mark.parametrize(
    ("size", "frames", "name"),
    [
        ((640, 272), 46, "272p_40x17_45f"),  # the clip's own aspect: no pixel is lost
        ((1080, 1920), 4, "1072p_9x16_1f"),
        ((16, 16), 1, "16p_1x1_1f"),
        ((250, 144), 49, "144p_92x53_49f"),  # of 16:9 only 128 lines would fit
    ],
)
def test_one_clip(size: tuple[int, int], frames: int, name: str) -> None:
    assert choose([size[0]], [size[1]], [frames], [1.0], Fit()).counts == {name: 1}


def test_two_sizes_and_two_lengths() -> None:
    clips = repeated((300, 1920, 1080, 50), (300, 640, 480, 130), (3, 480, 640, 130))
    choice = choose(*clips, Fit(no_bucket="report"))
    # Three upright clips are too few for a bucket; groups without clips are not made.
    assert choice.buckets == Buckets(
        short_side=(480, 1072),
        aspect=("16:9", "4:3"),
        frames=(49, 129),
        skip=(
            *("1072p_16x9_129f", "1072p_4x3_129f", "1072p_4x3_49f"),
            *("480p_16x9_129f", "480p_16x9_49f", "480p_4x3_49f"),
        ),
    )
    assert choice.counts == {"1072p_16x9_49f": 300, "480p_4x3_129f": 300}
    assert choice.no_bucket == 3
    assert choice.lines()[3] == "without a bucket: 3 clips (0.5 %), left out"


def test_images_have_their_count_however_few_they_are() -> None:
    clips = repeated((2000, 1280, 720, 100), (3, 1280, 720, 1))
    choice = choose(*clips, Fit())
    assert choice.buckets.frames == (1, 97)
    assert choice.counts == {"720p_16x9_97f": 2000, "720p_16x9_1f": 3}
    assert choose(*repeated((9, 1280, 720, 1)), Fit()).counts == {"720p_16x9_1f": 9}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_crop", [0.0, 0.12, 0.4])
def test_rules_hold_on_a_wild_mix(seed: int, max_crop: float) -> None:
    clips = mixed(2000, seed)
    fit = Fit(max_crop=max_crop, no_bucket="report")
    choice = choose(*clips, fit)
    chosen = choice.buckets
    assert len(chosen.short_side) <= 4
    assert len(chosen.aspect) <= 6
    assert len(chosen.frames) <= 5
    assert 1 in chosen.frames
    held: Counter[str] = Counter()
    for width, height, frames in zip(*(a.tolist() for a in clips[:3]), strict=True):
        bucket = assign(width, height, frames, chosen, fit)
        if bucket is None:
            continue
        held[bucket.name] += 1
        assert bucket.width % 16 == bucket.height % 16 == 0
        assert bucket.width <= width
        assert bucket.height <= height
        assert bucket.frames % 4 == 1
        assert bucket.frames <= frames
        assert crop_loss(width, height, bucket.width, bucket.height) <= max_crop
    assert choice.counts == held
    assert set(held) == set(chosen.names()) - set(chosen.skip)
    # 1 of 200 clips, in a group of images 1 of 200 images and 8 at least
    assert all(n >= (8 if name.endswith("_1f") else 10) for name, n in held.items())
    assert choice.kept >= measure(*clips, FIXED, fit).kept


def test_counts_and_losses_are_those_of_assign() -> None:
    clips = mixed(2000, 7)
    fit = Fit()
    found = measure(*clips, FIXED, fit)
    held: Counter[str] = Counter()
    kept = cropped = scaled = unused = 0.0
    for width, height, frames, seconds in zip(*(a.tolist() for a in clips), strict=True):
        bucket = assign(width, height, frames, FIXED, fit)
        if bucket.width is None:
            continue
        held[bucket.name] += 1
        pixels = bucket.width * bucket.height / (width * height)
        crop = crop_loss(width, height, bucket.width, bucket.height)
        kept += pixels * bucket.frames / frames
        cropped += crop
        scaled += 1 - crop - pixels
        unused += seconds * (1 - bucket.frames / frames)
    assert found.counts == held
    assert found.no_bucket == 2000 - held.total()
    assert found.kept == pytest.approx(kept / 2000)
    assert found.cropped == pytest.approx(cropped / held.total())
    assert found.scaled == pytest.approx(scaled / held.total())
    assert found.unused == pytest.approx(unused)


def test_the_order_of_rows_does_not_matter() -> None:
    clips = mixed(5000, 3)
    order = np.random.default_rng(0).permutation(5000)
    one, other = choose(*clips, Fit()), choose(*(a[order] for a in clips), Fit())
    assert one.buckets == other.buckets
    assert one.lines() == other.lines()


def test_a_larger_sample_of_the_same_gives_nearly_the_same() -> None:
    """Of 100,000 clips 2,000 are looked at; the choice is as good as one of all would be."""
    clips = mixed(100_000, 5)
    choice = choose(*clips, Fit())
    small = choose(*(a[:3000] for a in clips), Fit())
    assert choice.kept > measure(*clips, small.buckets, Fit()).kept - 0.01
    still = (clips[2] == 1).sum() / 200
    assert all(n >= (still if name.endswith("_1f") else 500) for name, n in choice.counts.items())


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        ([[]] * 4, "no clips to choose buckets from"),
        ([[15], [900], [49], [2.0]], "none of 1 clips fits a bucket"),
        ([[427], [241], [49], [2.0]], "too strict"),
    ],
)
def test_nothing_to_choose(clips: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        choose(*clips, Fit(max_crop=0))
