"""The process that answers gRPC: `python -m flambeau.frontend.grpc_api.server RUNTIME --inference HOST:PORT --management HOST:PORT`

The supervisor execs it when the extra `grpc` is installed. Not for: any state.
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
from ..dispatch import SequenceHeaders
from ..gate import Gate
from ..metrics import Metrics
from ..metrics_log import MetricsLog
from ..models import TICK_SECONDS, Models
from ..options import ConnectionAge, FrontendOptions, read_options
from ..server import die_with, parent
from ..tally import tally_of
from .access import KeyCheck
from .inference import PACKAGE as INFERENCE
from .inference import Inference
from .management import PACKAGE as MANAGEMENT
from .management import Management
from .messages import KSERVE_OIP, TORCHSERVE_OIP, service
from .open_inference import OpenInference

logger = logging.getLogger(__name__)

FOR_EVER = ConnectionAge()


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
    log = MetricsLog(Path(options.metrics_log)) if options.metrics_log else None
    metrics = Metrics(runtime / "metrics", loop.call_later, log)
    models = Models(
        runtime,
        metrics,
        control.stalled,
        control.wake,
        options.max_response_bytes,
        options.stream_buffer_bytes,
        tally_of(runtime, options),
        sequence_headers=SequenceHeaders.of(options),
    )
    checks = [KeyCheck(Gate(runtime, options))] if options.authorizes else []
    servers = [
        await start(inference, inference_services(models, options), options, options.grpc_inference_age, checks),
        await start(management, management_services(runtime), options, options.grpc_management_age),
    ]
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        models.tick(loop.time())
        if log:
            log.flush()
            log.reopen()
        await asyncio.sleep(TICK_SECONDS)
    await asyncio.gather(*(server.stop(options.drain_seconds) for server in servers))
    metrics.close()
    if log:
        log.close()


def inference_services(models: Models, options: FrontendOptions) -> list[grpc.GenericRpcHandler]:
    services = [service(f"{INFERENCE}.InferenceAPIsService", Inference(models).methods())]
    return services + [
        service(f"{package}.GRPCInferenceService", OpenInference(models, package, options.server_version).methods())
        for package in (TORCHSERVE_OIP, KSERVE_OIP)
    ]


def management_services(runtime: Path) -> list[grpc.GenericRpcHandler]:
    """They check no key: the control plane does, to which all is passed on."""
    return [service(f"{MANAGEMENT}.ManagementAPIsService", Management(runtime / "control.sock").methods())]


async def start(
    address: str,
    services: list[grpc.GenericRpcHandler],
    options: FrontendOptions,
    age: ConnectionAge = FOR_EVER,
    checks: Sequence[KeyCheck] = (),
) -> grpc.aio.Server:
    ages = {"grpc.max_connection_age_ms": age.most, "grpc.max_connection_age_grace_ms": age.grace}
    server = grpc.aio.server(
        interceptors=checks,
        options=[
            ("grpc.max_receive_message_length", options.max_request_bytes),
            ("grpc.max_send_message_length", options.max_response_bytes),
            ("grpc.so_reuseport", 0),
            *((name, milliseconds) for name, milliseconds in ages.items() if milliseconds is not None),
        ],
    )
    for handler in services:
        server.add_generic_rpc_handlers((handler,))
    if options.grpc_tls:
        server.add_secure_port(address, credentials(options))
    else:
        server.add_insecure_port(address)
    await server.start()
    return server


def credentials(options: FrontendOptions) -> grpc.ServerCredentials:
    assert options.certificate_file and options.private_key_file  # or the server would have refused to start
    key, chain = (Path(file).read_bytes() for file in (options.private_key_file, options.certificate_file))
    return grpc.ssl_server_credentials([(key, chain)])


if __name__ == "__main__":
    main()
