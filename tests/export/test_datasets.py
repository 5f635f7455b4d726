"""The formats of datasets: as published, and read back to the same clip ids."""

import ast
import csv
import json
from datetime import datetime
from pathlib import Path

import pytest

from vidcurate.errors import UserError
from vidcurate.export.write import export
from vidcurate.operators.sources.webvid import WebVid

IDS = ["-2yHu5qgTzM", "k_ZXmr8pmrs"]


def cells(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mirrored(tube, source, path):
    files = {f"youtube:{i}": str(tube.folder / "videos" / f"{n}.mp4") for n, i in enumerate(IDS)}
    return {"mirrored": {"source": source, "metadata": str(path), "files": json.dumps(files)}}


# --------------------------------------------------------------------------- panda70m


def test_panda70m_has_the_published_form(tube, tmp_path):
    report = export(tube.out, "panda70m", to=tmp_path / "p.csv")
    assert (report.clips, report.videos, report.left_out) == (54, 2, {})
    rows = cells(tmp_path / "p.csv")
    assert list(rows[0]) == [
        "videoID", "url", "timestamp", "caption", "matching_score", "desirable_filtering",
        "shot_boundary_detection",
    ]  # fmt: skip
    assert {r["videoID"]: r["url"] for r in rows} == {
        i: f"https://www.youtube.com/watch?v={i}" for i in IDS
    }
    ntsc = next(r for r in rows if r["videoID"] == IDS[0])
    # Frames 0, 3, 6 ... of 29.97 fps, 11 frames each.
    assert ntsc["timestamp"].startswith(
        "[['0:00:00.000', '0:00:00.367'], ['0:00:00.100', '0:00:00.467'], ['0:00:00.200', "
    )
    lists = {name: ast.literal_eval(text) for name, text in ntsc.items() if "[" in text}
    assert {len(value) for value in lists.values()} == {27}
    assert lists["caption"][:4] == [
        "It's a \"test\"\\n", "=SUM(A1)|<b>x</b>", "", "我们\r走\n吧, `ok`",
    ]  # fmt: skip
    assert lists["matching_score"][:3] == [0.1, 3.1, 6.1]
    assert set(lists["desirable_filtering"]) == {"desirable"}
    assert lists["shot_boundary_detection"][1] == [["0:00:00.000", "0:00:00.367"]]


def test_panda70m_is_read_by_the_datasets_own_downloader(tube, tmp_path):
    """It splits each cell as Python, times by strptime with %f, and encodes each caption."""
    export(tube.out, "panda70m", to=tmp_path / "p.csv")
    for row in cells(tmp_path / "p.csv"):
        for start, end in ast.literal_eval(row["timestamp"]):
            low, high = (datetime.strptime(t, "%H:%M:%S.%f") for t in (start, end))
            assert low < high
        assert all(isinstance(text, str) for text in ast.literal_eval(row["caption"]))


def test_panda70m_gives_the_same_ids_at_29_97_and_60_fps(tube, again, tmp_path):
    export(tube.out, "panda70m", to=tmp_path / "p.csv")
    back = again(tube, mirrored(tube, "panda70m", tmp_path / "p.csv"))
    assert back.ids() == tube.ids()
    query = "SELECT clip_id, caption_source, matching_score FROM clips ORDER BY clip_id"
    assert back.rows(query) == tube.rows(query)


def test_panda70m_cannot_name_local_files(local, tmp_path):
    with pytest.raises(UserError, match=r"no clip to export as panda70m; 8 left out: local files"):
        export(local.out, "panda70m", to=tmp_path / "p.csv")
    assert list(tmp_path.iterdir()) == []


def test_panda70m_of_a_run_without_its_scores_and_of_other_hosts(web, tmp_path):
    export(web.out, "panda70m", to=tmp_path / "p.csv")
    row = next(r for r in cells(tmp_path / "p.csv") if r["videoID"] == "102")
    assert row["url"].endswith("/2.mp4")
    assert row["timestamp"] == "[['0:00:00.200', '0:00:00.600'], ['0:00:00.600', '0:00:01.200']]"
    assert row["caption"] == "['part', 'other']"
    assert row["matching_score"] == row["desirable_filtering"] == "[None, None]"


# --------------------------------------------------------------------------- internvid


def test_internvid_has_its_six_keys(tube, tmp_path):
    report = export(tube.out, "internvid", to=tmp_path / "i.jsonl")
    assert report.clips == 54
    lines = [json.loads(x) for x in (tmp_path / "i.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert len(lines) == 54
    found = next(x for x in lines if x["YoutubeID"] == IDS[1] and x["UMT_Score"] == 3 / 7)
    assert found == {
        "YoutubeID": IDS[1],
        "Start_timestamp": "00:00:00.050",
        "End_timestamp": "00:00:00.233",
        "Caption": "=SUM(A1)|<b>x</b>",
        "UMT_Score": 3 / 7,
        "Aesthetic_Score": None,
    }


def test_internvid_gives_the_same_ids_at_29_97_and_60_fps(tube, again, tmp_path):
    export(tube.out, "internvid", to=tmp_path / "i.jsonl")
    back = again(tube, mirrored(tube, "internvid", tmp_path / "i.jsonl"))
    assert back.ids() == tube.ids()
    query = "SELECT clip_id, caption_source, UMT_Score FROM clips ORDER BY clip_id"
    assert back.rows(query) == tube.rows(query)


def test_internvid_leaves_other_hosts_out(web):
    with pytest.raises(UserError, match="no clip to export as internvid; 4 left out: not of YouT"):
        export(web.out, "internvid")
    assert not list((web.out / "exports").glob("*intern*"))


# --------------------------------------------------------------------------- webvid


def test_webvid_holds_whole_videos_only(web, tmp_path):
    report = export(web.out, "webvid", to=tmp_path / "w.csv")
    assert (report.clips, report.videos) == (2, 2)
    assert report.left_out == {
        "clips that are a part of their video: WebVid's rows are whole videos": 2
    }
    rows = sorted(cells(tmp_path / "w.csv"), key=lambda r: r["videoid"])
    assert list(rows[0]) == ["videoid", "name", "page_idx", "page_dir", "duration", "contentUrl"]
    first, second = (r.pop("contentUrl") for r in rows)
    assert first.endswith("/0.mp4")
    assert second.endswith("/1.mp4?a=b")
    row = {"name": "zero", "page_idx": "", "page_dir": "0_9", "duration": "PT00H00M01S"}
    assert rows[0] == {"videoid": "100"} | row
    assert rows[1] == {"videoid": "101"} | row | {"name": ""}


def test_webvid_gives_the_same_ids(web, again, tmp_path):
    path = export(web.out, "webvid", to=tmp_path / "w.csv").path
    back = again(web, {"webvid": {"metadata": str(path)}})
    assert back.ids() == web.ids("dataset_id IN ('100', '101')")
    assert len(back.ids()) == 2
    query = "SELECT dataset_id, caption_source, page_dir FROM clips ORDER BY ALL"
    assert back.rows(query) == web.rows(query)[:2]


def test_webvid_names_local_files_by_folder_and_id(local, again, tmp_path):
    whole = again(local, {"folder": {"path": str(local.folder / "videos")}})
    report = export(whole.out, "webvid", to=tmp_path / "w.csv")
    assert report.clips == 1
    assert list(report.left_out.values()) == [1]  # the .mkv
    (row,) = cells(report.path)
    assert (row["videoid"], row["page_dir"], row["contentUrl"]) == ("e", "c d", "")
    # Same file, same path below the folder: the same key, and so the same ids.
    (video,) = WebVid(metadata=str(report.path), files=str(local.folder / "videos")).videos()
    assert (video.key, video.relative) == (None, "c d/e.mp4")
    assert Path(video.location).samefile(local.folder / "videos" / "c d" / "e.mp4")
