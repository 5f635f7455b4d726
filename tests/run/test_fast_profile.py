"""`profile: fast` skips frames while scoring; what it says of clips must still be exact."""

import pytest

from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder, packet_times
from vidcurate.media.probe import probe
from vidcurate.operator.base import VideoRow
from vidcurate.plan import ScorePlan
from vidcurate.recipe.load import parse
from vidcurate.run.jobs import Scored, VideoDone, VideoJob
from vidcurate.run.score_video import score_video

RECIPE = """
source: {folder: {path: .}}
split: [scenes: {detector: content, min_length: 1s}]
score: [technical: {}]
profile: PROFILE
output: out
"""


def scored(path, profile):
    """Rows of the clips by start, and of the video."""
    plan = ScorePlan.of(parse(RECIPE.replace("PROFILE", profile)), ())
    job = VideoJob("v", f"file:{path}", "c", VideoRow(str(path), sources=("folder",)), path)
    messages = list(score_video((profile, plan, job)))
    (done,) = [m for m in messages if isinstance(m, VideoDone)]
    return [m.row for m in messages if isinstance(m, Scored)], done.row


def test_packet_times_are_the_frames_times(footage):
    info = probe(footage("cuts"), max_pixels=2**26, max_duration=3600)
    with Decoder(info) as decoder:
        assert packet_times(info) == [frame.pts for frame in decoder.frames()]


@pytest.mark.parametrize("name", ["cuts", "cuts_gop48"])
def test_fast_clips_know_all_their_frames_and_can_be_cut(footage, tmp_path, name):
    path = footage(name)
    exact, exact_video = scored(path, "exact")
    fast, fast_video = scored(path, "fast")
    assert fast_video["n_frames"] == exact_video["n_frames"]
    assert not fast_video["vfr"]
    assert len(fast) == len(exact) == 4
    info = probe(path, max_pixels=2**26, max_duration=3600)
    times = packet_times(info)
    for row, true in zip(fast, exact, strict=True):
        # A cut may be found at the next frame that is not skipped.
        assert abs(row["start"] - true["start"]) <= 3 / float(info.fps)
        assert row["n_frames"] == sum(row["start_pts"] <= t < row["end_pts"] for t in times)
        out = tmp_path / f"{row['clip_id']}.mp4"
        cut = cut_clip(info, row["start_pts"], row["end_pts"], row["n_frames"], out, audio=False)
        assert cut.copied
        assert cut.n_frames == row["n_frames"]
