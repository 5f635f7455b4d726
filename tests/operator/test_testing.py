import numpy as np

from vidcurate.operator.testing import make_clip


def test_a_clip_of_gray_pictures():
    clip = make_clip(np.zeros((3, 36, 64)), fps=10.0, scores={"a": 1}, fields={"b": 2})
    assert clip.pixels.dtype == np.uint8
    assert clip.pixels.shape == (3, 36, 64)
    assert clip.frames.times.tolist() == [0.0, 0.5, 1.0]
    assert (clip.width, clip.height, clip.start, clip.end) == (64, 36, 0.0, 1.1)
    assert (clip.n_frames, clip.video.fps) == (11, 10)
    assert (clip.scores, clip.fields) == ({"a": 1}, {"b": 2})


def test_times_may_be_given():
    clip = make_clip(np.zeros((2, 36, 64, 3)), times=[4.0, 4.04], fps=25.0)
    assert (clip.start, round(clip.end, 9), clip.n_frames) == (4.0, 4.08, 2)
