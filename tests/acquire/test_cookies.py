from pathlib import Path

import pytest

from vidcurate.acquire.cookies import cookie_header, load_cookies
from vidcurate.errors import UserError

FIRST = "# Netscape HTTP Cookie File\n"
LINES = """
# a comment
.films.example\tTRUE\t/\tFALSE\t0\tall\t1
www.films.example\tFALSE\t/\tFALSE\t\tone\t2
films.example\tFALSE\t/watch\tFALSE\t9999999999\tpath\t3
#HttpOnly_films.example\tFALSE\t/\tTRUE\t0\tsecure\t4
films.example\tFALSE\t/\tFALSE\t1\told\t5
"""


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("http://films.example/", "all=1"),
        ("http://films.example:8080/watch?v=1", "path=3; all=1"),
        ("https://films.example/", "all=1; secure=4"),
        ("http://www.films.example/", "all=1; one=2"),
        ("http://a.films.example/watch", "all=1"),
        ("http://otherfilms.example/", None),
        ("http://127.0.0.1/", None),
    ],
)
def test_cookies_are_for_their_hosts(tmp_path: Path, url: str, header: str | None) -> None:
    (tmp_path / "cookies.txt").write_text(FIRST + LINES)
    jar = load_cookies(str(tmp_path / "cookies.txt"))
    assert jar is not None
    assert cookie_header(jar, url) == header


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDCURATE_COOKIES", raising=False)
    assert load_cookies(None) is None
    (tmp_path / "cookies.txt").write_text(FIRST)
    monkeypatch.setenv("VIDCURATE_COOKIES", str(tmp_path / "cookies.txt"))
    assert load_cookies(None) is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"films.example\tFALSE\t/\tFALSE\t0\tid\tsecret\n", "its first line must be"),
        (b"\xff\xfesecret", "its first line must be"),
        (FIRST.encode() + b"\none\tsecret\n", ":3: no cookie in Netscape's format"),
        (FIRST.encode() + b"films.example FALSE / FALSE 0 id secret", ":2: no cookie"),
        (FIRST.encode() + b"a.example\tFALSE\t/\tFALSE\tsoon\tid\tsecret", ":2: no cookie"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "cookies.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="cookies") as caught:
        load_cookies(str(file))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
