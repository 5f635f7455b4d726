import os
from pathlib import Path

import pytest

from vidcurate import RowFault, UserError, VideoRow
from vidcurate.operators.sources.folder import Folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def relatives(folder: Folder) -> list[str | None]:
    rows = list(folder.videos())
    assert all(isinstance(row, VideoRow) for row in rows), rows
    return [row.relative for row in rows if isinstance(row, VideoRow)]


def test_videos_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a/z.mkv", "a/deep/er/x.webm", "c.mov", "a.avi")
    expected = ["a/deep/er/x.webm", "a/z.mkv", "a.avi", "b.MP4", "c.mov"]
    assert relatives(Folder(path=str(tmp_path))) == expected


def test_run_directories_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "out/run.json", "out/manifests/1.json", "out/media/x.mp4")
    touch(tmp_path, "b/run.json", "b/y.mp4", "manifests/z.mp4")  # no run directories
    assert relatives(Folder(path=str(tmp_path))) == ["a.mp4", "b/y.mp4", "manifests/z.mp4"]


def test_one_file_has_one_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "day/film.mp4")
    rows = list(Folder(path=str(tmp_path / "day")).videos())
    monkeypatch.chdir(tmp_path)
    assert list(Folder(path="day/../day").videos()) == rows


def test_a_row_names_the_file_and_where_it_lies(tmp_path: Path) -> None:
    touch(tmp_path, "day 1/film.mp4")
    path = str(tmp_path / "day 1/film.mp4")
    [row] = Folder(path=str(tmp_path)).videos()
    assert row == VideoRow(path, relative="day 1/film.mp4", dataset_id="day 1/film.mp4")


def test_other_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "film.mp4", "notes.txt", "video", "film.mp4.part", ".film.mp4", ".x/y.mp4")
    assert relatives(Folder(path=str(tmp_path))) == ["film.mp4"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["a/1.mp4", "b/1.mp4"]),
        ("a/*", ["a/1.mp4", "a/2.mkv"]),
        ("[!1].*", ["a/2.mkv"]),
        ("none*", []),
    ],
)
def test_pattern(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "a/1.mp4", "a/2.mkv", "b/1.mp4", "b/1.txt")
    assert relatives(Folder(path=str(tmp_path), pattern=pattern)) == expected


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.mp4")
    touch(tmp_path / "in", "0.mp4")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/me").symlink_to(tmp_path / "in")
    (tmp_path / "in/missing.mp4").symlink_to(tmp_path / "gone.mp4")
    rows = list(Folder(path=str(tmp_path / "in")).videos())
    assert [r.relative if isinstance(r, VideoRow) else r.where for r in rows] == [
        "0.mp4",
        "linked/1.mp4",
        str(tmp_path / "in/me"),
        "missing.mp4",  # acquiring it will fail, as a video
    ]
    assert isinstance(rows[2], RowFault)
    assert "link back" in rows[2].message


def test_an_unreadable_folder_is_a_fault_and_the_rest_goes_on(tmp_path: Path) -> None:
    # Permissions do not stop root; a path beyond PATH_MAX stops everybody.
    touch(tmp_path, "z.mp4")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    fault, row = Folder(path=str(tmp_path)).videos()
    assert isinstance(fault, RowFault)
    assert fault.message == "the folder cannot be read: File name too long"
    assert isinstance(row, VideoRow)
    assert row.relative == "z.mp4"


def test_a_name_that_is_no_utf8_is_a_fault(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))).write_bytes(b"")
    [fault] = Folder(path=str(tmp_path)).videos()
    assert isinstance(fault, RowFault)
    assert "not valid UTF-8" in fault.message
    assert fault.where.encode()


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "film.mp4")
    path = str(tmp_path / "film.mp4")
    [row] = Folder(path=path).videos()
    assert row == VideoRow(path, relative="film.mp4", dataset_id="film.mp4")


def test_a_missing_folder_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone does not exist.*--input"):
        list(Folder(path=str(tmp_path / "gone")).videos())


def test_an_empty_folder_has_no_videos(tmp_path: Path) -> None:
    assert list(Folder(path=str(tmp_path)).videos()) == []
