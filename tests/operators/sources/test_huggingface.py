import gc
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.huggingface import Huggingface

# `datasets` leaves a videofolder's metadata.csv open until it is collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Those warnings come in the test that they belong to."""
    yield
    gc.collect()


URL = "https://www.youtube.com/watch?v=-2yHu5qgTzM"


def read(source: Huggingface) -> tuple[list[VideoRow], list[RowFault]]:
    rows = list(source.videos())
    videos = [row for row in rows if isinstance(row, VideoRow)]
    return videos, [row for row in rows if isinstance(row, RowFault)]


def test_a_folder_of_csv_files(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(
        f"url,start,end,caption,score,tag,license\n{URL},1.5,3,一只狗,0.5,007x,CC0\n"
        f"{URL},3,4.5,,,b,CC0\nclips/a.mp4,,,x,2,c,\n",
        encoding="utf-8",
    )
    source = Huggingface(dataset=str(tmp_path))
    assert not source.is_grouped
    assert source.dataset_schema() == pa.schema({"score": pa.float64(), "tag": pa.string()})
    videos, faults = read(source)
    assert faults == []
    assert videos == [
        VideoRow(
            URL,
            clips=(
                ClipRow(1.5, 3.0, "一只狗", {"score": 0.5, "tag": "007x"}),
                ClipRow(3.0, 4.5, None, {"score": None, "tag": "b"}),
            ),
            rights={"license": "CC0"},
        ),
        VideoRow(
            str(tmp_path / "clips/a.mp4"),
            relative="clips/a.mp4",
            clips=(ClipRow(None, None, "x", {"score": 2.0, "tag": "c"}),),
            fields={"score": 2.0, "tag": "c"},
        ),
    ]


def test_parquet_keeps_its_types_and_leaves_bytes_out(tmp_path: Path) -> None:
    schema = pa.schema(
        {
            "video": pa.string(),
            "tags": pa.list_(pa.string()),
            "score": pa.float32(),
            "thumbnail": pa.binary(),
            "frames": pa.list_(pa.struct({"jpg": pa.binary()})),
            "nothing": pa.null(),
        }
    )
    rows = [["a.mp4"], [["x", "y"]], [0.5], [b"\x00"], [[{"jpg": b"\x00"}]], [None]]
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "train.parquet")
    source = Huggingface(dataset=str(tmp_path), base="https://x.org/videos/")
    assert source.dataset_schema() == pa.schema(
        {"tags": pa.list_(pa.string()), "score": pa.float32(), "nothing": pa.string()}
    )
    [video], faults = read(source)
    assert faults == []
    assert video.location == "https://x.org/videos/a.mp4"
    assert video.fields == {"tags": ["x", "y"], "score": 0.5, "nothing": None}


def test_a_folder_of_videos_with_labels_is_not_decoded(tmp_path: Path) -> None:
    for name in ("cat/a.mp4", "dog/b.mp4"):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_bytes(b"no video at all")
    source = Huggingface(dataset=str(tmp_path))
    assert source.dataset_schema() == pa.schema({"label": pa.string()})
    videos, faults = read(source)
    assert faults == []
    assert [(v.location, v.relative, v.fields) for v in videos] == [
        (str(tmp_path / "train/cat/a.mp4"), "train/cat/a.mp4", {"label": "cat"}),
        (str(tmp_path / "train/dog/b.mp4"), "train/dog/b.mp4", {"label": "dog"}),
    ]


def test_a_folder_of_videos_with_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,a dog\n")
    [video], faults = read(Huggingface(dataset=str(tmp_path), caption="text"))
    assert faults == []
    assert (video.relative, video.clips) == ("a.mp4", (ClipRow(None, None, "a dog"),))


