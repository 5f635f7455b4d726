from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.webvid import WebVid

URL = "https://ak.picdn.net/shutterstock/videos/1053841541/preview/stock-footage-travel.mp4"
CAPTION = "Travel blogger shoot a story on top of mountains. young man holds camera in forest."
# Rows as they are published: the authors' order of columns, and the common other one.
PUBLISHED = (
    "videoid,name,page_idx,page_dir,duration,contentUrl\n"
    f"1053841541,{CAPTION},27732,027701_027750,PT00H00M17S,{URL}\n"
)
VARIANT = (
    "videoid,contentUrl,duration,page_dir,name\n"
    f"1053841541,{URL},PT00H00M17S,027701_027750,{CAPTION}\n"
)
SHORT = "videoid,name,page_dir,duration,contentUrl\n"


def table(folder: Path, text: str, name: str = "results_2M_val.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def one_video(source: WebVid) -> VideoRow:
    [row] = source.videos()
    assert isinstance(row, VideoRow), row
    return row


def one_fault(source: WebVid) -> RowFault:
    [row] = source.videos()
    assert isinstance(row, RowFault), row
    return row


def test_a_published_row(tmp_path: Path) -> None:
    source = WebVid(metadata=table(tmp_path, PUBLISHED))
    assert source.dataset_schema() == pa.schema(
        {
            "page_idx": pa.string(),
            "page_dir": pa.string(),
            "duration": pa.string(),
            "duration_s": pa.float64(),
            "contentUrl": pa.string(),
        }
    )
    fields = {
        "page_idx": "27732",
        "page_dir": "027701_027750",
        "duration": "PT00H00M17S",
        "duration_s": 17.0,
        "contentUrl": URL,
    }
    assert one_video(source) == VideoRow(
        URL,
        key=URL,
        dataset_id="1053841541",
        clips=(ClipRow(caption=CAPTION, fields=fields),),
        fields=fields,
    )


def test_the_other_order_of_columns_and_names_in_any_case(tmp_path: Path) -> None:
    expected = one_video(WebVid(metadata=table(tmp_path, PUBLISHED)))
    for text in (VARIANT, VARIANT.replace("videoid,contentUrl", "VideoID,contenturl")):
        source = WebVid(metadata=table(tmp_path, text))
        assert source.dataset_schema().names == ["contentUrl", "duration", "duration_s", "page_dir"]
        video = one_video(source)
        assert (video.location, video.dataset_id) == (expected.location, expected.dataset_id)
        assert video.clips[0].caption == CAPTION
        assert video.fields == {k: v for k, v in expected.fields.items() if k != "page_idx"}


def test_files_of_the_users_own_keep_the_id_of_the_url(tmp_path: Path) -> None:
    folder = tmp_path / "videos/027701_027750"
    folder.mkdir(parents=True)
    source = WebVid(metadata=table(tmp_path, PUBLISHED), files=str(tmp_path / "videos"))

    def place() -> str:
        video = one_video(source)
        assert video.key == URL
        assert video.relative is not None
        assert video.location == str(tmp_path / "videos" / video.relative)
        return video.relative

    # Missing: the place where it should be, for the quarantine.
    assert place() == "027701_027750/1053841541.mp4"
    (folder / "1053841541.webm").touch()
    assert place() == "027701_027750/1053841541.webm"
    (folder / "1053841541.mp4").touch()
    assert place() == "027701_027750/1053841541.mp4"


def test_files_without_page_dir_and_a_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "films").mkdir()
    path = table(tmp_path, f"{SHORT}7,x,,PT00H00M01S,{URL}\n")
    video = one_video(WebVid(metadata=path, files="~/films"))
    assert (video.location, video.relative) == (str(tmp_path / "films/7.mp4"), "7.mp4")


@pytest.mark.parametrize("cell", ["", "null", "None", "nan"])
def test_rows_without_a_url(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path, f"{SHORT}7,x,d,{cell},{cell}\n")
    video = one_video(WebVid(metadata=path, files=str(tmp_path)))
    assert (video.key, video.relative) == (None, "d/7.mp4")
    assert video.fields["contentUrl"] is None
    assert video.fields["duration_s"] is None
    fault = one_fault(WebVid(metadata=path))
    assert fault.where == f"{path}:2"
    assert fault.message == "contentUrl: the row has none; `files` names a folder of videos"


