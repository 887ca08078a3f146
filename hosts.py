"""Which Host and Origin headers a listener answers to: DNS rebinding and cross-site requests end here, whatever the method.

Pure functions of strings, for every HTTP interface of ours. Imports nothing of ours: the optimizer stands by itself.
"""

import ipaddress
from collections.abc import Iterable
from typing import Literal

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def answered(bound: Iterable[str], listed: Iterable[str] = ()) -> frozenset[str] | None:
    """The names in Host headers that mean a listener on the hosts `bound`, and those `listed`. None: any.

    A listener that other machines reach can't know its names, so there only a list restricts.
    """
    hosts, names = {_bracketed(host) for host in bound}, {name.lower() for name in listed}
    if "*" in names or (not names and not all(is_loopback(host) for host in hosts)):
        return None
    return LOOPBACK | hosts | names


def is_loopback(host: str) -> bool:
    """True when nothing outside this machine can reach what listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def name_of(netloc: str) -> str:
    """Without the port; IPv6 addresses keep their brackets."""
    name, colon, port = netloc.rpartition(":")
    return (name if colon and port.isdigit() and (name.endswith("]") or ":" not in name) else netloc).lower()


def same_site(origin: str, host: str | None) -> bool:
    """Whether a page of this Origin was served under this Host."""
    return host is not None and origin.partition("://")[2] == host


def foreign(hosts: frozenset[str] | None, host: str | None, origin: str | None) -> Literal["Host", "Origin", ""]:
    """The header by which a request shows that somebody else's page has led a browser here; "" when none does."""
    if hosts is not None and host is not None and name_of(host) not in hosts:  # without: HTTP/1.0, no browser
        return "Host"
    return "" if origin is None or same_site(origin, host) else "Origin"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()
