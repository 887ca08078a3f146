"""Listening addresses as config.properties writes them: `http://127.0.0.1:8080`, `https://[::1]:8443`, `unix:/path`."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from ..hosts import is_loopback
from .errors import SettingsError


@dataclass(frozen=True)
class Address:
    scheme: str  # "http", "https" or "unix"
    host: str = ""
    port: int = 0
    path: str = ""  # of a unix socket

    @property
    def bind(self) -> str:
        """As gunicorn wants it."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"unix:{self.path}" if self.scheme == "unix" else f"{self.scheme}://{self.bind}"

    @property
    def loopback(self) -> bool:
        """True when nothing outside this machine can reach it."""
        return self.scheme == "unix" or is_loopback(self.host)


def parse(text: str) -> Address:
    """SettingsError when `text` is no address to listen on."""
    if text.startswith("unix:"):
        return Address("unix", path=text.removeprefix("unix:").removeprefix("//"))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{text}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{text}: not an address such as http://127.0.0.1:8080 or unix:/path")
    return Address(parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme])


def grpc(host: str, port: int) -> Address | None:
    """None: a port of 0 leaves gRPC out."""
    return Address("http", host.strip("[]"), port) if port else None
