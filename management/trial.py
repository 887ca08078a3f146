"""`flambeau try ARCHIVE [BODY]`: one worker in the foreground, its prints and its traceback in the terminal, no server.

What a dead worker's log line names: the same failure, seen where it can be debugged.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from ..archiver.errors import ArchiveError
from ..client import content_type_of
from .errors import ManagementError
from .one_model import Named, as_archive
from .own_worker import own_worker
from .settings import declared

ENVELOPES = declared()["service_envelope"].metadata["choices"]


@click.command("try")
@click.argument("archive")
@click.argument("body", required=False)
@click.option("--file", "-f", "file", type=click.File("rb"), help="The body, from a file; - is standard input.")
@click.option("--content-type", help="application/json for a BODY that looks like it, when not given.")
@click.option("--handler", help="The manifest's when not given.")
@click.option("--service-envelope", type=click.Choice(ENVELOPES), help="As in config.properties: how bodies are wrapped.")
@click.option("--model-store", default="model_store", show_default=True, help="Where ARCHIVE is when it is not here.")
def try_(
    archive: str,
    body: str | None,
    file: Any,
    content_type: str | None,
    handler: str | None,
    service_envelope: str | None,
    model_store: str,
) -> None:
    """Load ARCHIVE in the foreground and ask it once, if there is a BODY: what its handler prints is shown."""
    data = file.read() if file else body.encode() if body is not None else None
    kind = content_type or content_type_of(body)
    if not Path(archive).exists() and Path(model_store, archive).exists():
        archive = str(Path(model_store, archive))
    with tempfile.TemporaryDirectory(prefix="flambeau-try-") as folder:
        try:
            model = as_archive(archive, None, None, {}, Path(folder))
            asyncio.run(_try(model, Path(folder), data, kind, handler, service_envelope))
        except (ManagementError, ArchiveError) as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            sys.exit(130)


async def _try(
    model: Named, folder: Path, body: bytes | None, kind: str, handler: str | None, envelope: str | None
) -> None:
    """The answer goes to standard output, everything else to standard error."""
    began = time.monotonic()
    async with own_worker(model, folder, lambda stream, line: click.echo(line, err=True), handler, envelope) as worker:
        click.echo(f"loaded in {time.monotonic() - began:.1f} s", err=True)
        if body is None:
            return
        began = time.monotonic()
        async for part in worker.predict(body, kind):
            click.echo(part, nl=False)
        click.echo()
        click.echo(f"answered in {(time.monotonic() - began) * 1000:.1f} ms", err=True)
