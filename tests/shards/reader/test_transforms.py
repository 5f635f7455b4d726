from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vidcurate.errors import UserError
from vidcurate.models import prepare_torchvision

prepare_torchvision()

from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2 import functional as v2f  # noqa: E402

from vidcurate.shards.reader import colors, pixels  # noqa: E402
from vidcurate.shards.reader import transforms as ours  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of torch wait busily for each other where there are fewer cores than threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip(bbb: Path) -> torch.Tensor:
    """9 frames of Big Buck Bunny, every 12th, at 320x180, as the reader hands them over."""
    with av.open(str(bbb)) as container:
        frames = [
            frame.to_ndarray(format="rgb24", width=320, height=180)
            for i, frame in enumerate(container.decode(video=0))
            if i % 12 == 0
        ]
    return torch.from_numpy(np.stack(frames[:9])).permute(0, 3, 1, 2)


def test_the_clip_has_motion_and_colour(clip: torch.Tensor) -> None:
    assert clip.shape == (9, 3, 180, 320)
    assert clip.float().std() > 30
    assert (clip[0].float() - clip[-1].float()).abs().mean() > 5


@pytest.mark.parametrize("kind", ["integers", "floats", "contiguous"])
@pytest.mark.parametrize(
    ("own", "theirs", "levels"),
    [
        (ours.CenterCrop((112, 200)), lambda v: v2f.center_crop(v, [112, 200]), 0),
        (ours.CenterCrop(111), lambda v: v2f.center_crop(v, [111, 111]), 0),
        (lambda v: pixels.crop(v, 5, 7, 90, 80), lambda v: v2f.crop(v, 5, 7, 90, 80), 0),
        # One level: where a CPU lacks AVX2, v2 goes another way and rounds once more.
        (ours.ShortSideScale(128), lambda v: v2f.resize(v, [128]), 1),
        (ours.ShortSideScale(211), lambda v: v2f.resize(v, [211]), 1),
        (lambda v: pixels.resize(v, 64, 112), lambda v: v2f.resize(v, [64, 112]), 1),
        (ours.RandomHorizontalFlip(1.0), v2f.horizontal_flip, 0),
        (ours.RandomHorizontalFlip(0.0), lambda v: v, 0),
        (lambda v: colors.adjust_brightness(v, 1.3), lambda v: v2f.adjust_brightness(v, 1.3), 0),
        (lambda v: colors.adjust_contrast(v, 0.6), lambda v: v2f.adjust_contrast(v, 0.6), 0),
        (lambda v: colors.adjust_contrast(v, 1.7), lambda v: v2f.adjust_contrast(v, 1.7), 0),
        (lambda v: colors.adjust_saturation(v, 0.2), lambda v: v2f.adjust_saturation(v, 0.2), 0),
        (lambda v: colors.adjust_saturation(v, 2.0), lambda v: v2f.adjust_saturation(v, 2.0), 0),
        # One level: the same colour by another formula, and then cut off to an integer.
        (lambda v: colors.adjust_hue(v, 0.1), lambda v: v2f.adjust_hue(v, 0.1), 1),
        (lambda v: colors.adjust_hue(v, -0.5), lambda v: v2f.adjust_hue(v, -0.5), 1),
        (ours.UniformTemporalSubsample(4), v2.UniformTemporalSubsample(4), 0),
        (ours.UniformTemporalSubsample(9), v2.UniformTemporalSubsample(9), 0),
        (ours.UniformTemporalSubsample(1), v2.UniformTemporalSubsample(1), 0),
    ],
)
def test_results_are_those_of_torchvision(
    clip: torch.Tensor, kind: str, own: Any, theirs: Any, levels: int
) -> None:
    video = {"integers": clip, "floats": clip / 255, "contiguous": clip.contiguous()}[kind]
    before = video.clone()
    made, wanted = own(video), theirs(video)
    assert made.shape == wanted.shape
    assert made.dtype == wanted.dtype
    tolerance = levels if kind != "floats" else 2e-6
    assert (made.double() - wanted.double()).abs().max() <= tolerance
    assert (made.double() - wanted.double()).abs().mean() <= tolerance / 20
    assert torch.equal(video, before)


