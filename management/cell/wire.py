"""JSON over HTTP between the members of a cell, each message signed with the cell's key, in both directions.

A request carries a time, a nonce and an HMAC over them, the path and the body; its answer an HMAC over the nonce and the
answer. So a stranger can neither ask nor answer, and nothing can be said twice. It hides nothing: where the network itself
is not trusted, put TLS or a VPN below it.
"""

import asyncio
import hashlib
import hmac
import http.client
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SaxError, from_answer, invalid

HEADER = "x-cell-auth"
FRESH_SECONDS = 300.0  # clocks may differ by so much
MAX_BODY = 16 << 20
RELAY_SECONDS = 610.0  # longer than anybody waits for a change


def _mac(key: bytes, *parts: bytes) -> str:
    return hmac.new(key, b"\n".join(parts), hashlib.sha256).hexdigest()


def sign_request(key: bytes, path: str, body: bytes, now: float) -> tuple[str, str]:
    """The header's value, and the nonce that the answer must be bound to."""
    nonce, stamp = secrets.token_hex(16), f"{now:.0f}"
    return f"{stamp} {nonce} {_mac(key, b'ask', path.encode(), stamp.encode(), nonce.encode(), body)}", nonce


def member_token(key: bytes, role: str = "admin") -> str:
    """By which a member asks another, where servers ask for tokens; with the rights of `role`."""
    return _mac(key, b"member", role.encode())


def sign_answer(key: bytes, nonce: str, status: int, body: bytes) -> str:
    return _mac(key, b"answer", nonce.encode(), str(status).encode(), body)


class Verifier:
    """Remembers nonces as long as they are fresh."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()  # the oldest first

    def check(self, header: str | None, path: str, body: bytes) -> str:
        """The nonce; Unauthenticated when the request is not from somebody who has the key."""
        stamp, nonce, mac = (header or "").split(" ") if (header or "").count(" ") == 2 else ("", "", "")
        good = _mac(self._key, b"ask", path.encode(), stamp.encode(), nonce.encode(), body)
        if not mac.isascii() or not hmac.compare_digest(good, mac):
            raise SaxError("Unauthenticated", "the request is not signed with this cell's key")
        now = self._clock()
        if not stamp.isdigit() or abs(now - float(stamp)) > FRESH_SECONDS or nonce in self._seen:
            raise SaxError("Unauthenticated", "the request's signature is too old or was used before")
        self._seen[nonce] = now
        while now - next(iter(self._seen.values())) >= 2 * FRESH_SECONDS:
            self._seen.popitem(last=False)
        return nonce


def check_answer(key: bytes, nonce: str, status: int, header: str | None, body: bytes) -> None:
    if not hmac.compare_digest(sign_answer(key, nonce, status, body).encode(), (header or "").encode()):
        if status == 401:  # by who has another key, or by no member at all
            raise SaxError("Unauthenticated", "the cell refuses this machine's key")
        raise SaxError("Unauthenticated", "the answer is not signed with this cell's key")


async def ask(address: str, path: str, payload: object, key: bytes | None, timeout: float) -> Any:
    """POST; the decoded answer. SaxError for what the other side refuses, Unavailable when it can't be reached."""
    try:
        async with asyncio.timeout(timeout):
            return await _ask(address, path, payload, key)
    except TimeoutError:
        raise SaxError("Unavailable", f"{address} gave no answer within {timeout:g} s") from None
    except OSError as error:
        raise SaxError("Unavailable", f"{address} can not be reached: {error.strerror or error}") from None
    except (ValueError, asyncio.IncompleteReadError) as error:
        raise SaxError("Unavailable", f"{address} does not answer as a cell does: {error}") from None


async def _ask(address: str, path: str, payload: object, key: bytes | None) -> Any:
    body = json.dumps(payload).encode()
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        header, nonce = sign_request(key, path, body, time.time()) if key else ("", "")
        signature = f"{HEADER}: {header}\r\n" if key else ""
        head = f"{_request_line('POST', path)}Host: localhost\r\nContent-Type: application/json\r\n{signature}"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        status, headers, content = await _answer(reader)
    except IndexError:
        raise ValueError("no HTTP") from None
    finally:
        writer.close()
    return _decoded(status, headers.get(HEADER), content, key, nonce)


@dataclass(frozen=True)
class Relayed:
    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]


async def relay(socket: Path, method: str, path: str, signature: str | None, body: bytes) -> Relayed:
    """What the control plane's socket answers, as it is: for messages whose signature is not ours to check."""
    head = f"{_request_line(method, path)}Host: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    head += f"{HEADER}: {signature}\r\n" if signature and signature.isprintable() else ""
    try:
        async with asyncio.timeout(RELAY_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(head.encode() + b"\r\n" + body)
                status, headers, content = await _answer(reader)
            finally:
                writer.close()
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
        raise SaxError("Unavailable", "the control plane gives no answer") from None
    kept = tuple((name, value) for name, value in headers.items() if name == HEADER)
    return Relayed(status, content, headers.get("content-type", "application/json"), kept)


def _request_line(method: str, path: str) -> str:
    """InvalidArgument for a path that would end the line: what follows would be another request, in our name."""
    if not all("!" <= sign <= "~" for sign in path):
        raise invalid("a path holds letters, digits and signs only")
    return f"{method} {path} HTTP/1.1\r\n"


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status = int((await reader.readline()).split(b" ")[1])
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", -1))
    content = await (reader.readexactly(min(length, MAX_BODY)) if length >= 0 else reader.read(MAX_BODY))
    return status, headers, content


def ask_now(address: str, path: str, payload: object, key: bytes | None, timeout: float, token: str | None = None) -> Any:
    """The same for programs that have no event loop."""
    body = json.dumps(payload).encode()
    connection = http.client.HTTPConnection(address, timeout=timeout)
    header, nonce = sign_request(key, path, body, time.time()) if key else ("", "")
    try:
        headers = {"content-type": "application/json"} | ({HEADER: header} if key else {})
        connection.request("POST", path, body, headers | ({"authorization": f"Bearer {token}"} if token else {}))
        answer = connection.getresponse()
        content = answer.read(MAX_BODY)
    except TimeoutError:
        raise SaxError(
            "DeadlineExceeded", f"context deadline exceeded: {address} gave no answer in {timeout:g} s"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise SaxError("Unavailable", f"{address} can not be reached: {error}") from None
    finally:
        connection.close()
    return _decoded(answer.status, answer.headers.get(HEADER), content, key, nonce)


def _decoded(status: int, signature: str | None, content: bytes, key: bytes | None, nonce: str) -> Any:
    if key:
        check_answer(key, nonce, status, signature, content)
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if status >= 400:
        raise from_answer(status, answer)
    return answer
