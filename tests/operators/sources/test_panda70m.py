import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.panda70m import Panda70m

SEVEN = ["videoID", "url", "timestamp", "caption", "matching_score", "desirable_filtering"]
SEVEN.append("shot_boundary_detection")

# A row as it is published, to the letter.
PUBLISHED = (
    "videoID,url,timestamp,caption,matching_score,desirable_filtering,shot_boundary_detection\n"
    "-2yHu5qgTzM,https://www.youtube.com/watch?v=-2yHu5qgTzM,\"[['0:01:20.880', '0:01:23.983'], "
    "['0:02:31.151', '0:02:34.320'], ['0:03:28.841', '0:03:33.680']]\",\"['A neuron in a black "
    "background.', 'A woman is standing on a black background and talking to the camera.', "
    "'There is a whiteboard with equations on it, and a man and a woman are standing in front of "
    'it.\']","[0.451416015625, 0.4990234375, 0.434814453125]","[\'1_still_foreground_image\', '
    "'desirable', 'desirable']\",\"[[['0:00:00.000', '0:00:03.069']], [['0:00:00.000', "
    "'0:00:03.169']], [['0:00:00.000', '0:00:02.702'], ['0:00:02.736', '0:00:04.838']]]\"\n"
)
URL = "https://www.youtube.com/watch?v=abcdefghijk"


def published(folder: Path) -> str:
    path = folder / "panda70m_testing.csv"
    path.write_text(PUBLISHED, encoding="utf-8")
    return str(path)


def cells(**changed: Any) -> dict[str, str]:
    """A row of two clips of 10 to 20 and 30 to 40 seconds; None leaves a column's cell empty."""
    row: dict[str, Any] = {
        "videoID": "abcdefghijk",
        "url": URL,
        "timestamp": [["0:00:10.000", "0:00:20.000"], ["0:00:30.000", "0:00:40.000"]],
        "caption": ["first", "second"],
        "matching_score": [0.5, 0.25],
        "desirable_filtering": ["desirable", "0_low_desirable_score"],
        "shot_boundary_detection": [
            [["0:00:00.000", "0:00:09.960"]],
            [["0:00:00.000", "0:00:03.000"], ["0:00:03.040", "0:00:09.960"]],
        ],
        **changed,
    }
    return {
        name: "" if value is None else value if isinstance(value, str) else repr(value)
        for name, value in row.items()
    }


def table(folder: Path, *rows: dict[str, str], name: str = "panda.csv") -> str:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def read(source: Panda70m) -> tuple[list[VideoRow], list[RowFault]]:
    rows = list(source.videos())
    videos = [row for row in rows if isinstance(row, VideoRow)]
    return videos, [row for row in rows if isinstance(row, RowFault)]


def one_video(source: Panda70m) -> VideoRow:
    [video], faults = read(source)
    assert faults == []
    return video


def test_a_published_row(tmp_path: Path) -> None:
    source = Panda70m(metadata=published(tmp_path))
    assert source.dataset_schema() == pa.schema(
        {
            "videoID": pa.string(),
            "url": pa.string(),
            "matching_score": pa.float64(),
            "desirable_filtering": pa.string(),
            "shot_boundary_detection": pa.list_(pa.list_(pa.float64())),
        }
    )
    url = "https://www.youtube.com/watch?v=-2yHu5qgTzM"
    assert one_video(source) == VideoRow(
        url,
        key="youtube:-2yHu5qgTzM",
        dataset_id="-2yHu5qgTzM",
        fields={"videoID": "-2yHu5qgTzM", "url": url},
        clips=(
            ClipRow(
                80.88,
                83.983,
                "A neuron in a black background.",
                {
                    "matching_score": 0.451416015625,
                    "desirable_filtering": "1_still_foreground_image",
                    "shot_boundary_detection": [[0.0, 3.069]],
                },
                dataset_id="-2yHu5qgTzM_0",
            ),
            ClipRow(
                151.151,
                154.32,
                "A woman is standing on a black background and talking to the camera.",
                {
                    "matching_score": 0.4990234375,
                    "desirable_filtering": "desirable",
                    "shot_boundary_detection": [[0.0, 3.169]],
                },
                dataset_id="-2yHu5qgTzM_1",
            ),
            ClipRow(
                208.841,
                213.68,
                "There is a whiteboard with equations on it, and a man and a woman are standing "
                "in front of it.",
                {
                    "matching_score": 0.434814453125,
                    "desirable_filtering": "desirable",
                    "shot_boundary_detection": [[0.0, 2.702], [2.736, 4.838]],
                },
                dataset_id="-2yHu5qgTzM_2",
            ),
        ),
    )


