"""The data plane's processes as the control plane starts them: gunicorn's master over HTTP, and one process for gRPC.

They and we meet in the options file's keys; nothing of theirs is imported here.
"""

import asyncio
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import addresses, sockets
from .addresses import Address
from .errors import StartError
from .kept import Kept
from .processes import Children
from .settings import Settings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02


def http_master(children: Children, runtime: Path, environment: Mapping[str, str]) -> Kept:
    argv = [sys.executable, "-m", "flambeau.frontend.server", str(runtime)]
    return Kept("HTTP processes", children, argv, environment)


def grpc_process(settings: Settings, children: Children, runtime: Path, environment: Mapping[str, str]) -> Kept | None:
    """Where the extra `grpc` is installed; a port of 0 leaves it out, one that is taken too: HTTP is served all the same."""
    inference = addresses.grpc(settings.grpc_inference_address, settings.grpc_inference_port)
    management = addresses.grpc(settings.grpc_management_address, settings.grpc_management_port)
    if not (inference and management and importlib.util.find_spec("grpc")):
        return None
    try:
        for address in (inference, management):
            sockets.require_free(address)
    except StartError as taken:
        logger.error("gRPC is not served: %s (grpc_inference_port, grpc_management_port)", taken)
        return None
    argv = [sys.executable, "-m", "flambeau.frontend.grpc_api.server", str(runtime)]
    return Kept("gRPC", children, [*argv, "--inference", inference.bind, "--management", management.bind], environment)


async def accepting(address: Address, timeout_seconds: float) -> None:
    """StartError when nobody accepts there in time."""
    deadline = time.monotonic() + timeout_seconds
    while not await _accepts(address):
        if time.monotonic() > deadline:
            raise StartError(f"the HTTP processes do not serve {address.url} after {timeout_seconds:g} s; see ts_log.log")
        await asyncio.sleep(POLL_SECONDS)


def write_options(runtime: Path, options: Mapping[str, Any]) -> None:
    """Replaced atomically; the processes read it once, when they start (`frontend.options`)."""
    next_ = runtime / "frontend.json.next"
    next_.write_text(json.dumps(options))
    os.replace(next_, runtime / "frontend.json")


async def _accepts(address: Address) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    try:
        if address.scheme == "unix":
            _, writer = await asyncio.open_unix_connection(address.path)
        else:
            _, writer = await asyncio.open_connection(host, address.port)
    except OSError:
        return False
    writer.close()
    return True
