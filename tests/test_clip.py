import pytest

from vidcurate.clip import url_key


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("HTTP://user:pass@Example.COM:80/a?b=C#d", "http://example.com/a?b=C"),
        ("https://example.com:8443", "https://example.com:8443/"),
        ("http://[2001:DB8::1]:8080/a.mp4", "http://[2001:db8::1]:8080/a.mp4"),
        ("https://youtu.be/-catscats-2?t=7", "youtube:-catscats-2"),
        ("https://m.youtube.com/watch?v=birdsbirds1&list=x", "youtube:birdsbirds1"),
        ("https://www.youtube.com/shorts/birdsbirds1", "youtube:birdsbirds1"),
    ],
)
def test_source_keys_of_urls(url: str, key: str) -> None:
    assert url_key(url) == key
