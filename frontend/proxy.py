"""Management on the inference port: what no inference route answers is passed on to the control plane's unix socket.

Only when both addresses are configured equal. The control plane authorizes for itself. Not for: anything hot.
"""

import asyncio
from pathlib import Path
from posixpath import normpath

import httptools

from .errors import Draining, NotFound
from .web import Handler, Request

ANSWER_SECONDS = 3600  # registering waits for workers that load large models
MAX_ANSWER_BYTES = 1 << 26
NOT_PASSED_ON = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"upgrade"}


class _Answer:
    """What httptools has parsed so far."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.complete = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def to_control(socket: Path) -> Handler:
    async def pass_on(request: Request) -> None:
        if normpath(request.path).lstrip("/").startswith("internal"):
            raise NotFound()  # what the HTTP processes themselves say to the control plane is no client's affair
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await _ask(socket, request)
        except (OSError, httptools.HttpParserError):
            raise Draining() from None
        content_type = next((value for name, value in answer.headers if name.lower() == "content-type"), None)
        headers = tuple(pair for pair in answer.headers if pair[0].lower() != "content-type")
        await request.answer(answer.parser.get_status_code(), bytes(answer.body), content_type, headers)

    return pass_on


async def _ask(socket: Path, request: Request) -> _Answer:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        headers = [(name, value) for name, value in request.raw_headers if name.lower() not in NOT_PASSED_ON]
        if not any(name.lower() == b"host" for name, _ in headers):  # HTTP/1.0
            headers.append((b"Host", b"localhost"))
        headers += [(b"Content-Length", b"%d" % len(request.body)), (b"Connection", b"close")]
        lines = [
            b"%b %b HTTP/1.1" % (request.exchange.method, request.exchange.url),
            *(b"%b: %b" % pair for pair in headers),
        ]
        writer.write(b"\r\n".join([*lines, b"", b""]) + request.body)
        await writer.drain()
        answer = _Answer()
        while not answer.complete and (data := await reader.read(65536)):
            answer.parser.feed_data(data)
            if len(answer.body) > MAX_ANSWER_BYTES:
                raise ConnectionError("the control plane's answer is too large")
        if not answer.complete and not answer.headers:
            raise ConnectionError("the control plane did not answer")
        return answer
    finally:
        writer.close()
