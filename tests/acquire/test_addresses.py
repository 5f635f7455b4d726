import pytest

from vidcurate.acquire.addresses import check_proxied, is_public, resolve
from vidcurate.errors import AcquireError


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # cloud metadata
        ("100.64.0.1", False),
        ("127.8.8.8", False),
        ("224.0.0.1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:0a00:0001::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0.0.0.0", "::1"])
def test_private_hosts_are_refused_by_any_name(host: str) -> None:
    with pytest.raises(AcquireError, match="not a public address, which is refused") as caught:
        resolve(host, 80, (), "http://it/")
    assert f"add {host}:80 to acquire.allow_hosts" in str(caught.value)
    assert not caught.value.is_transient


def test_an_allowed_host_is_host_and_port_by_name() -> None:
    assert "127.0.0.1" in resolve("localhost", 8000, ("LOCALHOST:8000",), "it")
    for other in ("localhost:8001", "127.0.0.1:8000", "localhost"):
        with pytest.raises(AcquireError, match="not a public address"):
            resolve("localhost", 8000, (other,), "it")


@pytest.mark.parametrize("host", ["name.invalid", "a..b", "x" * 70])
def test_a_host_that_nobody_knows(host: str) -> None:
    with pytest.raises(AcquireError, match="it: the host is not found"):
        resolve(host, 80, (), "it")


@pytest.mark.parametrize(
    "host",
    ["localhost", "films.localhost.", "127.0.0.1", "2130706433", "0x7f.1", "::1", "10.0.0.1"],
)
def test_what_a_proxy_is_not_asked_for(host: str) -> None:
    with pytest.raises(AcquireError, match="not a public address"):
        check_proxied(host, 80, (), "it")
    check_proxied(host, 80, (f"{host}:80",), "it")


def test_a_proxy_resolves_other_names() -> None:
    check_proxied("name.invalid", 80, (), "it")
    check_proxied("93.184.216.34", 80, (), "it")