def test_a_table_without_urls(tmp_path: Path) -> None:
    path = table(tmp_path, "videoid,name,page_dir\n7,x,d\n")
    assert one_video(WebVid(metadata=path, files=str(tmp_path))).relative == "d/7.mp4"
    with pytest.raises(UserError, match="no column 'contentUrl'; it has: videoid, name, page_dir"):
        list(WebVid(metadata=path).videos())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT00H00M17S", 17.0),
        ("PT01H02M03S", 3723.0),
        ("PT17S", 17.0),
        ("PT1M", 60.0),
        ("pt00h00m08.5s", 8.5),
        ("PT", None),
        ("17", None),
        ("about a minute", None),
    ],
)
def test_durations(tmp_path: Path, text: str, seconds: float | None) -> None:
    video = one_video(WebVid(metadata=table(tmp_path, f"{SHORT}7,x,d,{text},{URL}\n")))
    assert video.fields["duration"] == text
    assert video.fields["duration_s"] == seconds
    assert video.clips[0].fields == video.fields


def test_captions_with_commas_quotes_lines_and_chinese(tmp_path: Path) -> None:
    caption = 'Two "friends",\non a 山 at dawn'
    quoted = caption.replace('"', '""')
    text = f'\ufeff{SHORT}7,"{quoted}",d,,{URL}\n8,,d,,{URL}?8\n'
    first, second = WebVid(metadata=table(tmp_path, text)).videos()
    assert isinstance(first, VideoRow)
    assert isinstance(second, VideoRow)
    assert first.clips[0].caption == caption
    assert second.clips[0].caption is None


def test_a_row_of_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"{SHORT}7,Café,d,,{URL}\n8,tea,d,,{URL}\n".encode("latin-1"))
    fault, video = WebVid(metadata=str(path)).videos()
    assert isinstance(fault, RowFault)
    assert (fault.where, fault.message) == (f"{path}:2", "not valid UTF-8")
    assert isinstance(video, VideoRow)
    assert video.dataset_id == "8"


def test_parquet_and_further_columns(tmp_path: Path) -> None:
    row = {"videoid": 7, "contentUrl": URL, "duration": None, "name": "x", "width": 596}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t.parquet")
    source = WebVid(metadata=str(tmp_path / "t.parquet"))
    assert source.dataset_schema().field("width").type == pa.string()
    video = one_video(source)
    assert video.dataset_id == "7"
    assert video.fields == {
        "contentUrl": URL,
        "duration": None,
        "duration_s": None,
        "width": "596",
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f",x,d,,{URL}", "videoid: the row has none"),
        ("7,x,d,,ftp://h/a.mp4", "contentUrl: 'ftp://h/a.mp4' is not an http(s) URL"),
        ("7,x,d,,/etc/passwd", "contentUrl: '/etc/passwd' is not an http(s) URL"),
        ("7,x,d,,http://[1/a", "contentUrl: 'http://[1/a' is not a URL: Invalid IPv6 URL"),
        (f"../7,x,d,,{URL}", "page_dir and videoid: 'd/../7' leads out of the folder"),
        (f"7,x,/etc,,{URL}", "page_dir and videoid: '/etc/7' leads out of the folder"),
        (f"7,x,..,,{URL}", "page_dir and videoid: '../7' leads out of the folder"),
        (f"7\0,x,d,,{URL}", "page_dir and videoid: 'd/7\\x00' leads out of the folder"),
        (f"7,x,d,{URL}", "4 cells where the header has 5"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: str, message: str) -> None:
    path = table(tmp_path, f"{SHORT}{row}\n")
    fault = one_fault(WebVid(metadata=path, files=str(tmp_path)))
    assert (fault.where, fault.message) == (f"{path}:2", message)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    path = table(tmp_path, f"{SHORT}{'7' * 300},x,d,,{URL}\n")
    (tmp_path / "d").mkdir()
    fault = one_fault(WebVid(metadata=path, files=str(tmp_path)))
    assert fault.message.endswith("File name too long")


def test_a_table_and_a_folder_that_are_not_there(tmp_path: Path) -> None:
    path = table(tmp_path, "id,url\n7,x\n")
    with pytest.raises(UserError, match="no column 'videoid'; it has: id, url"):
        WebVid(metadata=path).dataset_schema()
    path = table(tmp_path, PUBLISHED)
    with pytest.raises(UserError, match=r"webvid: .*none is not a folder; `files` names that of"):
        list(WebVid(metadata=path, files=str(tmp_path / "none")).videos())
