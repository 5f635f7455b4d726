import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vidcurate
from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.msrvtt import MsrVtt

Packed = Callable[[dict[str, Any], Path], list[dict[str, Any]]]

URL = "https://www.youtube.com/watch?v=9lZi22qLlEo"
VIDEO0 = {
    "category": 9,
    "url": URL,
    "video_id": "video0",
    "start time": 137.72,
    "end time": 149.44,
    "split": "train",
    "id": 0,
}
VIDEO7010 = {
    "category": 18,
    "url": "https://www.youtube.com/watch?v=-EHBmSjpfZA",
    "video_id": "video7010",
    "start time": 10.44,
    "end time": 24.89,
    "split": "test",
    "id": 7010,
}
SENTENCES = [
    {"caption": "a girl and the judges talking", "video_id": "video7010", "sen_id": 140201},
    {"caption": "a car is shown", "video_id": "video0", "sen_id": 2},
    {"caption": "a girl on the voice kids", "video_id": "video7010", "sen_id": 140200},
    {"caption": "a man drives a car", "video_id": "video0", "sen_id": 0},
    {"caption": "a man drives a car", "video_id": "video0", "sen_id": 1},
]
CAPTIONS = {
    "video0": ["a man drives a car", "a man drives a car", "a car is shown"],
    "video7010": ["a girl on the voice kids", "a girl and the judges talking"],
}


def challenge(
    folder: Path, videos: Any = (VIDEO0, VIDEO7010), sentences: Any = SENTENCES, **more: Any
) -> str:
    path = folder / "videodatainfo.json"
    info = {"year": "2016", "version": "1.0", "contributor": "Microsoft"}
    whole = {"info": info, "videos": list(videos), "sentences": list(sentences), **more}
    path.write_text(json.dumps(whole), encoding="utf-8")
    return str(path)


