import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vidcurate.acquire.cache import Cache, Meta, check_free, hash_file, shown
from vidcurate.acquire.limits import Stopped
from vidcurate.errors import StorageError
from vidcurate.recipe.model import Acquire

URL = "https://me:secret@films.example:8080/a%20b.mp4?token=secret#t=1"


def put(cache: Cache, key: str, data: bytes, variant: str = "file") -> Meta:
    with cache.lock(key, threading.Event()):
        part = cache.part(key, variant)
        part.write_bytes(data)
        return cache.add(key, variant, URL, {"license": "CC BY"}, hash_file(part))


def files(cache: Cache) -> list[str]:
    """All files, by their paths below the cache without the names of the videos."""
    found = sorted(p for p in cache.folder.rglob("*") if p.is_file())
    return [str(Path(p.parts[-3], p.name) if "videos" in p.parts else p.parent.name) for p in found]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "new" / "cache")


def test_what_is_known_of_a_video(cache: Cache) -> None:
    assert cache.get("youtube:x", "file") is None
    assert not cache.folder.exists()
    meta = put(cache, "youtube:x", b"film")
    assert cache.get("youtube:x", "file") == meta
    assert meta.url == "https://films.example:8080/a%20b.mp4"
    assert meta.sha256 == hashlib.sha256(b"film").hexdigest()
    assert (meta.size, meta.rights) == (4, {"license": "CC BY"})
    at = datetime.fromisoformat(meta.retrieved_at)
    assert at.tzinfo is UTC
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    text = cache.path("youtube:x", "file.json").read_text()
    assert "secret" not in text
    assert json.loads(text)["sha256"] == meta.sha256


def test_equal_bytes_lie_on_disk_once(cache: Cache) -> None:
    put(cache, "a", b"film")
    put(cache, "b", b"film", "h720")
    put(cache, "c", b"other")
    paths = [cache.path("a", "file"), cache.path("b", "h720"), cache.path("c", "file")]
    assert os.path.samefile(paths[0], paths[1])
    assert [p.stat().st_nlink for p in paths] == [3, 3, 2]
    assert [p.read_bytes() for p in paths] == [b"film", b"film", b"other"]


def test_forget_leaves_what_others_share(cache: Cache) -> None:
    sha = put(cache, "a", b"film").sha256
    put(cache, "a", b"small", "h360")
    put(cache, "b", b"film")
    assert cache.forget("a") is True
    assert cache.get("a", "file") is None
    assert cache.path("b", "file").read_bytes() == b"film"
    assert [p.name for p in (cache.folder / "content").iterdir()] == [sha]
    assert cache.forget("b") is True
    assert [p for p in cache.folder.rglob("*") if p.is_file()] == []
    assert list((cache.folder / "videos").iterdir()) == []
    assert cache.forget("b") is False


def test_what_another_works_on_is_left_to_them(cache: Cache) -> None:
    put(cache, "a", b"film")
    with cache.lock("a", threading.Event()):
        assert cache.forget("a", wait=False) is False
    assert cache.get("a", "file") is not None
    assert cache.forget("a", wait=False) is True


def test_forget_drops_unfinished_downloads(cache: Cache) -> None:
    with cache.lock("a", threading.Event()):
        cache.part("a", "file").write_bytes(b"half")
        cache.part("a", "file").with_suffix(".part.json").write_text("{}")
    assert cache.forget("a") is True
    assert list((cache.folder / "videos").iterdir()) == []


def test_without_hard_links_each_video_has_its_own_file(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    for key in ("a", "b"):
        put(cache, key, b"film")
        assert cache.path(key, "file").read_bytes() == b"film"
    assert cache.get("a", "file").sha256 == cache.get("b", "file").sha256
    assert cache.forget("a") is True
    assert cache.path("b", "file").read_bytes() == b"film"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 1}', "null"])
def test_a_damaged_record_is_no_video(cache: Cache, text: str) -> None:
    put(cache, "a", b"film")
    cache.path("a", "file.json").write_text(text)
    assert cache.get("a", "file") is None
    put(cache, "a", b"again")
    assert cache.path("a", "file").read_bytes() == b"again"


def test_a_file_of_another_size_is_no_video(cache: Cache) -> None:
    put(cache, "a", b"film")
    cache.path("a", "file").unlink()
    assert cache.get("a", "file") is None
    cache.path("a", "file").write_bytes(b"fi")
    assert cache.get("a", "file") is None


def test_a_new_download_replaces_the_old(cache: Cache) -> None:
    put(cache, "a", b"film")
    put(cache, "a", b"film")
    put(cache, "a", b"newer")
    assert cache.path("a", "file").read_bytes() == b"newer"


def test_one_at_a_time_works_on_a_key(cache: Cache) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(_: int) -> None:
        # Cache objects of their own, as processes have.
        with Cache(cache.folder).lock("a", threading.Event()):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == [1] * 40
    assert list((cache.folder / "videos").iterdir()) == []


def test_a_lock_dies_with_its_process(cache: Cache) -> None:
    code = (
        "import sys, threading, time; from pathlib import Path\n"
        "from vidcurate.acquire.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).lock('a', threading.Event()):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(cache.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Stopped), cache.lock("a", stop):
            pass
        other.kill()
    with cache.lock("a", threading.Event()):
        pass


def test_the_disk_must_keep_some_space(tmp_path: Path) -> None:
    check_free(tmp_path, Acquire(min_free=0))
    with pytest.raises(StorageError, match=r"free some space, keep fewer downloads"):
        check_free(tmp_path, Acquire(min_free=0), coming=10**18)


@pytest.mark.parametrize(
    ("location", "text"),
    [
        (URL, "https://films.example:8080/a%20b.mp4"),
        ("http://a@b@c.example", "http://c.example"),
        ("http://[bad/film.mp4?x", "http://[bad/film.mp4"),
        ("http://x.example/me@home.mp4", "http://x.example/me@home.mp4"),
        ("/data/a.tar#b.mp4", "/data/a.tar#b.mp4"),
        (
            "https://youtu.be/-2yHu5qgTzM?si=secret",
            "https://www.youtube.com/watch?v=-2yHu5qgTzM",
        ),
    ],
)
def test_locations_are_shown_without_secrets(location: str, text: str) -> None:
    assert shown(location) == text
