"""ManagementAPIsService: each call is the REST call that it stands for, made on the control plane's socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from .errors import code_of, words
from .messages import message

PACKAGE = "org.pytorch.serve.grpc.management"
TIMEOUT_SECONDS = 600  # a synchronous registration waits for its workers
MAX_ANSWER_BYTES = 1 << 24


class Management:
    def __init__(self, control_socket: Path) -> None:
        self._socket = control_socket
        self._response = message(f"{PACKAGE}.ManagementResponse")

    def methods(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        return {
            "DescribeModel": self._calling("GET", lambda r: path_of(r), "customized"),
            "ListModels": self._calling("GET", lambda r: "/models", "limit", "next_page_token"),
            "RegisterModel": self._calling("POST", lambda r: "/models", *REGISTER),
            "ScaleWorker": self._calling("PUT", lambda r: path_of(r), "max_worker", "min_worker", "synchronous", "timeout"),
            "SetDefault": self._calling("PUT", lambda r: path_of(r) + "/set-default"),
            "UnregisterModel": self._calling("DELETE", lambda r: path_of(r)),
        }

    def _calling(self, method: str, path: Callable[[Any], str], *fields: str) -> Callable[..., Awaitable[Any]]:
        """`fields` become the query; those at their type's default were not given."""

        async def call(request: Any, context: Any) -> Any:
            given = {field: getattr(request, field) for field in fields if getattr(request, field)}
            query = urlencode({name: "true" if value is True else value for name, value in given.items()})
            authorization = dict(context.invocation_metadata() or ()).get("authorization", "")
            status, body = await ask(self._socket, method, f"{path(request)}?{query}", authorization)
            if status >= 400:
                await context.abort(code_of(status), refusal(body))
            return self._response(msg=told(body))

        return call


REGISTER = (
    "batch_size", "handler", "initial_workers", "max_batch_delay", "model_name", "response_timeout", "runtime",
    "synchronous", "url", "s3_sse_kms", "startup_timeout",
)  # fmt: skip


def told(body: str) -> str:
    """The words of a status, which TorchServe sends bare; all else is the REST API's JSON."""
    answer = json.loads(body)
    return str(answer["status"]) if isinstance(answer, dict) and list(answer) == ["status"] else body.rstrip("\n")


def refusal(body: str) -> str:
    error = json.loads(body)
    return words(error["message"], error["type"])


def path_of(request: Any) -> str:
    version = f"/{quote(request.model_version, safe='')}" if request.model_version else ""
    return f"/models/{quote(request.model_name, safe='')}{version}"


async def ask(socket: Path, method: str, target: str, authorization: str = "") -> tuple[int, str]:
    """One HTTP call on a unix socket: the status and the body."""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n"
    if authorization and "\n" not in authorization:
        head += f"Authorization: {authorization}\r\n"
    async with asyncio.timeout(TIMEOUT_SECONDS):
        reader, writer = await asyncio.open_unix_connection(str(socket), limit=MAX_ANSWER_BYTES)
        try:
            writer.write(f"{head}\r\n".encode())
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
            return status, (await reader.read(MAX_ANSWER_BYTES)).decode()
        finally:
            writer.close()
