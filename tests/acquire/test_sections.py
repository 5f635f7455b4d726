"""Sections of files: what is read of them is what the whole file says, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_server import FaultServer

from vidcurate.acquire import sections
from vidcurate.acquire.fetch import Fetched
from vidcurate.acquire.sections import intervals_of
from vidcurate.clip import content_edges
from vidcurate.errors import AcquireError, OptOutError, VideoGoneError
from vidcurate.media.blocks import BLOCK, MAGIC, file_size, open_blocks
from vidcurate.media.decode import Decoder
from vidcurate.media.probe import probe
from vidcurate.operator.base import ClipRow, VideoRow

FILES = ("end.mp4", "start.mp4", "x.mkv")
CLIPS = ((9.0, 10.5),)
Fetch = Callable[..., Fetched]


@pytest.fixture
def get(fetch: Fetch, fault_server: FaultServer, heavy: Callable[[str], Path]) -> Fetch:
    """get("/ok/end.mp4", clips): fetch what the clips need of a file."""
    fault_server.files |= {name: heavy(name) for name in FILES}

    def call(path: str, clips: object = CLIPS, **more: object) -> Fetched:
        rows = tuple(c if isinstance(c, ClipRow) else ClipRow(*c) for c in clips)
        row = VideoRow(fault_server.url(path), clips=rows, rights=more.pop("rights", {}))
        more = {"download": {"sections": True, "tries": 3}} | more
        return fetch(row, **more)

    return call


def is_whole(fetched: Fetched, film: Path) -> bool:
    return fetched.path.read_bytes() == film.read_bytes()


def frames(path: Path, start: float, end: float) -> list[tuple[object, ...]]:
    """Times and pictures of an interval."""
    info = probe(path, max_pixels=10**6, max_duration=60)
    with Decoder(info) as decoder:
        return [
            (d.pts, d.time, d.previous, hashlib.sha256(bytes(d.frame.planes[0])).digest())
            for d in decoder.frames(start, end)
        ]


@pytest.mark.parametrize("clips", [[(20.5, 21.0)], [(1.0, 1.5), (37.0, 38.0)]], ids=str)
@pytest.mark.parametrize("name", FILES)
def test_the_intervals_decode_as_from_the_whole_file(name, clips, get, heavy, fault_server):
    film = heavy(name)
    fetched = get(f"/ok/{name}", clips)
    assert open_blocks(fetched.path) is not None
    sent = fault_server.sent[f"/ok/{name}"]
    # Its blocks and what frames them; each came once.
    assert sent == fetched.path.stat().st_size - len(MAGIC) - index_length(fetched.path)
    assert sent < 0.5 * film.stat().st_size
    assert file_size(fetched.path) == film.stat().st_size
    assert content_edges(fetched.path) == content_edges(film)
    whole = probe(film, max_pixels=10**6, max_duration=60)
    part = probe(fetched.path, max_pixels=10**6, max_duration=60)
    assert {**vars(part), "path": film} == vars(whole)
    for start, end in clips:
        assert frames(fetched.path, start - 0.25, end + 0.25) == frames(
            film, start - 0.25, end + 0.25
        )
    assert set(fetched.rights) == {"retrieved_at"}


def index_length(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[-8:], "little")


def test_they_are_kept_by_their_intervals(get, fault_server):
    first = get("/ok/end.mp4")
    asked = len(fault_server.seen)
    assert get("/ok/end.mp4") == first
    assert len(fault_server.seen) == asked
    assert get("/ok/end.mp4", [(3.0, 4.0)]).path != first.path
    # Without downloads what is there serves those alone who need no more.
    assert get("/ok/end.mp4", download=False) == first
    with pytest.raises(AcquireError, match="no mirror has it"):
        get("/ok/end.mp4", [(5.0, 6.0)], download=False)


def test_a_whole_file_goes_before(get, heavy, fault_server):
    assert is_whole(get("/ok/end.mp4", download={"sections": False}), heavy("end.mp4"))
    asked = len(fault_server.seen)
    assert is_whole(get("/ok/end.mp4"), heavy("end.mp4"))
    assert len(fault_server.seen) == asked


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/plain/end.mp4", id="a host without ranges"),
        pytest.param("/swap/2/end.mp4", id="another file from the third answer on"),
        pytest.param("/swap/2/end.mp4?ignored", id="another file, which If-Range does not tell"),
    ],
)
def test_hosts_that_do_not_fit_send_whole_files(path, get, heavy):
    fetched = get(path)
    more = b"" if "plain" in path else b"changed"
    assert fetched.path.read_bytes() == heavy("end.mp4").read_bytes() + more
    assert set(fetched.rights) == {"retrieved_at", "sha256"}


@pytest.mark.parametrize(
    "clips",
    [
        pytest.param([(1.0, 18.0)], id="more than half of it"),
        pytest.param([(1.0, None)], id="an end that is not known"),
        pytest.param([(1.0, float("inf"))], id="to the video's end"),
        pytest.param([(9.0, 10.0), ClipRow(start=2.0, frames=(0, 5))], id="frames"),
        pytest.param([], id="no intervals"),
        pytest.param([ClipRow()], id="all of the video"),
    ],
)
def test_what_needs_all_or_most_of_it_gets_the_whole_file(clips, get, heavy):
    assert is_whole(get("/ok/end.mp4", clips), heavy("end.mp4"))


def test_a_named_sha256_is_checked_on_the_whole_file(get, heavy):
    digest = hashlib.sha256(heavy("end.mp4").read_bytes()).hexdigest()
    assert is_whole(get("/ok/end.mp4", rights={"sha256": digest}), heavy("end.mp4"))


def test_files_without_an_index_come_whole(get, fault_server, heavy, tmp_path):
    import av

    stream = tmp_path / "x.ts"
    with av.open(str(heavy("x.mkv"))) as source, av.open(str(stream), "w") as out:
        tracks = [out.add_stream_from_template(s) for s in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    fault_server.files["x.ts"] = stream
    assert is_whole(get("/ok/x.ts"), stream)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(heavy("start.mp4").read_bytes()[:2000] + bytes(8 * BLOCK))
    fault_server.files["broken.mp4"] = broken
    assert is_whole(get("/ok/broken.mp4"), broken)


def test_a_broken_transfer_is_gone_on_with(get, heavy, fault_server):
    fetched = get("/cut/2/end.mp4")
    assert open_blocks(fetched.path) is not None
    assert frames(fetched.path, 9.0, 10.5) == frames(heavy("end.mp4"), 9.0, 10.5)


def test_refusals_are_those_of_whole_files(get, config, fault_server):
    with pytest.raises(VideoGoneError):
        get("/status/404/end.mp4")
    assert len(fault_server.seen) == 1  # it is not asked for the whole file, too
    with pytest.raises(OptOutError):
        get("/robots/end.mp4?noai")
    with pytest.raises(AcquireError, match=r"larger than acquire\.max_size"):
        get("/ok/end.mp4", max_size=5 * BLOCK)
    with pytest.raises(AcquireError, match="not a public address"):
        get("/ok/end.mp4", allow_hosts=())


def test_a_child_that_takes_too_much_memory_gives_the_whole_file(get, heavy, monkeypatch):
    monkeypatch.setattr(sections, "_MEMORY", 0)
    monkeypatch.setattr(sections, "_POLL", 0.001)
    assert is_whole(get("/ok/end.mp4"), heavy("end.mp4"))


def test_forgotten_with_the_video(get, fault_server, fetch, tmp_path):
    from vidcurate.acquire.cache import Cache

    fetched = get("/ok/end.mp4")
    assert Cache(tmp_path / "cache").forget(fault_server.url("/ok/end.mp4"))
    assert not fetched.path.parent.exists()
    assert not (tmp_path / "cache" / "content").exists()


def test_intervals_are_in_order_and_once():
    clips = (ClipRow(5.0, 6.0), ClipRow(1.0, 2.0), ClipRow(5.0, 6.0))
    assert intervals_of(VideoRow("u", clips=clips)) == ((1.0, 2.0), (5.0, 6.0))
