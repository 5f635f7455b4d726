"""Which frames a request gets: grids anchored to source time, nested grids for counts."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from vidcurate import Box, Frames
from vidcurate.media.convert import Converter
from vidcurate.media.decode import Decoder
from vidcurate.media.probe import probe
from vidcurate.media.sampling import (
    ClipFrames,
    grid_level,
    needed_level,
    on_grid,
    shots,
)


@pytest.fixture(scope="session")
def video(footage):
    """A made video and all its frames as shots; they stay decoded."""
    info = probe(footage("cuts"), max_pixels=2**26, max_duration=3600)
    with Decoder(info) as decoder:
        return info, list(shots(decoder, None, None))


def frames_of(video, request, start, end, crop=None):
    """The frames that one request gets for a clip, fed as the pass feeds them."""
    info, all_shots = video
    clip = ClipFrames(Converter(info, hdr="tonemap"), [request], info.fps, crop)
    inside = [s for s in all_shots if start <= s.time < end]
    for shot in inside:
        clip.add(shot)
    return clip.batch(request, inside[0].time, end)


def test_grid_takes_first_frame_at_or_after_each_point():
    fps = Fraction(2)
    times = [-1.0, 0.0, 0.04, 0.48, 0.52, 0.96, 1.0, 1.04]
    wanted = [on_grid(a, b, fps) for a, b in pairwise(times)]
    assert wanted == [True, False, False, True, False, True, False]


def test_levels_are_nested():
    step = 1 / 25
    levels = {i: grid_level((i - 1) * step if i else -1.0, i * step) for i in range(250)}
    for m in range(-3, 5):
        on = [i for i, level in levels.items() if level <= m]
        grid = {
            min(i for i in range(260) if i * step >= k * 2.0**-m - 1e-12)
            for k in range(int(10 * 2**m) + 1)
        }
        assert on == sorted(g for g in grid if g < 250)


def test_needed_level_bounds_the_spacing():
    for duration in (0.04, 0.5, 1.0, 3.7, 60.0, 7200.0):
        for count in (1, 3, 8, 64):
            spacing = 2.0 ** -needed_level(duration, count)
            assert spacing <= duration / (2 * count) or needed_level(duration, count) == 11


def test_fps_grid_does_not_depend_on_the_clip_start(video):
    request = Frames(fps=4, short_side=64)
    whole = frames_of(video, request, 0.0, 4.0)
    part = frames_of(video, request, 1.1, 3.1)
    kept = [t for t in whole.times if 1.1 <= t < 3.1]
    assert list(part.times) == kept
    first = list(whole.times).index(kept[0])
    np.testing.assert_array_equal(part.pixels, whole.pixels[first : first + len(kept)])


def test_short_clip_has_at_least_its_first_frame(video):
    batch = frames_of(video, Frames(fps=0.5, short_side=64), 0.52, 0.72)
    assert len(batch) == 1
    assert batch.times[0] == pytest.approx(0.52, abs=0.04)


def test_every_frame_and_head(video):
    info, all_shots = video
    batch = frames_of(video, Frames(every=1, short_side=64, head="1s"), 0.0, 3.0)
    assert len(batch) == sum(s.time < 1.0 for s in all_shots)
    third = frames_of(video, Frames(every=3, short_side=64), 0.0, 3.0)
    assert np.allclose(np.diff(third.times), float(3 / info.fps), atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [(0.0, 4.0), (0.3, 1.1), (1.0, 1.2)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_count_takes_evenly_spread_frames(video, start, end, count):
    info, _ = video
    batch = frames_of(video, Frames(count=count, short_side=64), start, end)
    assert len(batch) == count
    first = batch.times[0] if count == 1 else start
    targets = start + (np.arange(count) + 0.5) * (end - start) / count
    # Half a grid step (a quarter of the distance of two targets) and a frame.
    slack = (end - start) / (4 * count) + 1 / float(info.fps)
    assert np.all(np.abs(batch.times - targets) <= slack + 1e-6), (batch.times, targets, first)
    assert np.all(np.diff(batch.times) >= 0)


def test_count_is_the_same_however_the_clip_grew(video):
    """Thinning while a clip grows must not change what it gets in the end."""
    info, all_shots = video
    request = Frames(count=4, short_side=64)
    inside = [s for s in all_shots if s.time < 3.0]
    alone = ClipFrames(Converter(info, hdr="tonemap"), [request], info.fps, None)
    beside = ClipFrames(
        Converter(info, hdr="tonemap"),
        [Frames(count=64, short_side=32), request, Frames(fps=1, short_side=32)],
        info.fps,
        None,
    )
    for shot in inside:
        alone.add(shot)
        beside.add(shot)
    a = alone.batch(request, 0.0, 3.0)
    b = beside.batch(request, 0.0, 3.0)
    np.testing.assert_array_equal(a.times, b.times)
    np.testing.assert_array_equal(a.pixels, b.pixels)


def test_held_frames_are_bounded(video):
    info, all_shots = video
    clip = ClipFrames(
        Converter(info, hdr="tonemap"), [Frames(count=4, short_side=64)], info.fps, None
    )
    for shot in all_shots:
        clip.add(shot)
        frame_bytes = shot.raw_bytes
        assert clip.nbytes <= (4 * 4 + 17) * frame_bytes


def test_equal_pictures_are_made_once(video):
    info, all_shots = video
    converter = Converter(info, hdr="tonemap")
    shot = all_shots[5]
    one = shot.picture(converter, Frames(fps=2, short_side=64), None)
    assert shot.picture(converter, Frames(count=3, short_side=64), None) is one
    cropped = shot.picture(converter, Frames(fps=2, short_side=64), Box(0, 0, 100, 100))
    assert cropped is not one
    assert cropped.shape == (64, 64)