def test_bytes_in_the_row_go_to_the_quarantine_with_the_remedy(tmp_path: Path) -> None:
    video = pa.array(
        [
            {"bytes": b"\x00\x01", "path": "a.mp4"},
            {"bytes": None, "path": "b.mp4"},
            {"bytes": None, "path": "zip://c.mp4::/data/all.zip"},
            None,
        ]
    )
    table = pa.table({"video": video, "caption": ["a", "b", "c", "d"], "views": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "train.parquet")
    [row], faults = read(Huggingface(dataset=str(tmp_path)))
    assert row.relative == "b.mp4"
    assert [f.where for f in faults] == [f"{tmp_path} [train]:{n}" for n in (1, 3, 4)]
    assert "bytes stand in the row" in faults[0].message
    assert faults[0].payload == {"caption": "a", "views": 1}
    assert "stands in an archive" in faults[1].message
    assert faults[2].message == "no path or URL of a video in this row"


def test_splits_and_a_malformed_block(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"url": "https://x.org/a.mp4", "n": 1}\n')
    lines = ['{"url": "https://x.org/b.mp4", "n": 2}', "{broken"]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    [video], faults = read(Huggingface(dataset=str(tmp_path)))
    assert (video.location, video.fields, faults) == ("https://x.org/a.mp4", {"n": 1}, [])
    videos, [fault] = read(Huggingface(dataset=str(tmp_path), split="test"))
    assert (videos, fault.where) == ([], f"{tmp_path} [test]:1")
    assert "not readable from here on: JSON parse error" in fault.message
    [video], [fault] = read(Huggingface(dataset=str(tmp_path), file="test.jsonl"))
    assert video.location == "https://x.org/b.mp4"
    assert fault.where == f"{tmp_path}/test.jsonl:2"


def test_a_break_in_the_middle_is_a_fault_after_the_rows_before_it(tmp_path: Path) -> None:
    rows = "https://x.org/a.mp4,1\n" * 20_000
    (tmp_path / "train.csv").write_text(f"url,n\n{rows}x,y,z\n")
    videos, faults = read(Huggingface(dataset=str(tmp_path)))
    assert len(videos) == 1
    assert faults[-1].where == f"{tmp_path} [train]:20001"
    assert "not readable from here on: Error tokenizing data" in faults[-1].message
    assert "named with `file` is read row by row" in faults[-1].message
    assert {f.message for f in faults[:-1]} == {"repeats the clip of line 1"}


def test_one_file_is_read_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "a.csv").write_text("clip,score\nx.mp4,007\n")
    for source in (
        Huggingface(dataset=str(tmp_path), file="meta/a.csv", column="clip", base="/data"),
        Huggingface(dataset=str(tmp_path / "meta/a.csv"), column="clip", base="/data"),
    ):
        assert source.dataset_schema() == pa.schema({"score": pa.string()})
        [video], faults = read(source)
        assert (video.location, video.fields, faults) == ("/data/x.mp4", {"score": "007"}, [])


PANDA = {
    "videoID": "-2yHu5qgTzM",
    "url": URL,
    "timestamp": "[['0:01:20.880', '0:01:23.983']]",
    "caption": "['A neuron in a black background.']",
    "matching_score": "[0.45]",
}


def test_one_file_is_read_by_an_adapter(tmp_path: Path) -> None:
    cells = ",".join(f'"{value}"' for value in PANDA.values())
    (tmp_path / "panda.csv").write_text(",".join(PANDA) + "\n" + cells + "\n")
    source = Huggingface(dataset=str(tmp_path), file="panda.csv", adapter="panda70m")
    [video], faults = read(source)
    assert faults == []
    assert video.dataset_id == "-2yHu5qgTzM"
    assert [(c.start, c.caption) for c in video.clips] == [
        (80.88, "A neuron in a black background.")
    ]
    assert "matching_score" in source.dataset_schema().names
    # The folder itself, where the adapter takes one.
    assert read(Huggingface(dataset=str(tmp_path), adapter="panda70m")) == ([video], [])


