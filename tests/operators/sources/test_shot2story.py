import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vidcurate
from vidcurate import ClipRow, RowFault, UserError
from vidcurate.operators.sources.shot2story import Shot2Story

Packed = Callable[[dict[str, Any], Path], list[dict[str, Any]]]

STORY = "MVq8Q9tKdfU.23"


def story(name: str = STORY, ends: Any = ((0, 78), (79, 485), (486, 531)), **changed: Any) -> Any:
    """An item as the release has them; `ends` are the numbers in the shots' names."""
    return {
        "video": f"{name}.mp4",
        "image_id": f"{name}.mp4",
        "id": 7,
        "whole_caption": "A man opens a box. Then he shows what is in it.",
        "whole_ASR": "hello and welcome so this is it",
        "nvid": f"{name}.mp4",
        "video_names": [f"{name}_{first}_{last}.mp4" for first, last in ends],
        "audio_captions": [f"narration {i}" for i in range(len(ends))],
        "captions": [f"caption {i}" for i in range(len(ends))],
        "ASR": [f"speech {i}" for i in range(len(ends))],
        **changed,
    }


def published(folder: Path, *stories: Any) -> str:
    path = folder / "20k_train.json"
    path.write_text(json.dumps(stories), encoding="utf-8")
    return str(path)


def meta_file(folder: Path, *lines: str) -> str:
    path = folder / "20k_meta.csv"
    head = "clip_id,categories,duration,youtube_id"
    given = lines or (
        "LEwayCpIk20.78,['Film & Animation'],\"['00:12:10.470', '00:12:23.490']\",LEwayCpIk20",
        f"{STORY},['Howto & Style'],\"['00:03:34.849', '00:03:55.979']\",MVq8Q9tKdfU",
    )
    path.write_text("\n".join([head, *given]) + "\n", encoding="utf-8")
    return str(path)


def test_shots_of_a_youtube_video_count_frames_from_the_storys_start(tmp_path: Path) -> None:
    source = Shot2Story(metadata=published(tmp_path, story()), meta=meta_file(tmp_path))
    [video] = source.videos()
    assert video.location == "https://www.youtube.com/watch?v=MVq8Q9tKdfU"
    assert (video.key, video.dataset_id) == ("youtube:MVq8Q9tKdfU", "MVq8Q9tKdfU")
    assert video.fields == {}  # other stories of the same video have others
    assert video.clips[1] == ClipRow(
        start=214.849,
        end=None,
        caption="caption 1",
        frames=(79, 486),
        dataset_id=f"{STORY}_79_485",
        fields={
            "story_id": STORY,
            "id": "7",
            "image_id": f"{STORY}.mp4",
            "nvid": f"{STORY}.mp4",
            "caption_whole": "A man opens a box. Then he shows what is in it.",
            "whole_asr": "hello and welcome so this is it",
            "n_shots": 3,
            "story_start": 214.849,
            "story_end": 235.979,
            "categories": ["Howto & Style"],
            "shot_index": 1,
            "shot_name": f"{STORY}_79_485.mp4",
            "first_frame": 79,
            "end_frame": 486,
            "caption_audio": "narration 1",
            "asr": "speech 1",
        },
    )
    assert [clip.start for clip in video.clips] == [214.849] * 3
    table = pa.Table.from_pylist([dict(c.fields) for c in video.clips], source.dataset_schema())
    assert table.column("shot_index").to_pylist() == [0, 1, 2]
    assert table.column_names == list(video.clips[0].fields)
    assert not Shot2Story.is_grouped


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        # The last frame of a shot is its own where the next shot begins right after it.
        (((0, 78), (79, 485), (486, 531)), [(0, 79), (79, 486), (486, 531)]),
        # Names whose end is already the next shot's first frame.
        (((0, 79), (79, 486)), [(0, 79), (79, 486)]),
        # A gradual transition lies between; what is named last may be part of it.
        (((0, 78), (90, 120)), [(0, 78), (90, 120)]),
        # A shot of one frame, and a list that is not in order of time.
        (((6, 40), (5, 5), (0, 4)), [(6, 40), (5, 6), (0, 5)]),
    ],
)
def test_the_end_in_a_name_is_read_by_its_neighbours(
    tmp_path: Path, names: Any, frames: list[tuple[int, int]]
) -> None:
    metadata = published(tmp_path, story(ends=names))
    [video] = Shot2Story(metadata=metadata, files=str(tmp_path)).videos()
    assert [clip.frames for clip in video.clips] == frames
    assert [(c.fields["first_frame"], c.fields["end_frame"]) for c in video.clips] == frames


def test_rows_become_shards_shot_by_shot(
    packed: Packed,
    tmp_path: Path,
    footage: Callable[[str], Path],
    truth: Callable[[str], dict[str, Any]],
) -> None:
    known = truth("cuts")
    starts = [0, *known["cuts"]]
    names = [(a, b - 1) for a, b in zip(starts, [*known["cuts"], known["frames"]], strict=True)]
    shutil.copy(footage("cuts"), tmp_path / f"{STORY}.mp4")
    metadata = published(tmp_path, story(ends=names))
    [video] = Shot2Story(metadata=metadata, files=str(tmp_path)).videos()
    assert (video.location, video.relative) == (str(tmp_path / f"{STORY}.mp4"), f"{STORY}.mp4")
    assert (video.dataset_id, video.fields["n_shots"]) == (STORY, 4)
    samples = packed({"shot2story": {"metadata": metadata, "files": str(tmp_path)}}, tmp_path)
    # Each shot has all its frames, but the film's last one.
    lengths = [50, 61, 47, 230 - 158 - 1]
    assert [(round(s["start"] * 24), s["n_frames"]) for s in samples] == [
        *zip(starts, lengths, strict=True)
    ]
    whole = "A man opens a box. Then he shows what is in it."
    assert [s["captions"] for s in samples] == [
        {"source": f"caption {i}", "audio": f"narration {i}", "whole": whole} for i in range(4)
    ]
    with vidcurate.open(tmp_path / "out") as run:
        query = "SELECT story_id, shot_index, shot_name FROM clips ORDER BY start"
        rows = run.sql(query).to_pylist()
    assert rows == [
        {"story_id": STORY, "shot_index": i, "shot_name": f"{STORY}_{a}_{b}.mp4"}
        for i, (a, b) in enumerate(names)
    ]


