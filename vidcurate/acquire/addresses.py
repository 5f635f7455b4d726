"""Which addresses may be connected to.

A dataset's URLs are written by strangers, so nothing is downloaded from private addresses
(loopback, local networks, cloud metadata services) except those that `acquire.allow_hosts` names.
A name is resolved once, all its addresses are checked, and one of these very addresses is
connected to: the name cannot change in between.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from vidcurate.errors import AcquireError, TransferError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """True for an IP address (text, IPv6 scopes allowed) that all of the internet can reach."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # IPv6 forms that carry an IPv4 address lead to it.
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


def resolve(host: str, port: int, allow_hosts: Sequence[str], shown: str) -> list[str]:
    """The addresses of a host, all of them public, or those of an allowed host.

    Args:
        host: a name or an address in any notation. allow_hosts: `host:port` of private addresses
            that are fine. shown: what errors name: a URL without its secrets.

    Raises:
        AcquireError: the host is not found (a TransferError where a later try may find it), or
            one of its addresses is private.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        later = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        kind = TransferError if later else AcquireError
        raise kind(f"{shown}: the host is not found: {error}") from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    _check(addresses, host, port, allow_hosts, shown)
    return addresses


def check_proxied(host: str, port: int, allow_hosts: Sequence[str], shown: str) -> None:
    """Refuse what a proxy must not be asked for: `localhost` and private addresses as such.

    Other names are resolved by the proxy alone, which has to refuse private addresses itself.

    Raises:
        AcquireError: as `resolve`.
    """
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":
        addresses = ["127.0.0.1"]
    else:
        try:
            # Addresses in any notation (2130706433, 0x7f.1), names never.
            found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            return
        addresses = [str(info[4][0]) for info in found]
    _check(addresses, host, port, allow_hosts, shown)


def _check(
    addresses: Sequence[str], host: str, port: int, allow_hosts: Sequence[str], shown: str
) -> None:
    name = host.strip("[]").lower()
    if f"{name}:{port}" in {allowed.lower() for allowed in allow_hosts}:
        return
    for address in addresses:
        if not is_public(address):
            raise AcquireError(
                f"{shown}: {address} is not a public address, which is refused; if it is meant, "
                f"add {name}:{port} to acquire.allow_hosts"
            )