def test_an_adapter_that_needs_grouping_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    source = Huggingface(dataset=str(tmp_path), file="a.jsonl", adapter="internvid")
    assert not source.is_grouped


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"split": "test"}, r"cannot be had: Bad split: test. Available splits: \['train'\]"),
        ({"config": "big"}, "BuilderConfig 'big' not found"),
        ({"column": "ulr"}, r"\[train\] has no column 'ulr' \(column\); did you mean 'url'"),
        ({"file": "gone.csv"}, "has no file 'gone.csv'"),
        ({"file": "a.csv", "adapter": "panda"}, "unknown source 'panda'"),
        (
            {"file": "a.csv", "adapter": "panda70m", "options": {"shot": "all"}},
            "huggingface: options of 'panda70m': shot: Extra inputs are not permitted",
        ),
    ],
)
def test_mistakes_of_the_user(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    (tmp_path / "a.csv").write_text("url\nhttps://x.org/a.mp4\n")
    with pytest.raises(UserError, match=message):
        list(Huggingface(dataset=str(tmp_path), **parameters).videos())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"options": {"shots": "all"}}, "options are those of an adapter"),
        ({"adapter": "panda70m", "column": "x"}, "with an adapter, column is one of its options"),
        ({"adapter": "panda70m", "options": {"where": {}}}, "where belongs to the source itself"),
    ],
)
def test_parameters_that_do_not_go_together(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Huggingface(dataset="a/b", **parameters)


def test_a_missing_local_copy_is_not_asked_of_the_hub() -> None:
    with pytest.raises(UserError, match="/no/such does not exist; set the source's dataset"):
        Huggingface(dataset="/no/such").dataset_schema()


# ------------------------------------------------------------------ the hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library's own offline mode: it refuses at once what a dead network refuses late."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


COMMIT = "a" * 40
FILES = {
    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: meta/*.jsonl\n---\n",
    "meta/a.jsonl": b'{"video": "clips/a.mp4", "n": 1}\n{"video": "https://x.org/b.mp4", "n": 2}\n',
}


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to `datasets` and `huggingface_hub` when they read me/set."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/datasets/me/set/resolve/"):
            content = FILES.get(path.split("/", 6)[6])
        elif path == f"/api/datasets/me/set/revision/{COMMIT}":
            content = json.dumps({"id": "me/set", "sha": COMMIT, "siblings": []}).encode()
        elif path.startswith(f"/api/datasets/me/set/tree/{COMMIT}"):
            folder = path.partition(COMMIT)[2].strip("/")
            entries = [
                {"type": "file", "path": name, "size": len(file), "oid": "0" * 40}
                for name, file in FILES.items()
                if str(Path(name).parent) == (folder or ".")
            ]
            if not folder:
                entries.append({"type": "directory", "path": "meta", "size": 0, "oid": "1" * 40})
            content = json.dumps(entries).encode()
        else:
            content = None
        whole, tag = len(content or b""), hashlib.sha1(content or b"").hexdigest()
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(404 if content is None else 206 if part else 200)
        if content is not None and part:
            content = content[int(part[1]) : int(part[2]) + 1]
            self.send_header("Content-Range", f"bytes {part[1]}-{part[2]}/{whole}")
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


def test_rows_and_files_of_the_hub(tmp_path: Path) -> None:
    """In a process of its own: the library reads the hub's address when it is imported."""
    code = """if True:
        import json
        from vidcurate.operators.sources.huggingface import Huggingface
        for parameters in ({}, {"file": "meta/a.jsonl", "base": "https://x.org"}):
            source = Huggingface(dataset="me/set", **parameters)
            rows = [(v.location, v.key, v.fields) for v in source.videos()]
            print(json.dumps([str(source.dataset_schema()), rows]))
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    streamed, one_file = map(json.loads, done.stdout.splitlines())
    inside = "/datasets/me/set/resolve/main/clips/a.mp4"
    other = ["https://x.org/b.mp4", None, {"n": 2}]
    assert streamed == [
        "n: int64",
        # The id is that of the hub, and not of the commit that is the newest now.
        [[f"{url}{inside}", f"https://huggingface.co{inside}", {"n": 1}], other],
    ]
    assert one_file == ["n: int64", [["https://x.org/clips/a.mp4", None, {"n": 1}], other]]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("file", [None, "a.csv"])
def test_without_the_hub_the_remedies_are_named(file: str | None) -> None:
    source = Huggingface(dataset="nobody/nothing", file=file)
    with pytest.raises(UserError, match=r"^huggingface: 'nobody/nothing'.* cannot be had") as error:
        source.dataset_schema()
    assert "HF_ENDPOINT names a mirror, HF_TOKEN" in str(error.value)
    assert str(error.value).endswith("or give the path of a local copy")
    assert "\n" not in str(error.value)


def test_an_adapter_needs_a_file_of_the_hub() -> None:
    with pytest.raises(UserError, match="reads one file of 'a/b': name it with `file`"):
        Huggingface(dataset="a/b", adapter="panda70m").dataset_schema()


def test_files_of_the_hub_are_named_by_stable_urls() -> None:
    source = Huggingface(dataset="a/b")
    home = "https://huggingface.co/datasets/a/b/resolve"
    assert source.home("a/b", None) == f"{home}/main"
    assert source.home("a/b", "refs/pr/1") == f"{home}/refs%2Fpr%2F1"
    assert (
        source._path(f"hf://datasets/a/b@{'0' * 40}/v/ä 1.mp4") == f"{home}/main/v/%C3%A4%201.mp4"
    )
    pinned = Huggingface(dataset="a/b", revision="v1")
    assert pinned._path({"path": f"hf://datasets/a/b@{'0' * 40}/x.mp4", "bytes": None}) == (
        f"{home}/v1/x.mp4"
    )
    assert source._path("hf://datasets/c/d@e/x.mp4") == (
        "https://huggingface.co/datasets/c/d/resolve/e/x.mp4"
    )


def test_parameters_are_plain_json() -> None:
    source = Huggingface(dataset="a/b", adapter="panda70m", file="x.csv", options={"shots": "all"})
    assert json.loads(json.dumps(source.parameters()))["options"] == {"shots": "all"}
