"""A cell's HTTP face as an ASGI application: signed verbs at POST /cell/<verb>, status pages for eyes.

Not for: users' requests, which go to the HTTP processes.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
import uvicorn

from . import wire
from .cell import Cell
from .errors import SaxError, invalid, not_found
from .pages import page

logger = logging.getLogger(__name__)


class Verbs(Protocol):
    async def call(self, verb: str, payload: object) -> Any: ...


class CellServer:
    """`trusted`: on a socket that only our own processes reach, which may ask without a signature at /internal/cell/<verb>."""

    def __init__(self, cell: Cell | None, api: Verbs, key: bytes, *, trusted: bool = False) -> None:
        self._cell = cell
        self._api = api
        self._key = key
        self._trusted = trusted
        self._verifier = wire.Verifier(key)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        verb = path.removeprefix("/internal" if self._trusted else "").removeprefix("/cell/")
        if scope["method"] == "POST" and verb != path:
            await self._verb(scope, receive, send, path, verb)
        elif scope["method"] == "GET":
            await self._page(send, path)
        else:
            await _answer(send, *refusal(not_found(f"there is no {path}")))

    async def _verb(self, scope: Any, receive: Any, send: Any, path: str, verb: str) -> None:
        body = await _body(receive)
        header = next((value.decode("latin-1") for name, value in scope["headers"] if name == wire.HEADER.encode()), None)
        nonce = ""
        try:
            if body is None:
                raise invalid(f"the body is larger than {wire.MAX_BODY} bytes")
            if not path.startswith("/internal/"):
                nonce = self._verifier.check(header, path, body)
            payload = msgspec.json.decode(body)
            result = await self._unless_gone(receive, verb, payload)
        except SaxError as error:
            status, content = refusal(error)
        except msgspec.DecodeError:
            status, content = refusal(invalid("the body is no JSON"))
        except OSError as error:
            logger.error("%s: %s", verb, error)
            status, content = refusal(
                SaxError("FailedPrecondition", f"the admin's machine says: {error.strerror or error}")
            )
        except Exception:
            logger.exception("%s", verb)
            status, content = refusal(SaxError("Internal", "internal error, see the admin's log"))
        else:
            status, content = 200, msgspec.json.encode(result)
        await _answer(send, status, content, wire.sign_answer(self._key, nonce, status, content) if nonce else "")

    async def _unless_gone(self, receive: Any, verb: str, payload: Any) -> Any:
        """A peer that leaves while it waits for orders may be dead."""
        call = asyncio.ensure_future(self._api.call(verb, payload))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({call, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                if verb == "join" and self._cell:
                    self._cell.left(payload.get("address", ""), payload.get("instance", ""))
                raise SaxError("Canceled", "the caller has gone")
            return call.result()
        finally:
            call.cancel()
            leaving.cancel()

    async def _page(self, send: Any, path: str) -> None:
        try:
            if self._cell is None:
                raise not_found("this machine is a member of the cell; its admin has the pages")
            status, text = 200, page(self._cell, path)
        except SaxError as error:
            status, text = error.status, error.text
        content_type = "text/html; charset=utf-8" if status == 200 else "text/plain; charset=utf-8"
        await _answer(send, status, text.encode(), content_type=content_type)


class CellListener(uvicorn.Server):
    """uvicorn in somebody else's event loop: signals are not its business."""

    def __init__(self, app: CellServer, sock: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, date_header=False,
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._socket = sock
        self._serving: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def start(self) -> None:
        self._serving = asyncio.create_task(self.serve([self._socket]))

    async def stop(self) -> None:
        self.should_exit = True
        if self._serving:
            await asyncio.wait({self._serving}, timeout=3)


def refusal(error: SaxError) -> tuple[int, bytes]:
    return error.status, msgspec.json.encode(error.body())


async def _body(receive: Any) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > wire.MAX_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Any, status: int, body: bytes, signature: str = "", content_type: str = "application/json") -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    if signature:
        headers.append((wire.HEADER.encode(), signature.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
