import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from vidcurate import ClipRow, RowFault, UserError, VideoRow
from vidcurate.operators.sources.modelscope import Modelscope

FILES = {
    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: rows/*.jsonl\n---\n",
    "rows/a.jsonl": (
        '{"video": "clips/ä.mp4", "n": 1, "caption": "一只狗"}\n'
        '{"video": "https://x.org/b.mp4", "n": 2, "caption": ""}\n'
    ).encode(),
    "meta.csv": b"path,score\nclips/c.mp4,0.5\n",
    "clips/ä.mp4": b"a video that nobody asks for",
}


class Hub(BaseHTTPRequestHandler):
    """The two calls of the ModelScope hub that read a data set, for me/set."""

    asked: list[str]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        answer, status = b"{}", 404
        if url.path == "/api/v1/datasets/me/set/repo/tree":
            rows = [{"Path": n, "Size": len(c), "Type": "blob"} for n, c in FILES.items()]
            answer, status = json.dumps({"Code": 200, "Data": {"Files": rows}}).encode(), 200
        elif url.path == "/api/v1/datasets/me/set/repo" and query["FilePath"][0] in FILES:
            assert query["Revision"] == ["master"]
            self.asked.append(query["FilePath"][0])
            answer, status = FILES[query["FilePath"][0]], 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The library remembers the first address that it was given, maybe of another test."""
    from modelscope_hub.config import HubConfig, set_default_config

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        patch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("MODELSCOPE_CACHE", str(tmp_path_factory.mktemp("modelscope")))
        set_default_config(HubConfig())
        yield f"http://127.0.0.1:{server.server_port}/datasets/me/set/resolve/master"
        server.shutdown()


@pytest.fixture
def hub(served: str) -> str:
    Hub.asked = []
    return served


def test_rows_are_fetched_and_videos_are_not(hub: str) -> None:
    source = Modelscope(dataset="me/set")
    assert source.dataset_schema() == pa.schema({"n": pa.int64()})
    home = "https://modelscope.cn/datasets/me/set/resolve/master"
    assert list(source.videos()) == [
        VideoRow(
            f"{hub}/clips/%C3%A4.mp4",
            key=f"{home}/clips/%C3%A4.mp4",  # of the hub, by whatever address it was asked
            clips=(ClipRow(None, None, "一只狗", {"n": 1}),),
            fields={"n": 1},
        ),
        VideoRow("https://x.org/b.mp4", clips=(ClipRow(fields={"n": 2}),), fields={"n": 2}),
    ]
    assert "clips/ä.mp4" not in Hub.asked


def test_one_file_of_the_hub(hub: str) -> None:
    [video] = list(Modelscope(dataset="me/set", file="meta.csv").videos())
    assert isinstance(video, VideoRow)
    assert (video.location, video.fields) == (f"{hub}/clips/c.mp4", {"score": 0.5})
    assert set(Hub.asked) <= {"meta.csv"}  # or it is in the cache already


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("dataset", "file"), [("me/none", None), ("me/set", "none.csv")])
def test_what_the_hub_has_not(dataset: str, file: str | None) -> None:
    with pytest.raises(UserError, match=f"^modelscope: '{dataset}'.* cannot be had: ") as error:
        Modelscope(dataset=dataset, file=file).dataset_schema()
    assert "404" in str(error.value)
    assert str(error.value).endswith("or give the path of a local copy")


def test_a_local_copy_is_read_without_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"url": "https://x.org/a.mp4", "n": 1}\n{"n": 2}\n')
    source = Modelscope(dataset=str(tmp_path))
    fault, video = list(source.videos())
    assert isinstance(video, VideoRow)
    assert (video.location, video.fields) == ("https://x.org/a.mp4", {"n": 1})
    assert isinstance(fault, RowFault)
    assert fault.where == f"{tmp_path} [train]:2"
    assert fault.message == "no path or URL of a video in this row"
