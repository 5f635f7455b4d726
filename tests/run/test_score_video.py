"""One video through the score pass: its clips, and scores that depend on nothing else."""

import pytest
from encode_footage import Encoding, encode
from pictures import scene

from vidcurate import ClipRow
from vidcurate.errors import DataError
from vidcurate.operator import registry

SCENES = [{"scenes": {"min_length": "0.5s"}}]
ALL = [
    "technical",
    "motion",
    "motion_vectors",
    "brightness",
    "static",
    "sharpness",
    "cadence",
    "shot_count",
    "phash",
    "content_hash",
]
IDENTITY = ("clip_id", "start", "end", "start_pts", "end_pts", "n_frames")


def scores(row):
    """All of a clip's row but what says how it was found."""
    return {k: v for k, v in row.items() if k not in ("fingerprints", "caption_source")}


@pytest.fixture
def user_operators(monkeypatch, tmp_path):
    """Load operators from a file's text, for one test."""
    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})

    def load(text):
        (tmp_path / "mine.py").write_text("from vidcurate import *\n" + text)
        registry.load_file(str(tmp_path / "mine.py"))

    return load


@pytest.fixture
def truncated(tmp_path):
    """4 s of video in a Matroska file that ends somewhere after its first second."""
    path = tmp_path / "truncated.mkv"
    shown = scene(0, 64, 64, 96)
    encode(path, (shown(n) for n in range(96)), (64, 64), Encoding(), None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture(scope="module")
def streamed(score_one, footage):
    """Every scorer on the scenes of a video, as they come along the stream."""
    found = score_one(footage("cuts_sound"), split=SCENES, score=ALL)
    assert len(found.clips) == 4
    assert not found.faults
    return found


# ------------------------------------------------------------------ the same scores by every way


def test_decoding_twice_gives_the_same(score_one, footage, streamed):
    again = score_one(footage("cuts_sound"), split=SCENES, score=ALL)
    assert again.clips == streamed.clips
    assert again.video == streamed.video


def test_known_intervals_give_the_scores_of_the_stream(score_one, footage, streamed):
    """One by one (each after a seek), in reverse order, and overlapping others."""
    path = footage("cuts_sound")
    wanted = [scores(c) for c in streamed.clips]
    times = [(c["start"], c["end"]) for c in streamed.clips]
    for at, interval in enumerate(times):
        one = score_one(path, [interval], split=[{"timestamps": {}}], score=ALL)
        assert [scores(c) for c in one.clips] == [wanted[at]]
    among = score_one(path, [*reversed(times), (0.5, 4.0)], split=[{"timestamps": {}}], score=ALL)
    assert [scores(c) for c in among.clips if (c["start"], c["end"]) in times] == wanted


def test_scenes_inside_known_intervals_are_those_of_the_stream(score_one, footage, streamed):
    whole = (streamed.clips[1]["start"], streamed.clips[2]["end"])
    split = [{"timestamps": {}}, *SCENES]
    found = score_one(footage("cuts_sound"), [whole], split=split, score=ALL)
    assert [scores(c) for c in found.clips] == [scores(c) for c in streamed.clips[1:3]]


def test_backfill_gives_the_scores_of_the_stream(score_one, footage, streamed):
    old = [
        {**c, "fingerprints": {k: c["fingerprints"][k] for k in ("split", "edit")}}
        for c in streamed.clips
    ]
    for row in old:
        for name in [n for n in row if n.split("_")[0] in ("motion", "sharpness", "technical")]:
            row[name] = None
    again = score_one(footage("cuts_sound"), again=[old[2], old[0]], split=SCENES, score=ALL)
    assert again.clips == [streamed.clips[0], streamed.clips[2]]
    assert again.done.row is None


@pytest.mark.parametrize("step", ALL)
def test_scores_do_not_depend_on_the_other_steps(score_one, footage, streamed, step):
    alone = score_one(footage("cuts_sound"), split=SCENES, score=[step])
    for row, beside in zip(alone.clips, streamed.clips, strict=True):
        own = [c for c in row if c == step or c.startswith(f"{step}_")]
        assert own
        assert {c: row[c] for c in own} == {c: beside[c] for c in own}
        assert row["fingerprints"][step] == beside["fingerprints"][step]


def test_real_footage_the_same_by_seek_and_stream(score_one, bikes):
    steps = ["technical", "motion", "motion_vectors", "brightness"]
    stream = score_one(bikes, split=[{"scenes": {}}], score=steps)
    assert len(stream.clips) >= 4
    times = [(c["start"], c["end"]) for c in stream.clips[::2]]
    seek = score_one(bikes, times, split=[{"timestamps": {}}], score=steps)
    assert [scores(c) for c in seek.clips] == [scores(c) for c in stream.clips[::2]]


# ------------------------------------------------------------------ intervals


def test_times_snap_to_the_nearest_frame(score_one, footage):
    path = footage("cuts")  # 24 fps
    near = score_one(path, [(1.0 + 0.02, 2.0 - 0.02)], split=[{"timestamps": {}}])
    exact = score_one(path, [(1.0, 2.0)], split=[{"timestamps": {}}])
    assert [[c[k] for k in IDENTITY] for c in near.clips] == [
        [c[k] for k in IDENTITY] for c in exact.clips
    ]
    assert (exact.clips[0]["start"], exact.clips[0]["end"], exact.clips[0]["n_frames"]) == (
        1,
        2,
        24,
    )
    late = score_one(path, [(1.0 + 0.022, 2.0 + 0.022)], split=[{"timestamps": {}}])
    assert late.clips[0]["start"] == pytest.approx(25 / 24)
    assert late.clips[0]["end"] == pytest.approx(49 / 24)


def test_a_frame_that_is_shown_for_long_is_found(score_one, tmp_path):
    shown, path = scene(0, 64, 64, 6), tmp_path / "slides.mp4"
    pictures = (shown(n) for n in range(6))
    encode(path, pictures, (64, 64), Encoding(times_ms=(0, 100, 200, 3000, 3100, 3200)), None)
    found = score_one(path, [(1.0, 3.08)], split=[{"timestamps": {}}])
    assert [(c["start"], c["end"], c["n_frames"]) for c in found.clips] == [(0.2, 3.1, 2)]


def test_intervals_without_a_frame_are_told(score_one, footage):
    found = score_one(
        footage("cuts"),
        [(1.0, 2.0), (3.0, 3.001), (5.0, 4.0), (50.0, 60.0), (9.0, 30.0)],
        split=[{"timestamps": {}}],
        score=["technical"],
    )
    assert [(c["start"], round(c["end"], 3)) for c in found.clips] == [(1.0, 2.0), (9.0, 9.583)]
    assert {f.interval for f in found.faults} == {(3.0, 3.001), (5.0, 4.0), (50.0, 60.0)}
    assert {f.error for f in found.faults} == {"IntervalError"}
    assert any("between 50 and 60 s (the video has 9.58" in f.message for f in found.faults)
    assert found.video["state"] == "done"
    assert found.video["n_frames"] is None


def test_equal_intervals_give_one_clip(score_one, footage):
    found = score_one(footage("cuts"), [(1.0, 2.0), (1.001, 2.001)], split=[{"timestamps": {}}])
    assert len(found.clips) == 1
    assert "found twice" in found.faults[0].message


def test_rows_without_times_and_without_an_end(score_one, footage):
    found = score_one(footage("cuts"), [(None, None), (8.0, None)], split=[{"timestamps": {}}])
    assert [(c["start"], c["n_frames"]) for c in found.clips] == [(0.0, 230), (8.0, 38)]
    assert found.video["n_frames"] == 230


def test_captions_stay_with_their_interval(score_one, footage):
    rows = [ClipRow(1.0, 2.0, "one", {"rank": 1}), ClipRow(3.0, 4.0, "two", {"rank": 2})]
    found = score_one(footage("cuts"), rows, fields=["rank"], split=[{"timestamps": {}}])
    assert [(c["caption_source"], c["rank"]) for c in found.clips] == [("one", 1), ("two", 2)]
    scenes = score_one(footage("cuts"), rows[:1], fields=["rank"], split=SCENES)
    assert [(c["caption_source"], c["rank"]) for c in scenes.clips] == [(None, None)] * 4
    whole = score_one(footage("cuts"), [ClipRow(caption="all")], split=SCENES)
    assert [c["caption_source"] for c in whole.clips] == ["all"] * 4


def test_clips_that_are_committed_are_not_scored_again(score_one, footage, streamed):
    skip = [streamed.clips[1]["clip_id"]]
    rest = score_one(footage("cuts_sound"), skip=skip, split=SCENES, score=ALL)
    assert [c["clip_id"] for c in rest.clips] == [
        c["clip_id"] for c in streamed.clips if c["clip_id"] not in skip
    ]
    assert rest.video["clips"] == 4


# ------------------------------------------------------------------ the dataset's columns


RANKED = """
@scorer("ranked", frames=None, columns=column("int32"))
def ranked(clip: Clip):
    \"\"\"Ten times the dataset's rank.\"\"\"
    return clip.fields["rank"] * 10
"""


def test_backfill_reads_each_clips_own_columns(score_one, footage, user_operators):
    user_operators(RANKED)
    rows = [ClipRow(1.0, 2.0, "one", {"rank": 1}), ClipRow(3.0, 4.0, "two", {"rank": 2})]
    common = {"split": [{"timestamps": {}}], "fields": ["rank"]}
    first = score_one(footage("cuts"), rows, **common)
    again = score_one(footage("cuts"), again=first.clips, score=["ranked"], **common)
    assert [c["ranked"] for c in again.clips] == [10, 20]
    assert [c["caption_source"] for c in again.clips] == ["one", "two"]


# ------------------------------------------------------------------ crops


def test_borders_cost_a_second_decode_only_where_there_is_a_box(score_one, footage, truth):
    boxed = score_one(footage("letterbox"), edit=["borders"], score=["brightness", "technical"])
    plain = score_one(footage("cuts"), edit=["borders"], score=["brightness"])
    x, y, width, height = truth("letterbox")["box"]
    (row,) = boxed.clips
    assert row["crop"] == pytest.approx({"x": x, "y": y, "width": width, "height": height}, abs=2)
    assert (row["width"], row["height"]) == (row["crop"]["width"], row["crop"]["height"])
    assert row["technical_height"] == row["height"]
    assert boxed.done.seconds == pytest.approx(2 * row["end"])
    assert boxed.video["n_frames"] == row["n_frames"] == 48
    assert plain.clips[0]["crop"] is None
    assert plain.done.seconds == pytest.approx(plain.clips[0]["end"])
    whole = score_one(footage("letterbox"), score=["brightness", "technical"])
    assert row["brightness_mean"] > whole.clips[0]["brightness_mean"] * 1.2
    for same in (*IDENTITY, "technical_bitrate"):
        assert row[same] == whole.clips[0][same]


def test_a_fixed_crop_needs_no_second_decode(score_one, footage):
    crop = [{"crop": {"left": 20, "right": 20}}]
    found = score_one(footage("cuts"), edit=crop, split=SCENES, score=["technical"])
    assert {c["technical_width"] for c in found.clips} == {280}
    assert found.clips[0]["crop"] == {"x": 20, "y": 0, "width": 280, "height": 180}
    assert found.done.seconds == pytest.approx(230 / 24)


def test_a_changed_crop_keeps_ids_and_scores_again(score_one, footage):
    path, score = footage("letterbox"), ["technical", "brightness"]
    first = score_one(path, score=score)
    again = score_one(path, again=first.clips, edit=["borders"], score=score)
    direct = score_one(path, edit=["borders"], score=score)
    assert again.clips == direct.clips
    assert again.clips[0]["clip_id"] == first.clips[0]["clip_id"]
    back = score_one(path, again=again.clips, score=score)
    assert back.clips == first.clips


BROKEN = """
class Broken(Editor):
    \"\"\"Fails on what begins after a second.\"\"\"

    name = "broken"

    def request(self):
        return Frames(count=1, short_side=32)

    def box(self, clip):
        if clip.start > 1:
            raise ZeroDivisionError("no box")
        return Box(0, 0, 100, 100)
"""


def test_an_editors_error_is_one_clips(score_one, footage, user_operators):
    user_operators(BROKEN)
    found = score_one(footage("cuts"), edit=["broken"], split=SCENES, score=["brightness"])
    assert [c["score_status"] for c in found.clips] == ["scored", "failed", "failed", "failed"]
    row, fault = found.clips[1], found.faults[0]
    assert (row["score_by"], row["crop"], row["brightness_mean"]) == ("broken", None, None)
    assert row["fingerprints"]["brightness"].startswith("!")
    assert (fault.step, fault.error, fault.message) == ("broken", "ZeroDivisionError", "no box")
    assert fault.clip_id == row["clip_id"]
    retried = score_one(
        footage("cuts"), again=found.clips[1:], edit=["broken"], split=SCENES, score=["brightness"]
    )
    assert len(retried.faults) == 3  # the crop is sought again, not taken to be none


def test_a_fixed_crop_that_leaves_nothing_fails_the_video(score_one, footage):
    with pytest.raises(DataError, match="'crop': crop leaves nothing"):
        score_one(footage("cuts"), edit=[{"crop": {"left": 400}}])


# ------------------------------------------------------------------ damage and bounds


def test_a_truncated_file_is_partial(score_one, truncated):
    found = score_one(truncated, split=SCENES, score=["brightness"])
    assert found.video["state"] == "partial"
    assert found.video["n_frames"] == sum(c["n_frames"] for c in found.clips)
    (fault,) = [f for f in found.faults if f.stage == "decode"]
    assert found.video["reason"] in fault.message
    assert "the rest was used" in fault.message


@pytest.mark.parametrize("interval", [(0.0, 4.0), (0.5, None), (2.7, 3.9)])
def test_a_missing_end_is_told_for_known_intervals_too(score_one, truncated, interval):
    found = score_one(truncated, [(0.0, 0.5), interval], split=[{"timestamps": {}}])
    assert found.video["state"] == "partial"
    assert found.clips[0]["n_frames"] == 12
    inside = score_one(truncated, [(0.0, 0.5), (0.5, 1.0)], split=[{"timestamps": {}}])
    assert inside.video["state"] == "done"  # nothing of what was asked is missing


def test_variable_rate_is_flagged(score_one, footage, truth):
    found = score_one(footage("vfr"), split=[{"fixed": {"length": "1s"}}], score=["technical"])
    assert found.video["vfr"] is True
    assert found.clips[0]["technical_vfr"] is True
    assert found.video["n_frames"] == truth("vfr")["frames"]
    steady = score_one(footage("cuts"), split=SCENES, score=["technical"])
    assert steady.video["vfr"] is False
    assert not any(c["technical_vfr"] for c in steady.clips)


def test_a_clip_past_its_memory_names_the_remedy(score_one, footage, monkeypatch):
    monkeypatch.setattr("vidcurate.media.sampling._CLIP_BUDGET", 100_000)
    with pytest.raises(DataError, match="give the recipe a split step"):
        score_one(footage("cuts"), score=["shot_count"])
    pieces = score_one(footage("cuts"), split=[{"fixed": {"length": "0.5s"}}], score=["shot_count"])
    assert len(pieces.clips) == 20


def test_clips_are_cut_while_the_source_is_at_hand(score_one, footage, tmp_path):
    score = [{"brightness": {"mean": {"min": 255}, "gate": True}}, "static"]
    cut = score_one(footage("cuts"), split=SCENES, media=tmp_path, score=["static"])
    assert all((tmp_path / c["media"]).is_file() for c in cut.clips)
    gated = score_one(footage("cuts_gop48"), split=SCENES, media=tmp_path, score=score)
    assert [c["media"] for c in gated.clips] == [None] * 4


@pytest.mark.parametrize("name", ["cuts_sound", "cuts_gop48"])
def test_a_clips_own_media_gives_the_scores_of_its_source(score_one, footage, tmp_path, name):
    """Grids stay where the source has them, and the source's facts stay true."""
    first = score_one(footage(name), split=SCENES, score=ALL, media=tmp_path)
    edit = {k: first.clips[0]["fingerprints"][k] for k in ("split", "edit")}
    for clip in first.clips:
        bare = {k: None if k.split("_")[0] in ALL else v for k, v in clip.items()}
        again = score_one(
            tmp_path / clip["media"],
            again=[bare | {"fingerprints": edit}],
            source=first.video,
            split=SCENES,
            score=ALL,
        )
        (row,) = again.clips
        assert row["scored_from"] == "media"
        for column in row.keys() - {"scored_from", "video_id"}:
            if column in ("technical_bitrate", "technical_bits_per_pixel"):
                assert row[column] == pytest.approx(clip[column], rel=0.02)
            else:
                assert row[column] == clip[column], column


def test_a_clips_own_media_that_lacks_frames(score_one, footage, tmp_path):
    first = score_one(footage("cuts"), split=SCENES, score=ALL, media=tmp_path)
    path = tmp_path / first.clips[0]["media"]
    with pytest.raises(DataError, match="holds 50 frames of the clip's 61"):
        score_one(path, again=[first.clips[1]], source=first.video, split=SCENES)