def test_the_longest_shot_of_each_clip(tmp_path: Path) -> None:
    video = one_video(Panda70m(metadata=published(tmp_path), shots="longest"))
    # A clip of one shot keeps its times; of 2.702 s and 2.102 s the first is the longer.
    assert [(c.start, c.end, c.dataset_id) for c in video.clips] == [
        (80.88, 83.983, "-2yHu5qgTzM_0"),
        (151.151, 154.32, "-2yHu5qgTzM_1"),
        (208.841, 211.543, "-2yHu5qgTzM_2"),
    ]
    assert video.clips[2].fields["shot_boundary_detection"] == [[0.0, 2.702], [2.736, 4.838]]


def test_each_shot_a_clip(tmp_path: Path) -> None:
    video = one_video(Panda70m(metadata=published(tmp_path), shots="all"))
    assert [(c.start, c.end, c.dataset_id) for c in video.clips] == [
        (80.88, 83.983, "-2yHu5qgTzM_0"),
        (151.151, 154.32, "-2yHu5qgTzM_1"),
        (208.841, 211.543, "-2yHu5qgTzM_2_0"),
        (211.577, 213.679, "-2yHu5qgTzM_2_1"),
    ]
    assert video.clips[2].caption == video.clips[3].caption
    assert video.clips[2].fields == video.clips[3].fields


def test_shots_stay_inside_their_clip_and_those_of_one_frame_are_left_out(tmp_path: Path) -> None:
    shots = [
        [["0:00:00.000", "0:00:04.000"], ["0:00:04.040", "0:00:04.040"], ["0:00:05.0", "0:00:11"]],
        [["0:00:02.000", "0:00:02.000"], ["0:00:12.000", "0:00:13.000"]],
    ]
    path = table(tmp_path, cells(shot_boundary_detection=shots))
    [video], [fault] = read(Panda70m(metadata=path, shots="all"))
    assert [(c.start, c.end) for c in video.clips] == [(10.0, 14.0), (15.0, 20.0)]
    assert fault.where == f"{path}:2 clip 1"
    assert fault.message == (
        "shot_boundary_detection: none of its shots has two frames inside the clip"
    )
    assert len(one_video(Panda70m(metadata=path)).clips) == 2


def test_clips_without_known_shots_stay_as_they_are(tmp_path: Path) -> None:
    path = table(tmp_path, cells(shot_boundary_detection=[[], None]))
    for shots in ("longest", "all"):
        video = one_video(Panda70m(metadata=path, shots=shots))
        assert [(c.start, c.end) for c in video.clips] == [(10.0, 20.0), (30.0, 40.0)]
    assert [c.fields["shot_boundary_detection"] for c in video.clips] == [[], None]


def test_the_five_columns_of_the_older_files(tmp_path: Path) -> None:
    row = cells()
    path = table(tmp_path, {name: row[name] for name in SEVEN[:5]})
    source = Panda70m(metadata=path)
    assert source.dataset_schema().names == ["videoID", "url", "matching_score"]
    assert [c.fields for c in one_video(source).clips] == [
        {"matching_score": 0.5},
        {"matching_score": 0.25},
    ]
    with pytest.raises(UserError, match=r"no column 'shot_boundary_detection'; .*shots: ignore"):
        Panda70m(metadata=path, shots="longest").dataset_schema()


def test_older_and_newer_files_in_one_folder(tmp_path: Path) -> None:
    row = cells(videoID="lmnopqrstuv", url="https://youtu.be/lmnopqrstuv")
    table(tmp_path, {name: row[name] for name in SEVEN[:5]}, name="a.csv")
    table(tmp_path, cells(), name="b.csv")
    source = Panda70m(metadata=str(tmp_path))
    assert source.dataset_schema().names == ["videoID", "url", *SEVEN[4:]]
    videos, faults = read(source)
    assert faults == []
    assert [v.key for v in videos] == ["youtube:lmnopqrstuv", "youtube:abcdefghijk"]


