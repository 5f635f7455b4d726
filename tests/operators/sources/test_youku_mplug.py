# ruff: noqa: RUF001 -- Chinese text has Chinese commas

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.youku_mplug import YoukuMplug

# The header and a row of each part, as they are published.
PRETRAIN = (
    "video_id:FILE,title\n"
    "videos/pretrain/14111Y1211b-1134b18bAE55bFE7Jbb7135YE3aY54EaB14ba7CbAa1AbACB24527A.flv,"
    "妈妈给宝宝听胎心，看看宝宝是怎么做的，太调皮了\n"
)
CLASSIFICATION = (
    "video_id:FILE,title,label\n"
    "videos/classification/14111B1211bFBCBCJYF48B55b7523C51F3-8b3a5YbCa5817aBb38a5YAC-241F71J.mp4,"
    "兔宝宝刚出生，为什么兔妈妈要把它们吃掉？看完涨见识了,宠物\n"
)
RETRIEVAL = (
    "clip_name:FILE,caption\n"
    "videos/retrieval/14111B1211bA1F31-E-2YB57--C518FCEBC553abJYFa5541a31C8a57522AYJbYF4aTdfofa112"
    ".mp4,身穿黑色上衣戴着头盔的女子在路上骑着摩托车四周还停放了一些车\n"
)
CAPTIONING = (
    "video_id:FILE,golden_caption\n"
    "videos/caption/14111B1211bEJB-1b3b-J3b7b8Y213BJ32-521a1EA8a53-3aBA72aA-4-2-CF1EJ8aTdfofa114"
    ".mp4,\"['穿白色球服的女生高高跳起，接住了球。', '一排穿红色短袖的女生正在接受颁奖。']\"\n"
)


def table(folder: Path, text: str, name: str = "val.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def golden(folder: Path, cell: str) -> YoukuMplug:
    path = folder / "val.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["video_id:FILE", "golden_caption"], ["videos/a.mp4", cell]])
    return YoukuMplug(metadata=str(path))


def one_video(source: YoukuMplug) -> VideoRow:
    [row] = source.videos()
    assert isinstance(row, VideoRow), row
    return row


def one_fault(source: YoukuMplug) -> RowFault:
    [row] = source.videos()
    assert isinstance(row, RowFault), row
    return row


@pytest.mark.parametrize(
    ("text", "caption", "fields"),
    [
        (PRETRAIN, "妈妈给宝宝听胎心，看看宝宝是怎么做的，太调皮了", {}),
        (
            CLASSIFICATION,
            "兔宝宝刚出生，为什么兔妈妈要把它们吃掉？看完涨见识了",
            {"label": "宠物"},
        ),
        (RETRIEVAL, "身穿黑色上衣戴着头盔的女子在路上骑着摩托车四周还停放了一些车", {}),
        (
            CAPTIONING,
            "穿白色球服的女生高高跳起，接住了球。",
            {
                "captions": [
                    "穿白色球服的女生高高跳起，接住了球。",
                    "一排穿红色短袖的女生正在接受颁奖。",
                ]
            },
        ),
    ],
)
def test_a_published_row_of_each_part(
    tmp_path: Path, text: str, caption: str, fields: dict[str, Any]
) -> None:
    source = YoukuMplug(metadata=table(tmp_path, text))
    assert source.dataset_schema().names == list(fields)
    path = text.partition("\n")[2].partition(",")[0]
    assert path.startswith("videos/")
    assert one_video(source) == VideoRow(
        str(tmp_path / path),
        relative=path,
        dataset_id=path,
        clips=(ClipRow(caption=caption, fields=fields),),
        fields=fields,
    )


def test_all_parts_in_one_folder_and_their_videos_elsewhere(tmp_path: Path) -> None:
    for number, text in enumerate((PRETRAIN, CLASSIFICATION, RETRIEVAL, CAPTIONING)):
        table(tmp_path, text, f"{number}.csv")
    table(tmp_path, PRETRAIN, "4.csv")
    (tmp_path / "disk").mkdir()
    source = YoukuMplug(metadata=str(tmp_path), files=str(tmp_path / "disk"))
    assert source.dataset_schema() == pa.schema(
        {"label": pa.string(), "captions": pa.list_(pa.string())}
    )
    videos = [row for row in source.videos() if isinstance(row, VideoRow)]
    # The same video comes up twice; the runner brings its rows together.
    assert YoukuMplug.is_grouped is False
    assert videos[4] == videos[0]
    assert all(v.location == f"{tmp_path}/disk/{v.dataset_id}" for v in videos)
    assert [v.fields["label"] for v in videos] == [None, "宠物", None, None, None]
    assert [len(v.fields["captions"] or []) for v in videos] == [0, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("一只猫在睡觉", ["一只猫在睡觉"]),
        ("[搞笑] 一只猫", ["[搞笑] 一只猫"]),
        ("['a', \"it's b\"]", ["a", "it's b"]),
        ("['', 'b']", ["b"]),
        (r"['a \d']", [r"a \d"]),
        ("[]", None),
        ("", None),
    ],
)
def test_golden_captions(tmp_path: Path, cell: str, captions: list[str] | None) -> None:
    clip = one_video(golden(tmp_path, cell)).clips[0]
    assert clip.fields == {"captions": captions}
    assert clip.caption == (captions[0] if captions else None)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("['a', 'b'", """golden_caption: "['a', 'b'" is not a list as Python writes it"""),
        ("['a', 5]", "golden_caption: ['a', 5] is not a list of texts"),
        (r"['half \ud83d']", "is not a list as Python writes it"),
        ("['a'" + ",[" * 50_000, "is not a list as Python writes it"),
        ("['" + "a" * 2**20 + "']", "1048580 characters, more than 1048576 are not read"),
    ],
)
def test_golden_captions_that_cannot_be_read(tmp_path: Path, cell: str, message: str) -> None:
    fault = one_fault(golden(tmp_path, cell))
    assert fault.where == f"{tmp_path}/val.csv:2"
    assert fault.message.endswith(message)


