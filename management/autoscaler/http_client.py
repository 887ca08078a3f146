"""A small HTTP client for measuring: it notes when each event of a stream arrives. Not for: anything a library does better."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class RequestFailed(Exception):
    """An answer that is no success; the message holds its beginning."""


@dataclass(frozen=True)
class Server:
    host: str
    port: int

    @classmethod
    def at(cls, url: str) -> "Server":
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url}: not an http address")
        return cls(parts.hostname, parts.port or 80)

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
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            lines = [
                *(f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close"),
                *(f"Content-Type: {content_type}", f"Content-Length: {len(body)}"),
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
        finally:
            writer.close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _rest(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while part := await reader.read(65536):
        yield part
