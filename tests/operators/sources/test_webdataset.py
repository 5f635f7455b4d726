import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vidcurate
from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.acquire.archive import extract, member
from vidcurate.operators.sources.webdataset import Webdataset
from vidcurate.recipe.load import parse
from vidcurate.run import passes
from vidcurate.run.score import score
from vidcurate.shards.writer import TarWriter

Members = Sequence[tuple[str, Any]]


def tar(path: Path, members: Members) -> Path:
    """A tar of (name, content); a dict becomes JSON, a TarInfo stands for itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = json.dumps(content).encode() if isinstance(content, dict) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(source: Webdataset) -> tuple[list[VideoRow], list[RowFault]]:
    rows = list(source.videos())
    videos = [row for row in rows if isinstance(row, VideoRow)]
    return videos, [row for row in rows if isinstance(row, RowFault)]


# As video2dataset writes them: the video, the caption, what is known; a failure has no video.
V2D = [
    ("00000_000.mp4", b"video 0"),
    ("00000_000.txt", "a dog, 一只狗".encode()),
    (
        "00000_000.json",
        {
            "url": "https://x.org/a.mp4",
            "caption": "a dog, 一只狗",
            "key": "00000_000",
            "status": "success",
            "error_message": None,
            "aesthetic": 5,
            "clips": [[0.5, 2.0]],
            "license": "CC-BY-4.0",
        },
    ),
    ("00000_001.txt", b""),
    (
        "00000_001.json",
        {"key": "00000_001", "status": "failed_to_download", "error_message": "HTTP 404"},
    ),
    ("00000_002.webm", b"video 2"),
    ("00000_002.json", {"key": "00000_002", "status": "success", "aesthetic": 4.5}),
]


def test_a_shard_of_video2dataset(tmp_path: Path) -> None:
    path = tar(tmp_path / "00000.tar", V2D)
    source = Webdataset(path=str(tmp_path))
    assert source.dataset_schema() == pa.schema(
        {
            "url": pa.string(),
            "caption": pa.string(),
            "key": pa.string(),
            "status": pa.string(),
            "error_message": pa.string(),
            "aesthetic": pa.float64(),
            "clips": pa.string(),
        }
    )
    (first, last), [fault] = read(source)
    fields = {
        "url": "https://x.org/a.mp4",
        "caption": "a dog, 一只狗",
        "key": "00000_000",
        "status": "success",
        "error_message": None,
        "aesthetic": 5.0,
        "clips": "[[0.5, 2.0]]",
    }
    assert first == VideoRow(
        f"{path}#00000_000.mp4",
        relative="00000.tar#00000_000.mp4",
        dataset_id="00000_000",
        clips=(ClipRow(None, None, "a dog, 一只狗", fields),),
        fields=fields,
        rights={"license": "CC-BY-4.0"},
    )
    assert (last.location, last.clips[0].caption) == (f"{path}#00000_002.webm", None)
    assert last.fields["aesthetic"] == 4.5
    assert fault.where == f"{path}#00000_001"
    assert fault.message == "a sample without a video (failed_to_download: HTTP 404)"


def test_the_location_leads_to_the_bytes(tmp_path: Path, footage: Callable[[str], Path]) -> None:
    video = footage("cuts").read_bytes()
    tar(tmp_path / "day #1" / "a.tar", [("s/0.txt", b"x"), ("s/0.mp4", video)])
    [row], faults = read(Webdataset(path=str(tmp_path)))
    assert faults == []
    assert (row.relative, row.dataset_id) == ("day #1/a.tar#s/0.mp4", "s/0")
    found = member(row.location)
    assert found is not None
    extract(*found, tmp_path / "out.mp4", max_size=len(video))
    assert (tmp_path / "out.mp4").read_bytes() == video


def own_shards(folder: Path) -> dict[str, Any]:
    """A folder as pack leaves it, and the JSON of its one sample."""
    about = {
        "clip_id": "ab" * 16,
        "start": 1.5,
        "scores": {"motion_p95": 0.75},
        "rights": {"license": "CC0", "terms": "unknown", "sha256": "00"},
        "crop": None,
    }
    (folder / "480p_16x9_49").mkdir(parents=True)
    name = "480p_16x9_49/000-00000.tar"
    with TarWriter(folder / name) as writer:
        writer.add(f"{'ab' * 16}.mp4", b"video")
        writer.add(f"{'ab' * 16}.json", json.dumps(about).encode())
        writer.add(f"{'ab' * 16}.txt", b"")
    (folder / "index.json").write_text(json.dumps({"shards": [{"path": name}]}))
    return about


def test_shards_of_an_earlier_run(tmp_path: Path) -> None:
    own_shards(tmp_path)
    tar(tmp_path / "480p_16x9_49" / "left-over.tar", [("c.mp4", b"of a pack that was cut off")])
    [row], faults = read(Webdataset(path=str(tmp_path)))
    assert faults == []
    assert row.relative == f"480p_16x9_49/000-00000.tar#{'ab' * 16}.mp4"
    assert row.fields == {
        "clip_id": "ab" * 16,
        "start": 1.5,
        "scores": '{"motion_p95": 0.75}',
        "rights": '{"license": "CC0", "terms": "unknown", "sha256": "00"}',
        "crop": None,
    }
    assert row.clips == (ClipRow(fields=row.fields),)
    assert row.rights == {"license": "CC0"}  # sha256 is of the video that the clip is from


def test_an_index_that_names_a_missing_or_outer_tar_is_not_believed(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "a.tar", [("a.mp4", b"")])
    tar(tmp_path / "b.tar", [("b.mp4", b"")])
    for named in ("gone.tar", "../b.tar"):
        index = {"shards": [{"path": named}]}
        (tmp_path / "in" / "index.json").write_text(json.dumps(index))
        videos, _ = read(Webdataset(path=str(tmp_path / "in")))
        assert [v.relative for v in videos] == ["a.tar#a.mp4"]


def test_text_members_are_columns_and_binary_ones_are_not(tmp_path: Path) -> None:
    members: Members = [
        ("0.mp4", b"v"),
        ("0.srt", b"1\n"),
        ("0.npy", b"\x93NUMPY\0"),
        ("0.m4a", b"\xff\xf1"),
        ("0.left.mp4", b"w"),
        ("1.MP4", b"v"),
        ("1.srt", b"\xff"),
    ]
    tar(tmp_path / "a.tar", members[:5])
    source = Webdataset(path=str(tmp_path))
    assert source.dataset_schema() == pa.schema({"srt": pa.string()})
    videos, faults = read(source)
    assert faults == []
    assert [(v.relative, v.fields) for v in videos] == [
        ("a.tar#0.mp4", {"srt": "1\n"}),
        ("a.tar#0.left.mp4", {"srt": "1\n"}),
    ]
    tar(tmp_path / "a.tar", members)
    assert Webdataset(path=str(tmp_path)).dataset_schema() == pa.schema([])


def test_which_tars_and_in_which_order(tmp_path: Path) -> None:
    for name in ("b.tar", "a/c.tar", ".hidden/d.tar", "a/x.txt"):
        tar(tmp_path / name, [("0.mp4", b"")])
    videos, _ = read(Webdataset(path=str(tmp_path)))
    assert [v.relative for v in videos] == ["a/c.tar#0.mp4", "b.tar#0.mp4"]
    videos, _ = read(Webdataset(path=str(tmp_path / "*.tar")))
    assert [v.relative for v in videos] == ["b.tar#0.mp4"]
    videos, _ = read(Webdataset(path=str(tmp_path / "a/c.tar")))
    assert [v.relative for v in videos] == ["c.tar#0.mp4"]


def special(name: str, kind: bytes, link: str = "") -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return name, info


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("/etc/0.mp4", b"x"), "leads out of the tar"),
        (("a/../../0.mp4", b"x"), "leads out of the tar"),
        (("..\\0.mp4", b"x"), "leads out of the tar"),
        (special("0.mp4", tarfile.SYMTYPE, "/etc/passwd"), "not a regular file"),
        (special("0.mp4", tarfile.LNKTYPE, "ok.mp4"), "not a regular file"),
        (special("0.mp4", tarfile.CHRTYPE), "not a regular file"),
        (("caf\udce9.mp4", b"x"), "name is not valid UTF-8"),
    ],
)
def test_hostile_members_are_left_out(tmp_path: Path, bad: Any, message: str) -> None:
    path = tar(tmp_path / "a.tar", [("ok.mp4", b"1"), bad, ("ok2.mp4", b"2")])
    videos, [fault] = read(Webdataset(path=str(path)))
    assert [v.dataset_id for v in videos] == ["ok", "ok2"]
    assert message in fault.message
    assert fault.where.startswith(f"{path}#")


def test_members_that_are_no_samples_are_passed_over(tmp_path: Path) -> None:
    members = [("__index__/0.json", b"x"), ("._a.mp4", b"mac"), ("README", b""), ("a.mp4", b"")]
    path = tar(tmp_path / "a.tar", [special("folder", tarfile.DIRTYPE), *members])
    videos, faults = read(Webdataset(path=str(path)))
    assert ([v.dataset_id for v in videos], faults) == (["a"], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{broken", "the .json cannot be read"),
        (b"[1]", "the .json is not a JSON object"),
        (b'{"a": "\xff"}', "the .json is not valid UTF-8"),
        (b'{"a": "\\ud83d"}', "half a character"),
        (b"[" * 100_000, "the .json cannot be read"),
        (b'{"score": "high"}', "score: 'high' is no int64"),
    ],
)
def test_a_sample_with_a_broken_json(tmp_path: Path, text: bytes, message: str) -> None:
    n = 1000 if b"high" in text else 2  # types are told from 1,000 samples
    members: Members = [
        *(m for i in range(n) for m in ((f"{i}.mp4", b""), (f"{i}.json", {"score": i}))),
        ("bad.mp4", b""),
        ("bad.json", text),
        ("last.mp4", b""),
    ]
    path = tar(tmp_path / "a.tar", members)
    videos, [fault] = read(Webdataset(path=str(path)))
    assert [v.dataset_id for v in videos[-2:]] == [f"{n - 1}", "last"]
    assert fault.where == f"{path}#bad"
    assert message in fault.message


def test_types_of_the_user(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("0.mp4", b""), ("0.json", {"score": 1})])
    source = Webdataset(path=str(tmp_path), types={"score": "string"})
    assert read(source)[0][0].fields == {"score": "1"}
    with pytest.raises(UserError, match=r"no column 'scroe' \(types\); it has: score"):
        Webdataset(path=str(tmp_path), types={"scroe": "string"}).dataset_schema()


def test_members_that_stand_apart_or_come_twice(tmp_path: Path) -> None:
    members = [("a.mp4", b"1"), ("a.mp4", b"2"), ("b.mp4", b""), ("a.txt", b"late")]
    path = tar(tmp_path / "a.tar", members)
    videos, faults = read(Webdataset(path=str(path)))
    assert [(v.dataset_id, v.clips[0].caption) for v in videos] == [("a", None), ("b", None)]
    assert [(f.where, f.message) for f in faults] == [
        (f"{path}#a.mp4", "the tar holds this name twice"),
        (f"{path}#a.txt", "its key stood before other keys already"),
    ]


def test_a_tar_that_is_cut_short(tmp_path: Path) -> None:
    samples = [(f"{i}.{s}", b"x" * 600) for i in range(3) for s in ("mp4", "txt")]
    tar(tmp_path / "b.tar", [("9.mp4", b"")])
    path = tar(tmp_path / "a.tar", samples)
    whole = path.read_bytes()
    # A member is a header and two blocks, 1536 bytes: 2.mp4 begins at 6144, 2.txt at 7680.
    path.write_bytes(whole[:7000])
    videos, [fault] = read(Webdataset(path=str(tmp_path)))
    assert [v.dataset_id for v in videos] == ["0", "1", "9"]
    assert fault.where == str(path)
    assert "cut short in '2.mp4', which has 600 bytes" in fault.message
    path.write_bytes(whole[:8500])
    videos, [fault] = read(Webdataset(path=str(tmp_path)))
    assert [v.dataset_id for v in videos] == ["0", "1", "9"]
    assert fault.message.endswith("the sample '2' may lack members: left out")


def test_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"<html>" * 500)
    videos, [fault] = read(Webdataset(path=str(tmp_path)))
    assert videos == []
    assert "not a readable plain tar" in fault.message


def test_no_tar_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.tar", tmp_path / "no/*.tar"):
        with pytest.raises(UserError, match="no folder or pattern with tars; set the source's"):
            list(Webdataset(path=str(path)).videos())


def test_a_run_over_tars(
    tmp_path: Path, footage: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDCURATE_CACHE", str(tmp_path / "cache"))
    static = footage("static").read_bytes()
    members = [
        ("0.mp4", static),
        ("0.txt", "一只狗".encode()),
        ("0.json", {"score": 0.5, "clip_id": "theirs"}),
        ("1.mp4", b"no video"),
        ("2.json", {"status": "failed_to_download"}),
    ]
    tar(tmp_path / "in" / "a.tar", members)
    source = {"webdataset": {"path": str(tmp_path / "in")}}
    raw = {"source": source, "score": ["technical"], "output": str(tmp_path / "out")}
    recipe = parse(json.dumps(raw))
    with passes.session(recipe, recipe.output) as work:
        score(work.lease, recipe)
    with vidcurate.open(tmp_path / "out") as run:
        [clip] = run.sql(
            "SELECT dataset_id, n_frames, caption_source, score, source_clip_id FROM clips"
        ).to_pylist()
        faults = run.sql("SELECT stage, error FROM quarantine ORDER BY stage").to_pylist()
    assert clip == {
        "dataset_id": "0",
        "n_frames": 72,  # 3 s at 24 fps
        "caption_source": "一只狗",
        "score": 0.5,
        "source_clip_id": "theirs",  # ours has the name
    }
    assert faults == [
        {"stage": "decode", "error": "RefusedMediaError"},
        {"stage": "source", "error": "RowError"},
    ]