def test_names_in_any_case_and_further_columns(tmp_path: Path) -> None:
    row = {name.upper(): cell for name, cell in cells().items()} | {"Split": "train"}
    source = Panda70m(metadata=table(tmp_path, row))
    assert source.dataset_schema().names == ["videoID", "url", *SEVEN[4:], "Split"]
    video = one_video(source)
    assert video.fields == {"videoID": "abcdefghijk", "url": URL, "Split": "train"}
    assert [c.caption for c in video.clips] == ["first", "second"]


def test_a_bare_pair_where_a_clip_has_one_shot(tmp_path: Path) -> None:
    pair = ["0:00:00.000", "0:00:09.960"]
    rows = [
        cells(shot_boundary_detection=[pair, [pair]]),
        cells(
            videoID="lmnopqrstuv",
            url=None,
            timestamp=["0:00:10.000", "0:00:20.000"],
            caption=["one"],
            matching_score=[0.5],
            desirable_filtering=["desirable"],
            shot_boundary_detection=pair,
        ),
    ]
    videos, faults = read(Panda70m(metadata=table(tmp_path, *rows)))
    assert faults == []
    assert [[c.fields["shot_boundary_detection"] for c in v.clips] for v in videos] == [
        [[[0.0, 9.96]], [[0.0, 9.96]]],
        [[[0.0, 9.96]]],
    ]


def test_the_url_is_made_of_the_id_where_it_is_missing(tmp_path: Path) -> None:
    video = one_video(Panda70m(metadata=table(tmp_path, cells(videoID="-_cdefghijk", url=None))))
    assert video.location == "https://www.youtube.com/watch?v=-_cdefghijk"
    assert (video.key, video.dataset_id) == ("youtube:-_cdefghijk", "-_cdefghijk")
    assert video.clips[0].dataset_id == "-_cdefghijk_0"
    row = cells()
    del row["videoID"]
    video = one_video(Panda70m(metadata=table(tmp_path, row)))
    assert (video.location, video.dataset_id) == (URL, "abcdefghijk")


def test_a_url_of_another_host(tmp_path: Path) -> None:
    row = cells(videoID="v1", url="HTTP://Example.org:80/v1.mp4#t=1".replace("HTTP", "http"))
    video = one_video(Panda70m(metadata=table(tmp_path, row)))
    assert (video.key, video.dataset_id) == ("http://example.org/v1.mp4", "v1")


def test_captions_with_quotes_backslashes_and_chinese(tmp_path: Path) -> None:
    captions = ['it\'s "quoted", a \\ and [brackets]', "一个女人在说话"]
    video = one_video(Panda70m(metadata=table(tmp_path, cells(caption=captions))))
    assert [c.caption for c in video.clips] == captions
    # An escape that Python does not know is kept, without a warning.
    video = one_video(Panda70m(metadata=table(tmp_path, cells(caption="['a \\d', 'b']"))))
    assert [c.caption for c in video.clips] == ["a \\d", "b"]


def test_lists_of_parquet(tmp_path: Path) -> None:
    row = {
        "videoID": "abcdefghijk",
        "url": None,
        "timestamp": [["0:00:10.000", "0:00:20.000"]],
        "caption": ["first"],
        "matching_score": [0.5],
        "shot_boundary_detection": [[["0:00:00.000", "0:00:09.960"]]],
    }
    schema = pa.schema({"url": pa.string()})
    data = pa.Table.from_pylist([row])
    data = data.set_column(1, schema.field("url"), pa.nulls(1, pa.string()))
    pq.write_table(data, tmp_path / "panda.parquet")
    video = one_video(Panda70m(metadata=str(tmp_path / "panda.parquet")))
    assert video.clips == (
        ClipRow(
            10.0,
            20.0,
            "first",
            {"matching_score": 0.5, "shot_boundary_detection": [[0.0, 9.96]]},
            dataset_id="abcdefghijk_0",
        ),
    )


