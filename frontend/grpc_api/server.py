"""The process that answers gRPC: `python -m flambeau.frontend.grpc_api.server RUNTIME --inference HOST:PORT --management HOST:PORT`

The supervisor execs it when the extra `grpc` is installed. Not for: TLS termination in front of it, or any state.
"""

import argparse
import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import grpc
import uvloop

from ..control import Control
from ..gate import Gate
from ..metrics import Metrics
from ..models import TICK_SECONDS, Models
from ..options import FrontendOptions, read_options
from ..server import die_with, metrics_folder, parent
from .access import KeyCheck
from .inference import PACKAGE as INFERENCE
from .inference import Inference
from .management import PACKAGE as MANAGEMENT
from .management import Management
from .messages import KSERVE_OIP, TORCHSERVE_OIP, service
from .open_inference import OpenInference

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="flambeau.frontend.grpc_api.server", description="The gRPC services.")
    parser.add_argument("runtime", type=Path)
    parser.add_argument("--inference", required=True, help="host:port")
    parser.add_argument("--management", required=True, help="host:port")
    given = parser.parse_args(arguments)
    die_with(parent())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us; the supervisor decides what it means
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.runtime, given.inference, given.management))


async def serve(runtime: Path, inference: str, management: str) -> None:
    """Until SIGTERM; then what runs may finish."""
    options, loop, stop = read_options(runtime), asyncio.get_running_loop(), asyncio.Event()
    control = Control(runtime / "control.sock")
    metrics = Metrics(metrics_folder(runtime, options), loop.call_later)
    models = Models(
        runtime, metrics, control.stalled, control.wake, options.max_response_bytes, options.stream_buffer_bytes
    )
    checks = [KeyCheck(Gate(runtime, options))] if options.token_authorization else []
    servers = [
        await start(inference, inference_services(models, options), options, checks),
        await start(
            management,
            [service(f"{MANAGEMENT}.ManagementAPIsService", Management(runtime / "control.sock").methods())],
            options,
        ),
    ]
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        models.tick(loop.time())
        await asyncio.sleep(TICK_SECONDS)
    await asyncio.gather(*(server.stop(options.drain_seconds) for server in servers))
    metrics.close()


def inference_services(models: Models, options: FrontendOptions) -> list[grpc.GenericRpcHandler]:
    services = [service(f"{INFERENCE}.InferenceAPIsService", Inference(models).methods())]
    if options.open_inference_protocol:
        services += [
            service(f"{package}.GRPCInferenceService", OpenInference(models, package, options.server_version).methods())
            for package in (TORCHSERVE_OIP, KSERVE_OIP)
        ]
    return services


async def start(
    address: str, services: list[grpc.GenericRpcHandler], options: FrontendOptions, checks: Sequence[KeyCheck] = ()
) -> grpc.aio.Server:
    """Management has no check here: the control plane checks what is passed on."""
    server = grpc.aio.server(
        interceptors=checks,
        options=[
            ("grpc.max_receive_message_length", options.max_request_bytes),
            ("grpc.max_send_message_length", options.max_response_bytes),
            ("grpc.so_reuseport", 0),
        ],
    )
    for handler in services:
        server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    return server


if __name__ == "__main__":
    main()