@pytest.mark.parametrize(
    ("own", "theirs", "chosen"),
    [
        (ours.RandomCrop((100, 120)), v2.RandomCrop((100, 120)), True),
        (ours.RandomResizedCrop((64, 96)), v2.RandomResizedCrop((64, 96), antialias=True), True),
        (
            ours.RandomResizedCrop(64, scale=(0.9, 1.0), ratio=(0.2, 0.3)),  # never fits
            v2.RandomResizedCrop(64, scale=(0.9, 1.0), ratio=(0.2, 0.3), antialias=True),
            False,
        ),
        (
            ours.RandomResizedCrop(64, scale=(0.9, 1.0), ratio=(4.0, 5.0)),
            v2.RandomResizedCrop(64, scale=(0.9, 1.0), ratio=(4.0, 5.0), antialias=True),
            False,
        ),
        (ours.RandomHorizontalFlip(), v2.RandomHorizontalFlip(), True),
        (
            ours.ColorJitter(0.4, 0.3, (0.2, 2.0), 0.1),
            v2.ColorJitter(0.4, 0.3, (0.2, 2.0), 0.1),
            True,
        ),
        (ours.ColorJitter(contrast=0.5), v2.ColorJitter(contrast=0.5), True),
    ],
)
def test_choices_are_drawn_as_torchvision_draws_them(
    clip: torch.Tensor, own: Any, theirs: Any, chosen: bool
) -> None:
    made = []
    for seed in range(6):
        with ours.seeded(seed):
            made.append(own(clip[:3]))
        with ours.seeded(seed):
            wanted = theirs(clip[:3])
        assert made[-1].shape == wanted.shape
        # A level of one adjustment is at most 2 after those behind it.
        assert (made[-1].int() - wanted.int()).abs().max() <= 2
    differ = any(not torch.equal(one, made[0]) for one in made)
    assert differ == chosen


@pytest.mark.parametrize(
    "transform",
    [
        ours.RandomCrop(64),
        ours.RandomResizedCrop(64),
        ours.RandomHorizontalFlip(),
        ours.RandomShortSideScale(60, 90),
        ours.ColorJitter(0.5, 0.5, 0.5, 0.2),
    ],
)
def test_all_frames_of_a_clip_have_one_choice(clip: torch.Tensor, transform: Any) -> None:
    still = clip[:1].expand(5, -1, -1, -1)
    for seed in range(4):
        with ours.seeded(seed):
            made = transform(still)
        assert len(made) == 5
        assert all(torch.equal(frame, made[0]) for frame in made)


def test_short_sides_are_drawn_from_the_whole_range(clip: torch.Tensor) -> None:
    scale = ours.RandomShortSideScale(30, 33)
    with ours.seeded(0):
        sizes = {tuple(scale(clip[:1]).shape[-2:]) for _ in range(60)}
    assert sizes == {(30, 53), (31, 55), (32, 56), (33, 58)}
    assert ours.ShortSideScale(30)(clip.transpose(-1, -2)).shape[-2:] == (53, 30)
    assert ours.ShortSideScale(180)(clip) is clip


def test_every_place_of_a_crop_is_drawn() -> None:
    ramp = torch.arange(12).reshape(1, 1, 3, 4).expand(2, 3, 3, 4)
    with ours.seeded(1):
        drawn = {int(ours.RandomCrop((2, 2))(ramp)[0, 0, 0, 0]) for _ in range(200)}
    assert drawn == {0, 1, 2, 4, 5, 6}


def test_frames_by_step(clip: torch.Tensor) -> None:
    assert torch.equal(ours.TemporalSubsample(2)(clip), clip[[0, 2, 4, 6, 8]])
    assert torch.equal(ours.TemporalSubsample(5)(clip), clip[[0, 5]])
    batch = torch.stack([clip, clip.flip(-1)])
    assert torch.equal(ours.TemporalSubsample(4)(batch), batch[:, [0, 4, 8]])
    assert torch.equal(ours.UniformTemporalSubsample(3)(batch), batch[:, [0, 4, 8]])