def lines(folder: Path, rows: list[dict[str, Any]], name: str = "train.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def whole_list(folder: Path, rows: Any) -> str:
    path = folder / "msrvtt_test_1k.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def fields(**known: Any) -> dict[str, Any]:
    names = ("captions", "sen_ids", "split", "category", "id", "url", "start_time", "end_time")
    return {"captions": [], "sen_ids": [], **dict.fromkeys(names[2:]), **known}


FIELDS0 = fields(
    captions=CAPTIONS["video0"],
    sen_ids=[0, 1, 2],
    split="train",
    category=9,
    id=0,
    url=URL,
    start_time=137.72,
    end_time=149.44,
)


def test_clips_of_the_challenge_are_intervals_of_youtubes_videos(tmp_path: Path) -> None:
    source = MsrVtt(metadata=challenge(tmp_path))
    first, second = source.videos()
    assert first == VideoRow(
        URL,
        key="youtube:9lZi22qLlEo",
        dataset_id="9lZi22qLlEo",
        clips=(ClipRow(137.72, 149.44, "a man drives a car", FIELDS0, dataset_id="video0"),),
    )
    assert (second.key, second.dataset_id) == ("youtube:-EHBmSjpfZA", "-EHBmSjpfZA")
    [clip] = second.clips
    assert (clip.start, clip.end, clip.dataset_id) == (10.44, 24.89, "video7010")
    assert clip.caption == "a girl on the voice kids"  # of the lower sen_id
    assert clip.fields["captions"] == CAPTIONS["video7010"]
    assert (clip.fields["split"], clip.fields["sen_ids"]) == ("test", [140200, 140201])
    table = pa.Table.from_pylist([dict(FIELDS0), dict(clip.fields)], source.dataset_schema())
    assert table.column("captions").to_pylist() == list(CAPTIONS.values())
    assert table.schema.field("captions").type == pa.list_(pa.string())


def test_sentences_may_stand_before_the_videos_and_the_file_be_packed(tmp_path: Path) -> None:
    path = tmp_path / "test_videodatainfo.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"sentences": SENTENCES, "videos": [VIDEO0]}, file)
    [video] = MsrVtt(metadata=str(path)).videos()
    assert video.clips[0].fields == FIELDS0


def test_two_clips_of_one_video_are_left_to_the_runner_to_bring_together(tmp_path: Path) -> None:
    later = {**VIDEO0, "video_id": "video1", "id": 1, "start time": 150, "end time": 160}
    rows = list(MsrVtt(metadata=challenge(tmp_path, [VIDEO0, later])).videos())
    assert [row.key for row in rows] == ["youtube:9lZi22qLlEo"] * 2
    assert [row.clips[0].dataset_id for row in rows] == ["video0", "video1"]
    assert not MsrVtt.is_grouped
    assert rows[1].clips[0].caption is None  # no sentence is of video1


def test_published_clips_are_whole_files(tmp_path: Path) -> None:
    clips = tmp_path / "all"
    clips.mkdir()
    (clips / "video0.mp4").touch()
    (clips / "video7010.webm").touch()
    rows = list(MsrVtt(metadata=challenge(tmp_path), files=str(clips)).videos())
    assert rows[0] == VideoRow(
        str(clips / "video0.mp4"),
        relative="video0.mp4",
        dataset_id="video0",
        clips=(ClipRow(None, None, "a man drives a car", FIELDS0),),
        fields=FIELDS0,
    )
    assert rows[1].location == str(clips / "video7010.webm")


def test_a_line_a_sentence(tmp_path: Path) -> None:
    rows = [
        {"caption": "a cave in a game", "clip_name": "video2960", "sen_id": 1},
        {"caption": "a man talks", "clip_name": "video12", "sen_id": 20},
        {"caption": "a cartoon animal runs", "clip_name": "video2960", "sen_id": 0},
    ]
    first, second = MsrVtt(metadata=lines(tmp_path, rows), files=str(tmp_path)).videos()
    captions = ["a cartoon animal runs", "a cave in a game"]
    assert first.dataset_id == "video2960"
    assert first.clips[0].caption == captions[0]
    assert first.fields == fields(captions=captions, sen_ids=[0, 1])
    assert (second.dataset_id, second.clips[0].caption) == ("video12", "a man talks")


def test_an_item_a_clip(tmp_path: Path) -> None:
    sentences = [f"sentence {i}" for i in range(20)]
    rows = [
        {"video": "video7010.mp4", "caption": sentences},
        {"video_id": "video7020", "video": "video7020.mp4", "caption": "one", "source": "MSR-VTT",
         "category": 9, "url": URL, "start time": 1.5, "end time": 12.5, "id": 7020},
    ]  # fmt: skip
    first, second = MsrVtt(metadata=whole_list(tmp_path, rows), files=str(tmp_path)).videos()
    assert first.fields == fields(captions=sentences)
    assert first.clips[0].caption == "sentence 0"
    assert first.location == str(tmp_path / "video7010.mp4")
    assert second.fields == fields(
        captions=["one"], category=9, id=7020, url=URL, start_time=1.5, end_time=12.5
    )


def test_the_table_of_a_retrieval_test(tmp_path: Path) -> None:
    path = tmp_path / "MSRVTT_JSFUSION_test.csv"
    text = "key,vid_key,video_id,sentence\n"
    text += "ret0,msr9770,video9770,a person is connecting something to system\n"
    path.write_text(text, encoding="utf-8")
    [video] = MsrVtt(metadata=str(path), files=str(tmp_path)).videos()
    assert video.dataset_id == "video9770"
    assert video.fields == fields(captions=["a person is connecting something to system"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"video_id": "../../etc/passwd"}, "'../../etc/passwd' is no name of a clip"),
        ({"video_id": None}, "None is no name of a clip"),
        ({"start time": 149.44}, "start time (149.44 s) is not before end time (149.44 s)"),
        ({"end time": "soon"}, "end time: 'soon' is not a time"),
        ({"url": "file:///etc/passwd"}, "url: 'file:///etc/passwd' is no http address"),
        ({"url": "https://[x"}, "Invalid IPv6 URL"),
        ({"category": "music"}, "category: 'music' is no whole number"),
        ({"split": 3}, "split: 3 is no text"),
        ({"video_id": "video7010"}, "video7010 is listed twice"),
    ],
)
def test_a_bad_video_is_a_fault_with_its_number(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    metadata = challenge(tmp_path, [VIDEO7010, {**VIDEO0, **changed}], SENTENCES[:1])
    fault, video = MsrVtt(metadata=metadata).videos()
    assert isinstance(fault, RowFault)
    assert fault.where == f"{metadata}:2"
    assert message in fault.message
    assert video.clips[0].dataset_id == "video7010"


def test_a_clip_without_a_url_needs_its_file(tmp_path: Path) -> None:
    metadata = challenge(tmp_path, [{**VIDEO7010, "url": ""}, VIDEO0])
    fault, video = MsrVtt(metadata=metadata).videos()
    assert fault == RowFault(f"{metadata}:1", "video7010: no url", {"video_id": "video7010"})
    assert video.key == "youtube:9lZi22qLlEo"


def test_a_bad_sentence_is_a_fault_and_the_clip_keeps_the_others(tmp_path: Path) -> None:
    bad = [{"caption": 5, "video_id": "video0", "sen_id": 9}, {"caption": "x", "sen_id": 1}]
    metadata = challenge(tmp_path, [VIDEO0], [*SENTENCES, *bad])
    first, second, video = MsrVtt(metadata=metadata).videos()
    text = "sentences: caption: 5 is neither a text nor a list of texts"
    assert (first.where, first.message) == (f"{metadata}:6", text)
    assert second.message.startswith("sentences: None is no name of a clip")
    assert video.clips[0].fields == FIELDS0


def test_a_torn_file_gives_what_stands_before_the_tear(tmp_path: Path) -> None:
    path = Path(challenge(tmp_path))
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.index('"a man drives')], encoding="utf-8")
    *faults, first, second = MsrVtt(metadata=str(path)).videos()
    assert all("from here to the file's end" in fault.message for fault in faults)
    assert [v.clips[0].fields["captions"] for v in (first, second)] == [
        ["a car is shown"],
        CAPTIONS["video7010"],
    ]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ({"annotations": [VIDEO0]}, "holds no list of rows but one JSON object"),
        ([], "lists no clips: neither under `videos` nor as a list"),
        ([{"video": "video7010.mp4", "caption": ["x"]}], "holds no URLs; .* with `files`"),
    ],
)
def test_mistakes_of_the_user(tmp_path: Path, whole: Any, message: str) -> None:
    source = MsrVtt(metadata=whole_list(tmp_path, whole))
    with pytest.raises(UserError, match=message):
        list(source.videos())


def test_a_missing_file_is_told_of_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json is not a metadata file"):
        MsrVtt(metadata=str(tmp_path / "gone.json")).dataset_schema()


def test_rows_become_shards(packed: Packed, tmp_path: Path, footage: Callable[[str], Path]) -> None:
    files = tmp_path / "all"
    files.mkdir()
    shutil.copy(footage("static"), files / "video7010.mp4")
    metadata = challenge(tmp_path, [VIDEO7010])
    [sample] = packed({"msrvtt": {"metadata": metadata, "files": str(files)}}, tmp_path)
    assert sample["dataset_id"] == "video7010"
    assert sample["captions"] == {"source": "a girl on the voice kids"}
    assert sample["split"] in ("train", "val")  # ours; the dataset's is in the table
    with vidcurate.open(tmp_path / "out") as run:
        [row] = run.sql("SELECT source_split, source_captions FROM clips").to_pylist()
    assert row == {"source_split": "test", "source_captions": CAPTIONS["video7010"]}
