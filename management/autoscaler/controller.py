"""`flambeau control`: Inferno's controller, for fleets that are not ours: collect, optimize, update, every period.

The servers come from a collector, or from server-data.json with their loads from Prometheus; all else from accelerator-, model-,
serviceclass-, capacity- and optimizer-data.json, read anew each time. A cycle that fails changes nothing and is told; an empty
collection changes nothing either.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from .http_client import RequestFailed, Server

logger = logging.getLogger(__name__)

FILES = ("accelerator-data", "model-data", "serviceclass-data", "capacity-data", "optimizer-data")
DEFAULT_PORT = 8080
CYCLE_SECONDS = 120.0  # the longest a cycle may take


@dataclass(frozen=True)
class Services:
    collector: Server
    optimizer: Server
    actuator: Server


def services(environ: Mapping[str, str]) -> Services:
    """COLLECTOR_HOST and COLLECTOR_PORT, likewise INFERNO_ and ACTUATOR_; localhost:8080 each."""

    def at(prefix: str) -> Server:
        return Server.at(f"{environ.get(f'{prefix}_HOST') or 'localhost'}:{environ.get(f'{prefix}_PORT') or DEFAULT_PORT}")

    return Services(at("COLLECTOR"), at("INFERNO"), at("ACTUATOR"))


async def cycle(data: Path, at: Services, prometheus: str | None = None) -> int:
    """How many servers have an allocation now."""
    from .inferno import collect, drive, read_system, watched

    system, spec = read_system([data / f"{name}.json" for name in FILES])
    async with asyncio.timeout(CYCLE_SECONDS):
        if prometheus is None:
            servers = await collect(at.collector)
        else:
            servers = await asyncio.to_thread(watched, data / "server-data.json", prometheus)
        answer = await drive(servers, at.optimizer, at.actuator, system, spec)
    return len(answer.get("allocations", {}))


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--period", type=click.FloatRange(0), help="Seconds; 0: once. Default: INFERNO_CONTROL_PERIOD, or 60.")
@click.option(
    "--prometheus", metavar="URL", help="Instead of a collector: vLLM's metrics of each server, by its name as their job."
)
def control(data: Path, period: float | None, prometheus: str | None) -> None:
    """Drive others' collector, optimizer and actuator with the files in DATA.

    COLLECTOR_HOST, COLLECTOR_PORT, INFERNO_HOST, INFERNO_PORT, ACTUATOR_HOST and ACTUATOR_PORT say where they are.
    """
    pause = float(os.environ.get("INFERNO_CONTROL_PERIOD") or 60) if period is None else period
    asyncio.run(_run(data, services(os.environ), pause, prometheus))


async def _run(data: Path, at: Services, pause: float, prometheus: str | None) -> None:
    while True:
        try:
            click.echo(f"{await cycle(data, at, prometheus)} servers have an allocation")
        except (OSError, RequestFailed, TimeoutError, ValueError, LookupError) as error:
            if not pause:
                raise click.ClickException(str(error)) from None
            logger.warning("A cycle is skipped: %s", error)
        if not pause:
            return
        await asyncio.sleep(pause)
