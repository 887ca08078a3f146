"""The REST as a process: an event loop reads whole bodies, threads solve. A slow client costs a socket, not a thread."""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from ..wsgi import Adapter
from .api import LARGEST_BODY, create_app

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 8080
THREADS = 16
BODY_TIMEOUT_SECONDS = 30.0


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """INFERNO_HOST and INFERNO_PORT, or localhost:8080."""
    port = environ.get("INFERNO_PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"INFERNO_PORT={port}: not a port")
    return environ.get("INFERNO_HOST") or DEFAULT_HOST, int(port)


def serve(host: str, port: int, *, stateful: bool) -> None:
    """Until interrupted."""
    app = application(stateful=stateful)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_keep_alive=30, lifespan="off", ws="none")


def application(*, stateful: bool) -> Adapter:
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="solve")
    return Adapter(create_app(stateful=stateful), threads, LARGEST_BODY, body_seconds=BODY_TIMEOUT_SECONDS)


if __name__ == "__main__":
    serve(*address(os.environ), stateful="-F" in sys.argv[1:])
