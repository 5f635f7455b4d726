import math
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vidcurate
from vidcurate.export.rows import GONE, Clips, clock, place, plain
from vidcurate.export.write import export

DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("key", "location", "expected"),
    [
        ("youtube:-2yHu5qgTzM", "/mirror/x.mp4", "https://www.youtube.com/watch?v=-2yHu5qgTzM"),
        ("https://a.org/v?x=1", "https://me:pw@a.org/v?x=1#t", "https://a.org/v?x=1"),
        (f"file:deep er/a:b.mp4:12:{DIGEST}", "/home/me/v/deep er/a:b.mp4", "deep er/a:b.mp4"),
        (f"file:x.tar#m/0.mp4:12:{DIGEST}", "/home/me/x.tar#m/0.mp4", "x.tar#m/0.mp4"),
        (f"file:../videos/a.mp4:1:{DIGEST}", "/data/set/../videos/a.mp4", "../videos/a.mp4"),
        # What tells of this machine: absolute, or so in disguise.
        (f"file:/home/me/a.mp4:1:{DIGEST}", "/home/me/a.mp4", None),
        (f"file:../../home/me/a.mp4:1:{DIGEST}", "/home/me/a.mp4", None),
        (f"file:../me/a.mp4:1:{DIGEST}", "/home/me/a.mp4", None),
        (f"file:../me/a.mp4:1:{DIGEST}", "/Users/me/a.mp4", None),
        ("file:/gone.mp4", "/gone.mp4", None),
        ("acme:17", "/data/17.mp4", None),
    ],
)
def test_the_place_comes_from_the_key_and_is_never_absolute(key, location, expected):
    assert place(key, location) == expected


def test_times_are_rounded_to_the_nearest_millisecond():
    assert clock(0) == "0:00:00.000"
    assert clock(1 / 3) == "0:00:00.333"
    assert clock(59.9996) == "0:01:00.000"
    assert clock(3 * 3600 + 62.5, 2) == "03:01:02.500"
    assert clock(100 * 3600) == "100:00:00.000"


def test_values_are_plain_for_json():
    value = {"a": [1, 0.1, math.nan, (math.inf, True)], "b": b"\x01\xff", "c": None}
    assert plain(value) == {"a": [1, 0.1, None, [None, True]], "b": "01ff", "c": None}


def test_clips_come_by_video_and_time_and_are_counted(local):
    with vidcurate.open(local.out) as run:
        clips = Clips(run, "base", lambda row: None, threading.Event())
        rows = list(clips)
        kept = "SELECT clip_id FROM selection_base WHERE fate = 'kept'"
        assert (
            {r["clip_id"] for r in rows}
            == {r["clip_id"] for r in run.sql(kept).to_pylist()}
            == local.ids()
        )
    assert [(r["video_id"], r["start"]) for r in rows] == sorted(
        (r["video_id"], r["start"]) for r in rows
    )
    assert {r["place"] for r in rows} == {"c d/e.mp4", "deep er/b,ö.mkv"}
    assert (clips.clips, clips.videos, clips.has_files) == (len(rows), 2, True)
    assert not clips.left_out


def test_what_a_format_refuses_is_left_out_of_the_counts(local):
    with vidcurate.open(local.out) as run:
        clips = Clips(run, None, lambda r: "late" if r["start"] > 0.6 else None, threading.Event())
        assert {r["start"] for r in clips} == {0.0, 0.5005, 0.5}
    assert clips.clips == 4
    assert clips.videos == 2
    assert clips.left_out == {"late": len(local.ids()) - 4}


def test_a_stop_ends_the_stream(local):
    stop = threading.Event()
    with vidcurate.open(local.out) as run:
        clips = Clips(run, None, lambda row: None, stop)
        stop.set()
        with pytest.raises(KeyboardInterrupt):
            next(iter(clips))


@pytest.mark.parametrize("form", ["csv", "hf"])
def test_an_export_that_is_stopped_leaves_nothing(local, tmp_path, form):
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        export(local.out, form, to=tmp_path / "set", stop=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_was_selected_and_is_gone_is_counted(local, tmp_path):
    out = shutil.copytree(local.out, tmp_path / "out")
    file = out / "selections" / "base" / "clips.parquet"
    chosen = pq.read_table(file)
    gone = pa.Table.from_pylist([{"clip_id": "0" * 32, "fate": "kept"}], chosen.schema)
    pq.write_table(pa.concat_tables([chosen, gone]), file)
    with vidcurate.open(out) as run:
        clips = Clips(run, "base", lambda row: None, threading.Event())
        assert len(list(clips)) == 8
    assert clips.left_out == {GONE: 1}