def test_lists_that_a_story_has_not_are_null(tmp_path: Path) -> None:
    bare = story(captions=[], audio_captions=None, whole_ASR=None)
    del bare["ASR"]
    [video] = Shot2Story(metadata=published(tmp_path, bare), files=str(tmp_path)).videos()
    for clip in video.clips:
        assert clip.caption is None
        assert clip.fields["caption_audio"] is clip.fields["asr"] is None
        assert clip.fields["whole_asr"] is clip.fields["story_start"] is None


def test_a_shot_without_narration_keeps_its_empty_text(tmp_path: Path) -> None:
    told = story(audio_captions=["", "he says hello", ""], captions=["", "b", "c"])
    [video] = Shot2Story(metadata=published(tmp_path, told), files=str(tmp_path)).videos()
    assert [c.fields["caption_audio"] for c in video.clips] == ["", "he says hello", ""]
    assert [c.caption for c in video.clips] == [None, "b", "c"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            story(captions=["a", "b"], ASR="abc"),
            "3 video_names, but 2 captions, 3 audio_captions, no list of ASR",
        ),
        (story(captions=["a", 2, "c"]), "captions: 2 is no text"),
        (story(video_names=[]), f"video_names: {STORY} has no shots"),
        (story(video_names=[f"{STORY}.mp4"] * 3), f"'{STORY}.mp4' is not {STORY}_<first>_<end>"),
        (story(video_names=[f"../{STORY}_0_9.mp4"] * 3), f"'../{STORY}_0_9.mp4' is not {STORY}_"),
        (story(video_names=["LEwayCpIk20.78_0_9.mp4"] * 3), f"78_0_9.mp4' is not {STORY}_"),
        (story(ends=[(0, 9), (20, 20), (30, 40)]), f"'{STORY}_20_20.mp4' holds no frame"),
        (story(ends=[(0, 9), (20, 10), (30, 40)]), f"'{STORY}_20_10.mp4' holds no frame"),
        (story(ends=[(0, 9), (0, 9), (30, 40)]), f"{STORY} names a shot twice"),
        (story(name="../../etc/passwd"), "'../../etc/passwd' is no name of a story"),
        ({"qa": "what?"}, "None is no name of a story"),
        (story(name="LEwayCpIk21.78"), "the meta file has no row of LEwayCpIk21.78"),
    ],
)
def test_a_bad_story_is_a_fault_with_its_number(tmp_path: Path, item: Any, message: str) -> None:
    good = story(name="LEwayCpIk20.78")
    metadata = published(tmp_path, good, item, story())
    first, fault, last = Shot2Story(metadata=metadata, meta=meta_file(tmp_path)).videos()
    assert isinstance(fault, RowFault)
    assert fault.where == f"{metadata}:2"
    assert message in fault.message
    assert [v.dataset_id for v in (first, last)] == ["LEwayCpIk20", "MVq8Q9tKdfU"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("\"['00:03:55.979', '00:03:34.849']\"", "'00:03:55.979' is not before '00:03:34.849'"),
        ("\"['00:03:55.979']\"", "duration: 1 times where two are meant"),
        ("\"['soon', '00:03:34']\"", "'soon' is not a time"),
        ("__import__('os')", "duration: \"__import__('os')\" is no list of texts"),
        ("[1", "duration: '[1' is no list of texts"),
        (r"['half \ud83d']", "is no list of texts"),
        ("[" * 5000, "is no list of texts"),
    ],
)
def test_a_bad_row_of_the_meta_file_is_a_fault_with_its_line(
    tmp_path: Path, cell: str, message: str
) -> None:
    meta = meta_file(tmp_path, f"{STORY},['Music'],{cell},MVq8Q9tKdfU")
    broken, lost = Shot2Story(metadata=published(tmp_path, story()), meta=meta).videos()
    assert broken.where == f"{meta}:2"
    assert message in broken.message
    assert lost.message == f"the meta file has no row of {STORY}"


def test_the_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "20k_split_info.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    source = Shot2Story(metadata=str(tmp_path / "20k_split_info.pkl"), files=str(tmp_path))
    for act in (source.dataset_schema, lambda: list(source.videos())):
        with pytest.raises(UserError, match="is a pickle, and reading one can run any code"):
            act()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "`files`, or, to take the videos from YouTube, its 20k_meta.csv"),
        ({"meta": "gone.csv"}, r"gone\.csv is not a metadata file"),
    ],
)
def test_mistakes_of_the_user(tmp_path: Path, parameters: dict[str, str], message: str) -> None:
    source = Shot2Story(metadata=published(tmp_path, story()), **parameters)
    with pytest.raises(UserError, match=message):
        source.dataset_schema()