def test_overlapping_clips_are_kept(tmp_path: Path) -> None:
    times = [["0:00:10.000", "0:00:20.000"], ["0:00:15.000", "0:00:25.000"]]
    video = one_video(Panda70m(metadata=table(tmp_path, cells(timestamp=times))))
    assert [(c.start, c.end) for c in video.clips] == [(10.0, 20.0), (15.0, 25.0)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caption": ["one"]}, "the lists differ in length: timestamp 2, caption 1, "),
        ({"shot_boundary_detection": [[]] * 3}, "shot_boundary_detection 3"),
        ({"timestamp": []}, "timestamp: it names no clips"),
        ({"timestamp": None}, "timestamp: it names no clips"),
        ({"timestamp": "[['0:01', '0:0"}, "is not a list as Python writes it"),
        ({"timestamp": "__import__('os').getcwd()"}, "is not a list as Python writes it"),
        ({"caption": r"['half \ud83d']"}, "is not a list as Python writes it"),
        ({"timestamp": "[" * 100_000}, "is not a list as Python writes it"),
        ({"timestamp": "-" * 200_000 + "1"}, "is not a list as Python writes it"),
        ({"caption": "['" + "a" * 2**20 + "', 'b']"}, "characters, more than 1048576 are not read"),
        ({"caption": "a dog runs"}, "caption: 'a dog runs' is not a list as Python writes it"),
        ({"matching_score": "0.5"}, "matching_score: '0.5' is not a list"),
        ({"url": None, "videoID": "abc"}, "no url, and videoID 'abc' is not a video's id"),
        ({"url": None, "videoID": None}, "no url, and videoID None is not a video's id"),
        ({"url": "file:///etc/passwd"}, "url: 'file:///etc/passwd' is not an http(s) URL"),
        ({"url": "https://host:port/a"}, "is not a URL: Port could not be cast"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    good = cells(videoID="lmnopqrstuv", url=None)
    path = table(tmp_path, cells(**changed), good)
    [video], [fault] = read(Panda70m(metadata=path))
    assert video.dataset_id == "lmnopqrstuv"
    assert fault.where == f"{path}:2"
    assert message in fault.message
    assert len(fault.message) < 300
    assert len(str(fault.payload)) < 5_000


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"timestamp": [["0:00:20.000", "0:00:10.000"], ["0:00:30.000", "0:00:40.000"]]},
            "start (20 s) is not before end (10 s)",
        ),
        (
            {"timestamp": [["soon", "0:00:10.000"], ["0:00:30.000", "0:00:40.000"]]},
            "timestamp: 'soon' is not a time; write seconds or HH:MM:SS.mmm",
        ),
        (
            {"timestamp": [["0:00:10.000"], ["0:00:30.000", "0:00:40.000"]]},
            "timestamp: ['0:00:10.000'] is not a start and an end",
        ),
        ({"caption": [5, "second"]}, "caption: 5 is not a text"),
        ({"matching_score": ["high", 0.25]}, "matching_score: 'high' is not a number"),
        ({"matching_score": [True, 0.25]}, "matching_score: True is not a number"),
        (
            {"shot_boundary_detection": [[["0:00:03.000", "0:00:01.000"]], []]},
            "shot_boundary_detection: start (3 s) is after end (1 s)",
        ),
        ({"shot_boundary_detection": [7, []]}, "shot_boundary_detection: 7 is not a list of shots"),
    ],
)
def test_a_wrong_clip_goes_alone(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = table(tmp_path, cells(**changed))
    [video], [fault] = read(Panda70m(metadata=path))
    assert [(c.start, c.end, c.dataset_id) for c in video.clips] == [(30.0, 40.0, "abcdefghijk_1")]
    assert fault.where == f"{path}:2 clip 0"
    assert fault.message == message
    assert fault.payload["videoID"] == "abcdefghijk"


def test_a_clip_that_stands_there_twice(tmp_path: Path) -> None:
    path = table(tmp_path, cells(timestamp=[["0:00:10.000", "0:00:20"], ["0:00:10", "20.0"]]))
    [video], [fault] = read(Panda70m(metadata=path))
    assert [c.caption for c in video.clips] == ["first"]
    assert (fault.where, fault.message) == (
        f"{path}:2 clip 1",
        "repeats the times of clip 0 of this row",
    )


def test_a_video_of_wrong_clips_only_is_left_out(tmp_path: Path) -> None:
    times = [["0:00:20", "0:00:10"], ["0:00:40", "0:00:30"]]
    videos, faults = read(Panda70m(metadata=table(tmp_path, cells(timestamp=times))))
    assert videos == []
    assert len({fault.where for fault in faults}) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "caption": "x"}, "has no column 'videoID'; it must have that or the column"),
        ({"url": URL, "caption": "x"}, "has no column 'timestamp'; is it a file of Panda-70M"),
    ],
)
def test_files_of_something_else(tmp_path: Path, row: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(Panda70m(metadata=table(tmp_path, row)).videos())


def test_the_sources_own_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"panda70m: .*none\.csv is not a metadata file"):
        list(Panda70m(metadata=str(tmp_path / "none.csv")).videos())
