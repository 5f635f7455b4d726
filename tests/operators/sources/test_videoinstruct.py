import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vidcurate
from vidcurate import RowFault, UserError, VideoRow
from vidcurate.operators.sources.videoinstruct import VideoInstruct

Packed = Callable[[dict[str, Any], Path], list[dict[str, Any]]]

ACTIVITIES = {
    "q": "What are the main activities that take place in the video?",
    "a": "The main activities are the preparation of camera equipment by a man, and a man sailing "
    "a boat through the water.",
    "video_id": "v_k_ZXmr8pmrs",
}
OTHER = {"q": "Who dances?", "a": "A girl.", "video_id": "v_-0r0HEwAYiQ"}
AGAIN = {
    "q": "Where are they?",
    "a": "In a helicopter, über dem Meer.",
    "video_id": "v_k_ZXmr8pmrs",
}


def published(folder: Path, items: list[Any]) -> str:
    path = folder / "VideoInstruct100K.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return str(path)


def qa(*items: dict[str, str]) -> dict[str, Any]:
    return {"qa": [{"q": item["q"], "a": item["a"]} for item in items]}


def test_the_pairs_of_a_video_are_brought_together_in_order(tmp_path: Path) -> None:
    source = VideoInstruct(metadata=published(tmp_path, [ACTIVITIES, OTHER, AGAIN]))
    rows = list(source.videos())
    assert rows == [
        VideoRow(
            "https://www.youtube.com/watch?v=k_ZXmr8pmrs",
            key="youtube:k_ZXmr8pmrs",
            dataset_id="v_k_ZXmr8pmrs",
            fields=qa(ACTIVITIES, AGAIN),
        ),
        VideoRow(
            "https://www.youtube.com/watch?v=-0r0HEwAYiQ",  # an id may begin with a dash
            key="youtube:-0r0HEwAYiQ",
            dataset_id="v_-0r0HEwAYiQ",
            fields=qa(OTHER),
        ),
    ]
    schema = source.dataset_schema()
    table = pa.Table.from_pylist([dict(row.fields) for row in rows], schema)
    assert table.to_pylist() == [qa(ACTIVITIES, AGAIN), qa(OTHER)]


def test_files_of_several_containers(tmp_path: Path) -> None:
    folder = tmp_path / "activitynet"
    folder.mkdir()
    (folder / "v_k_ZXmr8pmrs.webm").touch()
    metadata = published(tmp_path, [ACTIVITIES, OTHER])
    webm, missing = VideoInstruct(metadata=metadata, files=str(folder)).videos()
    assert webm == VideoRow(
        str(folder / "v_k_ZXmr8pmrs.webm"),
        relative="v_k_ZXmr8pmrs.webm",
        dataset_id="v_k_ZXmr8pmrs",
        fields=qa(ACTIVITIES),
    )
    # The runner tells of a file that is not there.
    assert missing.location == str(folder / "v_-0r0HEwAYiQ.mp4")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"q": "q", "a": "a", "video_id": "k_ZXmr8pmrs"}, "video_id: 'k_ZXmr8pmrs' is not v_ and"),
        ({"q": "q", "a": "a", "video_id": "v_../../etc/pw"}, "video_id: 'v_../../etc/pw' is not"),
        ({"q": "q", "a": "a", "video_id": 7}, "video_id: 7 is no text"),
        ({"q": "q", "a": "a"}, "video_id: missing"),
        ({"q": "q", "video_id": "v_k_ZXmr8pmrs"}, "a: missing"),
        ({"q": " ", "a": "a", "video_id": "v_k_ZXmr8pmrs"}, "q: ' ' is no text"),
        (["q"], "not a JSON object"),
    ],
)
def test_a_bad_item_is_a_fault_with_its_number(tmp_path: Path, item: Any, message: str) -> None:
    metadata = published(tmp_path, [ACTIVITIES, item, AGAIN])
    fault, video = VideoInstruct(metadata=metadata).videos()
    assert isinstance(fault, RowFault)
    assert fault.where == f"{metadata}:2"
    assert message in fault.message
    assert video.fields == qa(ACTIVITIES, AGAIN)


def test_a_torn_file_gives_what_stands_before_the_tear(tmp_path: Path) -> None:
    metadata = published(tmp_path, [ACTIVITIES, OTHER])
    text = Path(metadata).read_text(encoding="utf-8")
    Path(metadata).write_text(text[:-20], encoding="utf-8")
    fault, video = VideoInstruct(metadata=metadata).videos()
    assert (fault.where, video.fields) == (f"{metadata}:2", qa(ACTIVITIES))
    assert "not readable as JSON from here to the file's end" in fault.message


def test_several_files_are_one_set(tmp_path: Path) -> None:
    for name, item in (("1.jsonl", ACTIVITIES), ("2.jsonl", AGAIN)):
        (tmp_path / name).write_text(json.dumps(item) + "\n", encoding="utf-8")
    [video] = VideoInstruct(metadata=str(tmp_path)).videos()
    assert video.fields == qa(ACTIVITIES, AGAIN)


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    source = VideoInstruct(metadata=str(tmp_path / "gone.json"))
    with pytest.raises(UserError, match=r"gone\.json is not a metadata file"):
        source.dataset_schema()
    with pytest.raises(UserError, match=r"gone\.json is not a metadata file"):
        list(source.videos())


def test_rows_become_shards(packed: Packed, tmp_path: Path, footage: Callable[[str], Path]) -> None:
    files = tmp_path / "activitynet"
    files.mkdir()
    shutil.copy(footage("static"), files / "v_k_ZXmr8pmrs.mp4")
    metadata = published(tmp_path, [ACTIVITIES, AGAIN])
    [sample] = packed({"videoinstruct": {"metadata": metadata, "files": str(files)}}, tmp_path)
    assert (sample["dataset_id"], sample["start"]) == ("v_k_ZXmr8pmrs", 0.0)
    with vidcurate.open(tmp_path / "out") as run:
        assert run.sql("SELECT qa FROM clips").to_pylist() == [qa(ACTIVITIES, AGAIN)]
