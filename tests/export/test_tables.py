import csv
import json

from vidcurate.export.write import export
from vidcurate.operators.sources.table import Table

FRONT = [
    "start", "end", "caption", "id", "license", "terms", "channel", "retrieved_at", "sha256",
    "clip_id", "video_id", "source_key", "split", "fingerprints",
]  # fmt: skip


def cells(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {r["clip_id"]: r for r in csv.DictReader(file)}


def test_local_files_give_the_same_ids_beside_the_same_folder(local, again):
    report = export(local.out, "csv", to=local.folder / "videos" / "set.csv")
    assert (report.clips, report.videos, report.left_out) == (8, 2, {})
    back = again(local, {"table": {"path": str(report.path)}})
    assert back.ids() == local.ids()


def test_jsonl_and_parquet_say_what_csv_says(local, web, tmp_path):
    for run in (local, web):
        read = []
        for form in ("csv", "jsonl", "hf"):
            chosen = {"everything": True, "to": tmp_path / f"set.{form}", "force": True}
            path = export(run.out, form, **chosen).path
            if form == "hf":
                path = (path / "data" / "train-00000.parquet").rename(tmp_path / "set.parquet")
            videos = list(Table(path=str(path)).videos())
            read.append([(v.location, v.relative, v.dataset_id, v.rights) for v in videos])
            clips = [c for v in videos for c in v.clips]
            read[-1] += [(c.start, c.end, c.caption) for c in clips]
            assert {c.fields["clip_id"] for c in clips} == run.ids()
        assert read[0] == read[1] == read[2]
        assert len(read[0]) > 4


def test_urls_give_the_same_ids_captions_and_rights(web, again, tmp_path):
    path = export(web.out, "csv", to=tmp_path / "set.csv").path
    back = again(web, {"table": {"path": str(path)}})
    assert back.ids() == web.ids()
    for query in (
        'SELECT clip_id, dataset_id, caption_source, start, "end", score FROM clips '
        "ORDER BY clip_id",
        "SELECT video_id, license, terms FROM videos ORDER BY video_id",
    ):
        assert back.rows(query) == web.rows(query)


def test_csv_holds_every_column_exactly(web, tmp_path):
    rows = cells(export(web.out, "csv", to=tmp_path / "set.csv").path)
    names = list(next(iter(rows.values())))
    assert names[:15] == ["url", *FRONT]
    assert {"page_dir", "score", "brightness_mean", "n_frames", "width", "crop"} <= set(names)
    assert not {"media", "location", "score_status"} & set(names)
    # The dataset's own column `url` is the video's; `id` and the times are in front.
    assert "source_id" in names
    for clip in web.rows("SELECT * FROM clips"):
        row = rows[clip["clip_id"]]
        for name in ("start", "end", "score", "brightness_mean"):
            assert float(row[name]) == clip[name]
        assert int(row["n_frames"]) == clip["n_frames"]
        assert json.loads(row["fingerprints"]) == dict(clip["fingerprints"])
        assert row["split"] in ("train", "val")
    licenses = {r["id"]: r["license"] for r in rows.values()}
    assert licenses == {"100": "CC-BY 4.0 | *free*", "101": "unknown", "102": "unknown"}


def test_captions_keep_every_character(tube, tmp_path):
    rows = cells(export(tube.out, "csv", to=tmp_path / "set.csv").path)
    text = (export(tube.out, "jsonl", to=tmp_path / "set.jsonl").path).read_bytes().decode()
    lines = {(x := json.loads(line))["clip_id"]: x for line in text.split("\n")[:-1]}
    for clip in tube.rows("SELECT clip_id, caption_source FROM clips"):
        assert rows[clip["clip_id"]]["caption"] == (clip["caption_source"] or "")
        assert lines[clip["clip_id"]]["caption"] == clip["caption_source"]
    line = next(iter(lines.values()))
    assert list(line)[:15] == ["url", *FRONT]
    assert line["crop"] is None
    assert isinstance(line["n_frames"], int)


def test_nothing_tells_of_this_machine(local, web, tube, tmp_path):
    for run in (local, web, tube):
        for form in ("csv", "jsonl", "hf"):
            path = export(run.out, form, everything=True, to=tmp_path / f"{form}", force=True).path
            files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
            for file in files:
                assert str(run.folder).encode() not in file.read_bytes()
