"""What is known of the made videos, found again through the whole score pass."""

import math

import av
import numpy as np
import pytest


def cuts(found):
    """The first frames of all clips but the first."""
    fps = found.video["fps_num"] / found.video["fps_den"]
    assert found.clips[0]["start"] == 0.0
    assert found.clips[-1]["end"] == pytest.approx(found.video["duration"])
    return [round(c["start"] * fps) for c in found.clips[1:]]


def scenes(**more):
    return [{"scenes": {"min_length": "0s", **more}}]


@pytest.mark.parametrize("detector", ["content", "adaptive"])
@pytest.mark.parametrize(
    "name",
    ["cuts", "cuts_gop48", "cuts_sound", "flash", "static", "pan_16px", "text_scene"],
)
def test_hard_cuts_to_the_frame(score_one, footage, truth, name, detector):
    """Precision and recall 1.0: every cut, and no other."""
    found = score_one(footage(name), split=scenes(detector=detector))
    assert cuts(found) == truth(name)["cuts"]
    assert found.video["n_frames"] == truth(name)["frames"]
    assert sum(c["n_frames"] for c in found.clips) == truth(name)["frames"]


def test_cuts_of_real_footage(score_one, bikes):
    found = score_one(bikes, split=scenes())
    assert len(cuts(found)) == 5
    assert sum(c["n_frames"] for c in found.clips) == 250


@pytest.mark.parametrize("name", ["fades", "cuts"])
def test_fades_within_five_frames(score_one, footage, truth, name):
    found = score_one(footage(name), split=scenes(detector="threshold"))
    wanted = truth(name)["cuts"] if name == "fades" else []
    assert cuts(found) == pytest.approx(wanted, abs=5)


@pytest.mark.parametrize("pixels", [1, 2, 4, 8, 16, 32])
def test_motion_of_a_known_shift(score_one, footage, truth, pixels):
    found = score_one(footage(f"pan_{pixels}px"), score=["motion"])
    known = truth(f"pan_{pixels}px")
    dx, dy = known["shift"]
    diagonal = math.hypot(known["width"], known["height"])
    speed = 100 * math.hypot(dx, dy) * 24 / diagonal
    (clip,) = found.clips
    assert clip["motion_mean"] == pytest.approx(speed, rel=0.1)
    assert clip["motion_residual"] < 0.1 * speed  # it was the camera


def test_no_motion(score_one, footage):
    (clip,) = score_one(footage("static"), score=["motion", "static"]).clips
    assert clip["motion_p95"] < 0.05
    assert clip["static"] == 1.0


@pytest.mark.parametrize(
    ("name", "field", "other"),
    [("text_overlay", "overlay", "scene"), ("text_scene", "scene", "overlay")],
)
def test_text_area(score_one, footage, truth, name, field, other):
    (clip,) = score_one(footage(name), score=["text_area"]).clips
    assert clip[f"text_area_{field}"] == pytest.approx(truth(name)["text_share"], rel=0.2)
    assert clip[f"text_area_{other}"] == 0.0


def test_no_text(score_one, footage):
    (clip,) = score_one(footage("pan_4px"), score=["text_area"]).clips
    assert clip["text_area_total"] == clip["text_area_overlay"] == 0.0


@pytest.mark.parametrize("name", ["letterbox", "pillarbox"])
def test_borders_to_two_pixels(score_one, footage, truth, name):
    (clip,) = score_one(footage(name), edit=["borders"]).clips
    box = [clip["crop"][k] for k in ("x", "y", "width", "height")]
    assert box == pytest.approx(truth(name)["box"], abs=2)


def test_no_borders(score_one, footage):
    assert [c["crop"] for c in score_one(footage("cuts"), edit=["borders"]).clips] == [None]


def test_cadence_of_doubled_frames(score_one, footage, truth):
    (clip,) = score_one(footage("dup_cadence"), score=["cadence"]).clips
    assert clip["cadence_dup_frames"] == pytest.approx(truth("dup_cadence")["dup_frames"], abs=0.02)
    (steady,) = score_one(footage("pan_4px"), score=["cadence"]).clips
    assert steady["cadence_dup_frames"] == 0.0


def test_a_missed_cut_is_counted(score_one, footage):
    (whole,) = score_one(footage("cuts"), score=["shot_count"]).clips
    assert whole["shot_count"] == 4
    apart = score_one(footage("cuts"), split=scenes(), score=["shot_count"]).clips
    assert [c["shot_count"] for c in apart] == [1] * 4


def test_true_rates_and_sizes(score_one, footage, truth):
    for name in ("cuts", "rotated", "sar", "odd_size", "mpeg2", "hevc", "vp9", "av1", "mpeg4"):
        found = score_one(footage(name), score=["technical"])
        known = truth(name)
        (clip,) = found.clips
        assert (clip["technical_width"], clip["technical_height"]) == (
            known["width"],
            known["height"],
        )
        assert clip["n_frames"] == known["frames"]
        assert clip["technical_fps"] == pytest.approx(int(known["fps"].split("/")[0]), rel=2e-3)
        assert clip["technical_vfr"] is False


def frames(path):
    with av.open(str(path)) as container:
        return [f.to_ndarray() for f in container.decode(video=0)]


@pytest.mark.parametrize("name", ["cuts", "cuts_gop48"])
def test_a_copied_clip_decodes_to_the_sources_frames(score_one, footage, tmp_path, name):
    """By FFmpeg's own reading of the edit list: not one frame more, and none changed."""
    source, at = frames(footage(name)), 0
    found = score_one(footage(name), split=scenes(), media=tmp_path)
    for clip in found.clips:
        own = frames(tmp_path / clip["media"])
        assert len(own) == clip["n_frames"]
        for ours, theirs in zip(own, source[at : at + len(own)], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        at += len(own)
    assert at == len(source)
