"""The REST as a process: an event loop reads whole bodies, threads solve. A slow client costs a socket, not a thread."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from ..hosts import answered
from ..wsgi import JSON, Adapter, Message, Receive, Send, answer
from .api import LARGEST_BODY, create_app

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8080
THREADS = 16
BODY_TIMEOUT_SECONDS = 30.0
TOO_LARGE = b'{"message": "The body has more than %d MiB."}' % (LARGEST_BODY >> 20)
ENDING = b'{"message": "The server ends; nothing was solved."}'
GRACE_SECONDS = 5  # for requests under way when the end is asked for


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """INFERNO_HOST and INFERNO_PORT, or localhost:8080."""
    port = environ.get("INFERNO_PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"INFERNO_PORT={port}: not a port")
    return environ.get("INFERNO_HOST") or DEFAULT_HOST, int(port)


def serve(host: str, port: int, *, stateful: bool, allowed_hosts: Iterable[str] = ()) -> None:
    """Until interrupted. What is still being solved after GRACE_SECONDS ends with the process: threads can't be stopped."""
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port} (its page: /docs)", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises again what it has obeyed
    uvicorn.run(
        application(host, stateful=stateful, allowed_hosts=allowed_hosts), host=host, port=port, log_level="warning",
        timeout_keep_alive=30, timeout_graceful_shutdown=GRACE_SECONDS, lifespan="off", ws="none",
    )  # fmt: skip
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Solving(Adapter):
    """Who still waits when the process ends is told so."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await answer(send, 503, JSON, ENDING)


def application(host: str = DEFAULT_HOST, *, stateful: bool, allowed_hosts: Iterable[str] = ()) -> Solving:
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="solve")
    app = create_app(stateful=stateful, hosts=answered([host], allowed_hosts))
    return Solving(app, threads, LARGEST_BODY, too_large=TOO_LARGE, body_seconds=BODY_TIMEOUT_SECONDS)


if __name__ == "__main__":
    serve(*address(os.environ), stateful="-F" in sys.argv[1:])
