"""A small Python client of the server's two APIs; the standard library alone.

    from flambeau.client import Client
    Client().predict("digits", open("seven.png", "rb").read())

Not for: streams and the OpenAI protocol, which other people's clients speak well.
"""

import functools
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode


class ServerError(Exception):
    """The server refused or failed; `cause` says what happened to its workers, where it knows."""

    def __init__(self, status: int, kind: str, message: str, cause: str = "") -> None:
        super().__init__(f"{status} {kind}: {message}" + (f" ({cause})" if cause else ""))
        self.status, self.kind, self.message, self.cause = status, kind, message, cause


class Unreachable(Exception):
    """Nobody listens there."""


@dataclass(frozen=True)
class Client:
    inference: str = "http://127.0.0.1:8080"
    management: str = "http://127.0.0.1:8081"
    metrics: str = "http://127.0.0.1:8082"
    token: str | None = None
    timeout_seconds: float = 300.0

    def ping(self) -> str:
        """ "Healthy", "Unhealthy"."""
        try:
            return str(json.loads(self._call("GET", self.inference, "/ping"))["status"])
        except ServerError as error:
            if error.status in (500, 503):
                return "Unhealthy"
            raise

    def predict(
        self, model: str, body: bytes, version: str | None = None, content_type: str = "application/octet-stream"
    ) -> bytes:
        return self._call("POST", self.inference, f"/predictions/{_path(model, version)}", body, content_type)

    def register(self, url: str, **parameters: Any) -> str:
        """`parameters` as POST /models has them: model_name, initial_workers, batch_size, synchronous, …"""
        return self._status("POST", f"/models?{_query(url=url, **parameters)}")

    def models(self) -> list[dict[str, str]]:
        """Name and URL of each, whatever their number."""
        found: list[dict[str, str]] = []
        token: str | None = None
        while True:
            page = self._json("GET", f"/models?{_query(next_page_token=token)}")
            found += page["models"]
            token = page.get("nextPageToken")
            if token is None:
                return found

    def describe(self, model: str, version: str | None = None, *, customized: bool = False) -> list[dict[str, Any]]:
        found = self._json("GET", f"/models/{_path(model, version)}" + ("?customized=true" if customized else ""))
        return list(found)

    def scale(
        self, model: str, workers: int, version: str | None = None, *, most: int | None = None, synchronous: bool = True
    ) -> str:
        query = _query(min_worker=workers, max_worker=most, synchronous=synchronous)
        return self._status("PUT", f"/models/{_path(model, version)}?{query}")

    def set_default(self, model: str, version: str) -> str:
        return self._status("PUT", f"/models/{_path(model, version)}/set-default")

    def unregister(self, model: str, version: str | None = None) -> str:
        return self._status("DELETE", f"/models/{_path(model, version)}")

    def _status(self, method: str, path: str) -> str:
        return str(self._json(method, path)["status"])

    def _json(self, method: str, path: str) -> Any:
        return json.loads(self._call(method, self.management, path))

    def _call(
        self, method: str, address: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        headers = {"Content-Type": content_type} if body is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        by_socket = [_UnixSockets(address.removeprefix("unix:"))] if address.startswith("unix:") else []
        opener = urllib.request.build_opener(*by_socket)
        url = ("http://localhost" if by_socket else address) + path
        try:
            request = urllib.request.Request(url, body, headers, method=method)
            with opener.open(request, timeout=self.timeout_seconds) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                why = f"{error.reason.verify_message}; SSL_CERT_FILE names a certificate to trust"
                raise Unreachable(f"{address}: {why}") from None
            raise Unreachable(f"no server answers at {address}; `flambeau start` starts one") from None


class _UnixSockets(urllib.request.HTTPHandler):
    """Every request goes to one socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_UnixConnection, self._path), request)  # type: ignore[arg-type]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, host: str, **named: Any) -> None:
        super().__init__(host, **named)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _refusal(error: urllib.error.HTTPError) -> ServerError:
    body = error.read()
    cause = error.headers.get("x-flambeau-cause", "")
    try:
        told = json.loads(body)
        return ServerError(error.code, told["type"], told["message"], cause)
    except (ValueError, KeyError, TypeError):
        return ServerError(error.code, error.reason, body.decode("utf-8", "replace")[:500], cause)


def _path(model: str, version: str | None) -> str:
    return quote(model, safe="") + (f"/{quote(version, safe='')}" if version else "")


def _query(**parameters: Any) -> str:
    given = {key: str(value).lower() if isinstance(value, bool) else value for key, value in parameters.items()}
    return urlencode({key: value for key, value in given.items() if value is not None})


def content_type_of(body: str | None) -> str:
    """What a body that was typed on a command line is meant to be."""
    return "application/json" if body and body.lstrip()[:1] in "{[" else "application/octet-stream"
