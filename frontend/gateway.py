"""`flambeau proxy`: lets through whoever bears a good JSON web token, and streams both ways.

An ASGI application in front of any HTTP server: the seed's shape of deployment (1223 before 7000). Answers pass piece by
piece as they come; a client that leaves closes the way to the upstream at once, so its work can be cancelled there. Not
for: the same check on our own ports, which needs no proxy (`gate`).
"""

import asyncio
import json
import logging
import os
import time

from ..management.errors import Forbidden as NotPermitted
from ..management.errors import TokenRefused
from ..management.jwt_auth import Bearer, JwtOptions, Role, Verifier, model_in
from .upstream import Exchange, Upstream, UpstreamBroken, UpstreamSilent, UpstreamUnreachable
from .web import Receive, Scope, Send

logger = logging.getLogger(__name__)

OPEN = {"/", "/health", "/ping"}  # GET and HEAD need no token: probes have none
BACKEND_SILENCE_SECONDS = 600.0  # our own server has time limits of its own
STATUS = {UpstreamUnreachable: 502, UpstreamBroken: 502, UpstreamSilent: 504}


def create_server() -> "Gateway":
    """For gunicorn.conf.py, whose hook has started the server behind; with JWT_SECRET set, tokens are checked."""
    secret = os.environ.get("JWT_SECRET")
    verifier = Verifier(JwtOptions(), secret) if secret else None
    return Gateway(Upstream(os.environ["FLAMBEAU_BACKEND"], BACKEND_SILENCE_SECONDS), verifier)


class Gateway:
    def __init__(self, upstream: Upstream, verifier: Verifier | None, role: Role = "inference") -> None:
        """Without a verifier everybody passes."""
        self._upstream = upstream
        self._verifier = verifier
        self._role: Role = role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, answer = time.monotonic(), Answering(send)
        bearer = None
        try:
            bearer = self._admit(scope)
            await self._forward(scope, receive, answer)
        except TokenRefused as error:
            await answer.message(401, str(error), [("WWW-Authenticate", "Bearer")])
        except NotPermitted as error:
            await answer.message(403, str(error))
        except (UpstreamUnreachable, UpstreamBroken, UpstreamSilent) as error:
            await answer.message(STATUS[type(error)], str(error))
        logger.info(
            '%s "%s %s" %s %.3f s %s',
            (scope.get("client") or ("-",))[0], scope["method"], scope["path"], answer.status or "left",
            time.monotonic() - began, bearer.claims.get("sub", bearer.claims.get("token_id", "-")) if bearer else "-",
        )  # fmt: skip

    def _admit(self, scope: Scope) -> Bearer | None:
        """TokenRefused or NotPermitted unless the request may pass."""
        if self._verifier is None or (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            return None
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        bearer = self._verifier.check(given.decode("latin-1"))
        model = model_in(scope["raw_path"])
        bearer.require(self._role, model)
        if model is None and bearer.restricted:
            raise NotPermitted("The token is for certain models, and the path does not say which one is meant.")
        return bearer

    async def _forward(self, scope: Scope, receive: Receive, answer: "Answering") -> None:
        path = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        async with self._upstream.request(scope["method"].encode(), path, scope["headers"]) as exchange:
            sending = asyncio.create_task(send_body(receive, exchange))
            try:
                head = await exchange.head()
                await answer.start(head.status, head.headers)
                async for piece in exchange.pieces():
                    await answer.piece(piece)
                await answer.finish()
            finally:
                sending.cancel()


async def send_body(receive: Receive, exchange: Exchange) -> None:
    """Passes the client's body on as it comes; then waits for the client to leave, which ends the exchange."""
    more = True
    try:
        while (message := await receive())["type"] != "http.disconnect":
            if more:
                await exchange.write(message.get("body", b""))
                more = message.get("more_body", False)
                if not more:
                    exchange.end()
    except OSError:
        return  # the upstream may have answered before it closed; reading will tell
    exchange.abandon()


class Answering:
    """What goes back to the client. An answer that is begun and not finished is cut off by the server."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0  # 0: nothing has been answered yet

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def message(self, status: int, text: str, headers: list[tuple[str, str]] | None = None) -> None:
        if self.status:
            return
        content = json.dumps({"message": text}).encode()
        fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await self.start(status, fixed + [(name.lower().encode(), value.encode()) for name, value in headers or []])
        await self._send({"type": "http.response.body", "body": content, "more_body": False})
