"""Who may use Sax's protocol, and how its errors are worded.

Not for: what the routes do (`sax`).
"""

import functools
import hmac
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path

import msgspec

from ..management.cell import wire
from ..management.cell.errors import CODES, SaxError
from .dial import KEY_FILE
from .errors import QueueFull, RequestError, WorkerDied, status_of
from .gate import Gate
from .options import FrontendOptions
from .web import Request

KEYLESS = ("/", "/healthz")
BEARER = (("WWW-Authenticate", "Bearer"),)
ROLES = ("admin", "inference")
role: ContextVar[str | None] = ContextVar("role", default=None)  # of whoever sent the request


class Border:
    def __init__(self, runtime: Path, options: FrontendOptions) -> None:
        self._gate = Gate(runtime, options)
        self._key_file = runtime / KEY_FILE
        self._tokens = options.authorizes

    def guarded(self, handler: Callable[[Request], Awaitable[None]]) -> Callable[[Request], Awaitable[None]]:
        @functools.wraps(handler)
        async def wrapped(request: Request) -> None:
            try:
                self.admit(request)
                await handler(request)
            except (SaxError, RequestError) as raised:
                error = as_sax(raised) if isinstance(raised, RequestError) else raised
                if request.started:
                    await request.write(b"data: " + msgspec.json.encode({"error": error.body()}) + b"\n\n")
                    request.cut()
                else:
                    await request.answer(error.status, error.body(), headers=BEARER if error.status == 401 else ())

        return wrapped

    def admit(self, request: Request) -> None:
        """Nobody is asked where no tokens are in use; else it is a member of the cell, or who has a token of ours."""
        if not self._tokens or request.path in KEYLESS or request.path.startswith("/cell/"):  # these are signed
            return
        given = (request.header("authorization") or "").removeprefix("Bearer ").encode()
        member = next((one for one in ROLES if hmac.compare_digest(given, self._member_token(one))), None)
        if member is None:
            self._gate.check(request.exchange, in_body=True)
        bearer = request.exchange.bearer
        role.set(member or ("admin" if bearer and bearer.has("management") else "inference"))

    def _member_token(self, member: str) -> bytes:
        try:
            return wire.member_token(self._key_file.read_bytes(), member).encode()
        except FileNotFoundError:
            raise SaxError("Unavailable", "this server has not entered its cell yet") from None


def as_sax(error: RequestError) -> SaxError:
    """Our errors in Sax's words."""
    if isinstance(error, QueueFull):
        return SaxError("ResourceExhausted", f"Too many requests: {error}")
    if isinstance(error, WorkerDied):
        return SaxError("Unavailable", str(error))  # which clients try again, elsewhere
    status = status_of(error)
    return SaxError({405: "Unimplemented", 413: "InvalidArgument"}.get(status, CODES.get(status, "Internal")), str(error))
