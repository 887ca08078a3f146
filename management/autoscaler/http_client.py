"""A small HTTP client for measuring: it notes when each event of a stream arrives. Not for: anything a library does better."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from .. import addresses
from ..errors import SettingsError

CONNECT_SECONDS = 30.0


class RequestFailed(Exception):
    """An answer that is no success; the message holds its beginning."""


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    socket: str = ""  # of a Unix socket the path, instead of both
    tls: ssl.SSLContext | None = None
    token: str | None = None

    @classmethod
    def at(cls, url: str, token: str | None = None) -> "Server":
        """ValueError for what is no address; `http://` may be left out."""
        try:
            address = addresses.parse(url if "//" in url or url.startswith("unix:") else f"http://{url}")
        except SettingsError as error:
            raise ValueError(str(error)) from None
        tls = ssl.create_default_context() if address.scheme == "https" else None
        return cls(address.host, address.port, address.path, tls, token)

    @property
    def name(self) -> str:
        return self.socket or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")

    async def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
        return b"".join([part async for part, _ in self._parts(method, path, body, content_type)])

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.ask(method, path, b"" if body is None else json.dumps(body).encode())
        return json.loads(answer) if answer else None

    async def events(self, path: str, body: Any) -> AsyncIterator[tuple[dict[str, Any], float]]:
        """Server-sent events with the time each arrived (monotonic seconds)."""
        rest = b""
        async for part, arrived in self._parts("POST", path, json.dumps(body).encode(), "application/json"):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield json.loads(line[6:]), arrived

    async def _parts(self, method: str, path: str, body: bytes, content_type: str) -> AsyncIterator[tuple[bytes, float]]:
        reader, writer = await self._connected()
        try:
            lines = [
                *(f"{method} {path} HTTP/1.1", f"Host: {'localhost' if self.socket else self.name}", "Connection: close"),
                *(f"Content-Type: {content_type}", f"Content-Length: {len(body)}"),
                *([f"Authorization: Bearer {self.token}"] if self.token else []),
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split()[1])
            parts = _chunks(reader) if "transfer-encoding: chunked" in head else _rest(reader)
            if status >= 400:
                told = b"".join([part async for part in parts])
                raise RequestFailed(f"{method} {path}: {status} {' '.join(told[:300].decode(errors='replace').split())}")
            async for part in parts:
                yield part, time.monotonic()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError, ValueError):
            raise RequestFailed(f"{method} {path}: what {self.name} answers is no HTTP, or ends in the middle") from None
        finally:
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if self.socket:
                    return await asyncio.open_unix_connection(self.socket)
                return await asyncio.open_connection(self.host, self.port, ssl=self.tls)
        except ssl.SSLCertVerificationError as error:
            why = f"{error.verify_message}; SSL_CERT_FILE names a certificate to trust"
            raise RequestFailed(f"{self.name}: {why}") from None
        except OSError as error:  # a time-out is one
            raise RequestFailed(f"no server answers at {self.name}: {error.strerror or 'nobody is there'}") from None


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _rest(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while part := await reader.read(65536):
        yield part