def test_a_byte_order_mark_names_in_any_case_and_further_columns(tmp_path: Path) -> None:
    text = "\ufeffVideo_ID:file,Title,Label,Split\nvideos/a.mp4,猫,,train\n"
    video = one_video(YoukuMplug(metadata=table(tmp_path, text)))
    assert video.clips == (ClipRow(caption="猫", fields={"label": None, "Split": "train"}),)


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("video_id:FILE,title\na.mp4,妈妈\nb.mp4,plain\n".encode("gb18030"))
    fault, video = YoukuMplug(metadata=str(path)).videos()
    assert isinstance(fault, RowFault)
    assert (fault.where, fault.message) == (f"{path}:2", "not valid UTF-8")
    assert isinstance(video, VideoRow)
    assert video.dataset_id == "b.mp4"


def test_lists_of_parquet(tmp_path: Path) -> None:
    row = {"video_id:FILE": "a.mp4", "golden_caption": ["猫", "狗"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t.parquet")
    video = one_video(YoukuMplug(metadata=str(tmp_path / "t.parquet")))
    assert video.clips == (ClipRow(caption="猫", fields={"captions": ["猫", "狗"]}),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",猫", "no path of a video in this row"),
        ("/etc/passwd,猫", "the path '/etc/passwd' leads out of the folder of the files"),
        ("../a.mp4,猫", "the path '../a.mp4' leads out of the folder of the files"),
        ("videos/../../a.mp4,猫", "leads out of the folder of the files"),
        ("a\0.mp4,猫", "the path 'a\\x00.mp4' leads out of the folder of the files"),
        ("videos/a.mp4,猫,狗", "3 cells where the header has 2"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: str, message: str) -> None:
    path = table(tmp_path, f"video_id:FILE,title\n{row}\n")
    fault = one_fault(YoukuMplug(metadata=path))
    assert fault.where == f"{path}:2"
    assert fault.message.endswith(message)


def test_a_table_and_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    path = table(tmp_path, "id,title\n1,x\n")
    with pytest.raises(UserError, match="no column 'video_id:FILE' or 'clip_name:FILE'; it has: i"):
        YoukuMplug(metadata=path).dataset_schema()
    path = table(tmp_path, PRETRAIN)
    with pytest.raises(UserError, match=r"youku_mplug: .*none is not a folder; `files` names that"):
        list(YoukuMplug(metadata=path, files=str(tmp_path / "none")).videos())