def test_floats_and_norms(clip: torch.Tensor) -> None:
    floats = ours.ToFloat()(clip)
    assert torch.equal(floats, v2f.to_dtype(clip, torch.float32, scale=True))
    signed = ours.ToFloat(signed=True)(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert torch.allclose(signed, torch.tensor([-1.0, -0.6, 1.0]), atol=1e-6)
    norm = ours.Normalize()
    assert torch.equal(norm(floats), v2f.normalize(floats, list(norm.mean), list(norm.std)))


def test_hue_turns_colours_and_leaves_greys() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert colors.adjust_hue(red, 1 / 3).flatten().tolist() == [0, 255, 0]
    assert colors.adjust_hue(red, -1 / 3).flatten().tolist() == [0, 0, 255]
    assert colors.adjust_hue(red, 0.5).flatten().tolist() == [0, 255, 255]
    greys = torch.arange(256).to(torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(colors.adjust_hue(greys, 0.27), greys)


def test_they_mix_with_torchvision_in_either_compose(clip: torch.Tensor) -> None:
    steps = [
        ours.UniformTemporalSubsample(5),
        v2.RandomResizedCrop(96, antialias=True),
        ours.RandomHorizontalFlip(),
        v2.GaussianBlur(3),
        ours.ColorJitter(0.2, hue=0.1),
        v2.ToDtype(torch.float32, scale=True),
        ours.Normalize(),
    ]
    with ours.seeded(7):
        made = ours.Compose(steps)(clip)
    with ours.seeded(7):
        theirs = v2.Compose(steps)(clip)
    with ours.seeded(8):
        other = ours.Compose(steps)(clip)
    assert made.shape == (5, 3, 96, 96)
    assert torch.equal(made, theirs)
    assert not torch.equal(made, other)


def draws() -> tuple[Any, ...]:
    return (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())


def test_seeded_decides_three_generators_and_gives_them_back() -> None:
    with ours.seeded(1):
        start = draws()
        with ours.seeded(2**63 + 5):
            inner = draws()
        after = draws()
    with ours.seeded(1):
        assert (draws(), draws()) == (start, after)
    with ours.seeded(2**63 + 5):
        assert draws() == inner
    others = [start, inner]
    for seed in (0, -1, 2**32 + 2, 2**64 - 2):
        with ours.seeded(seed):
            others.append(draws())
    for place in range(3):
        assert len({repr(drawn[place]) for drawn in others}) == len(others)


def test_seeded_gives_states_back_after_an_error() -> None:
    with ours.seeded(3):
        state = torch.get_rng_state()
        with pytest.raises(UserError), ours.seeded(4):
            ours.RandomCrop(500)(torch.zeros(1, 3, 8, 8))
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("transform", "shape", "message"),
    [
        (ours.UniformTemporalSubsample(8), (5, 3, 8, 8), "a clip of 5 frames has no 8"),
        (ours.CenterCrop((8, 9)), (5, 3, 8, 8), "9x8 at .* picture of 8x8; scale first"),
        (ours.RandomCrop(9), (5, 3, 8, 8), "9x9 at .* picture of 8x8; scale first"),
        (ours.ShortSideScale(4), (5, 8, 9, 3), r"not \(5, 8, 9, 3\); move the channels"),
        (ours.ShortSideScale(4), (8, 8), r"not \(8, 8\)$"),
        (ours.TemporalSubsample(2), (3, 8, 8), r"not \(3, 8, 8\)"),
        (ours.ColorJitter(0.1), (5, 1, 8, 8), r"not \(5, 1, 8, 8\)"),
        (ours.Normalize(), (5, 3, 8, 8), "put ToFloat before it"),
    ],
)
def test_clips_that_do_not_fit_are_refused(transform: Any, shape: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        transform(torch.zeros(shape, dtype=torch.uint8))


def test_floats_that_do_not_fit_are_refused() -> None:
    video = torch.full((1, 3, 4, 4), -0.5)
    for values in (video, video + 2, video * float("nan")):
        with pytest.raises(UserError, match="put it before Normalize"):
            ours.ColorJitter(0.1)(values)
    with pytest.raises(UserError, match=r"takes uint8, not torch\.float32"):
        ours.ToFloat()(video)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ours.UniformTemporalSubsample(0), "frames is at least 1"),
        (lambda: ours.TemporalSubsample(0), "step is at least 1"),
        (lambda: ours.ShortSideScale(0), "size is at least 1"),
        (lambda: ours.RandomShortSideScale(9, 8), "max_size is at least min_size"),
        (lambda: ours.CenterCrop((4, 0)), "size is at least 1"),
        (lambda: ours.RandomCrop(-1), "size is at least 1"),
        (lambda: ours.RandomResizedCrop(8, scale=(0.5, 1.5)), "shares of the area"),
        (lambda: ours.RandomResizedCrop(8, ratio=(2, 1)), "ratio is"),
        (lambda: ours.RandomHorizontalFlip(2), "p is a probability"),
        (lambda: ours.ColorJitter(brightness=-0.1), "brightness is a number"),
        (lambda: ours.ColorJitter(contrast=(1.2, 0.8)), "contrast is a number"),
        (lambda: ours.ColorJitter(hue=0.6), "hue is a number up to 0.5"),
        (lambda: ours.Normalize(std=(1, 0, 1)), "those of std above 0"),
    ],
)
def test_parameters_that_cannot_be_are_refused(made: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made()


def test_transforms_travel_to_workers(clip: torch.Tensor) -> None:
    steps = ours.Compose([ours.ShortSideScale(64), ours.RandomCrop(64), ours.ColorJitter(0.1)])
    again = pickle.loads(pickle.dumps(steps))  # noqa: S301, our own bytes
    assert again == steps
    with ours.seeded(1):
        made = steps(clip)
    with ours.seeded(1):
        assert torch.equal(again(clip), made)


def test_nothing_here_needs_torchvision_and_imports_need_no_torch() -> None:
    code = (
        "import sys; import vidcurate.shards.reader.transforms as t; "
        "assert 'torch' not in sys.modules; c = t.ColorJitter(0.1, 0.1, 0.1, 0.1); import torch; "
        "t.RandomResizedCrop(4)(c(torch.zeros(2, 3, 9, 9))); "
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
