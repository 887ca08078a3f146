"""The commands of `flambeau` that start a server and talk to it. What reads has --json, for scripts."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import click

from ..archiver.cli import main as archive_command
from ..client import Client, ServerError, Unreachable, content_type_of
from . import launcher
from .doctor import examine
from .errors import ManagementError, StartError
from .settings import declared
from .startup import arrange, parser

T = TypeVar("T")
FOLLOW_SECONDS = 0.2

as_json = click.option("--json", "as_json", is_flag=True, help="For programs: JSON on standard output.")
management_url = click.option("--management", help="The management API; that of the server that runs here by default.")


@click.command()
@click.argument("models", nargs=-1)
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="config.properties")
@click.option("--model-store", type=click.Path(exists=True, file_okay=False), help="Folder of model archives.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any setting; may be repeated.")
@click.option("--foreground", is_flag=True, help="Stay, and log to the terminal.")
@click.option("--no-state", "--ncs", "no_state", is_flag=True, help="Forget registered models when the server stops.")
@click.option("--insecure", is_flag=True, help="Start though management is open to the network without tokens.")
@click.option("--compat", is_flag=True, help="TorchServe's own defaults where ours are stricter.")
def start(
    models: tuple[str, ...],
    config: str | None,
    model_store: str | None,
    pairs: tuple[str, ...],
    foreground: bool,
    no_state: bool,
    insecure: bool,
    compat: bool,
) -> None:
    """Start the server, with MODELS loaded: `all`, archive.mar, name=archive.mar."""
    arguments: list[str] = []
    for flag, value in (("--ts-config", config), ("--model-store", model_store)):
        arguments += [flag, value] if value else []
    for pair in pairs:
        arguments += ["--set", pair]
    switches = {"--ncs": no_state, "--insecure": insecure, "--compat": compat}
    arguments += [flag for flag, on in switches.items() if on]
    arguments += ["--models", *models] if models else []
    if launcher.running_pid() is not None:
        _fail("a server runs already; `flambeau stop` ends it")
    if foreground:
        launcher.become(arguments)
    try:
        launcher.start(arguments)
    except StartError as error:
        _fail(str(error))
    if facts := launcher.running():
        click.echo(_first_screen(facts))


@click.command()
def stop() -> None:
    """Stop the server; requests in flight are answered first."""
    click.echo("stopped" if launcher.stop() else "no server runs")


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Whether a server runs, where, and how it is."""
    facts = launcher.running()
    if facts is None:
        click.echo(json.dumps({"running": False}) if as_json else "no server runs")
        sys.exit(3)
    health = _ask(lambda: client_for("inference").ping())
    if as_json:
        click.echo(json.dumps({"running": True, "health": health, **vars(facts)}, indent=2))
    else:
        click.echo(f"{health}\n{_first_screen(facts)}")


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def archive(arguments: tuple[str, ...]) -> None:
    """Pack a model archive; the options are torch-model-archiver's."""
    archive_command(list(arguments))


@click.command()
@click.argument("url")
@click.option("--name", help="The manifest's when not given.")
@click.option("--workers", default=1, show_default=True)
@click.option("--batch-size", type=int)
@click.option("--max-batch-delay", type=int, help="Milliseconds.")
@click.option("--handler", help="The manifest's when not given.")
@management_url
def register(
    url: str,
    name: str | None,
    workers: int,
    batch_size: int | None,
    max_batch_delay: int | None,
    handler: str | None,
    management: str | None,
) -> None:
    """Register the archive URL (a name in the model store) and wait for its workers."""
    given = {"model_name": name, "batch_size": batch_size, "max_batch_delay": max_batch_delay, "handler": handler}
    click.echo(
        _ask(lambda: client_for("management", management).register(url, initial_workers=workers, synchronous=True, **given))
    )


@click.command()
@click.argument("model")
@click.argument("workers", type=int)
@click.option("--version", "version")
@management_url
def scale(model: str, workers: int, version: str | None, management: str | None) -> None:
    """Give MODEL as many WORKERS."""
    click.echo(_ask(lambda: client_for("management", management).scale(model, workers, version)))


@click.command()
@click.argument("model", required=False)
@as_json
@management_url
def models(model: str | None, as_json: bool, management: str | None) -> None:
    """The registered models, or all about one."""
    client = client_for("management", management)
    names = [model] if model else [found["modelName"] for found in _ask(client.models)]
    found = [version for name in names for version in _ask(lambda name=name: client.describe(name, "all"))]  # type: ignore[misc]
    if as_json or model:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no models are registered", err=True)
    for version in found:
        ready = sum(worker["status"] == "READY" for worker in version["workers"])
        trouble = f"  {version['lastError']}" if version.get("lastError") else ""
        click.echo(
            f"{version['modelName']:<24} {version['modelVersion']:<8} {ready}/{version['minWorkers']} ready{trouble}"
        )


@click.command()
@click.argument("model")
@click.argument("body", required=False)
@click.option("--file", "-f", "file", type=click.File("rb"), help="The body, from a file; - is standard input.")
@click.option("--content-type", default=None)
@click.option("--version", "version")
@click.option("--inference", help="The inference API; that of the server that runs here by default.")
def predict(
    model: str, body: str | None, file: Any, content_type: str | None, version: str | None, inference: str | None
) -> None:
    """Ask MODEL; the BODY is text or JSON, or comes from --file."""
    data = file.read() if file else (body or "").encode()
    kind = content_type or content_type_of(body)
    click.echo(_ask(lambda: client_for("inference", inference).predict(model, data, version, kind)))


@click.command()
@click.option("--model", help="Lines of this model's workers only.")
@click.option("--server", is_flag=True, help="The server's own log instead of the models'.")
@click.option("--lines", "-n", default=20, show_default=True)
@click.option("--follow", "-f", is_flag=True)
def logs(model: str | None, server: bool, lines: int, follow: bool) -> None:
    """What the models' handlers printed, or what the server logged."""
    facts = launcher.running()
    path = Path(facts.logs if facts else "logs") / ("ts_log.log" if server else "model_log.log")
    if not path.is_file():
        _fail(f"{path}: no such file")
    with path.open(encoding="utf-8", errors="replace") as file:
        shown = [line for line in file if not model or f"-{model}_" in line][-lines:]
        click.echo("".join(shown), nl=False)
        while follow:
            line = file.readline()
            if not line:
                time.sleep(FOLLOW_SECONDS)
            elif not model or f"-{model}_" in line:
                click.echo(line, nl=False)


@click.command()
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False), help="config.properties")
@click.option("--show-origin", is_flag=True, help="Where each value comes from.")
@as_json
def config(path: str | None, show_origin: bool, as_json: bool) -> None:
    """The settings in force."""
    try:
        loaded, _ = arrange(parser("flambeau").parse_args(["--ts-config", path] if path else []))
    except ManagementError as error:
        _fail(str(error))
    values = {name: getattr(loaded.settings, name) for name in declared()}
    if as_json:
        click.echo(json.dumps(values | ({"origins": loaded.origins} if show_origin else {}), indent=2))
        return
    for name, value in values.items():
        origin = f"    # {loaded.origins.get(name, 'default')}" if show_origin else ""
        click.echo(f"{name}={_text(value)}{origin}")
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@as_json
def doctor(paths: tuple[Path, ...], as_json: bool) -> None:
    """What will differ from TorchServe for these archives and config.properties; fails when something will not work."""
    found = [finding for path in paths for finding in examine(path)]
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(f"{finding.level:<8} {finding.where}: {finding.words}")
        click.echo(f"{sum(finding.level == 'error' for finding in found)} errors in {len(paths)} files")
    sys.exit(any(finding.level == "error" for finding in found))


COMMANDS = (start, stop, status, archive, register, scale, models, predict, logs, config, doctor)


def _first_screen(facts: launcher.Running) -> str:
    return "\n".join(
        [
            f"inference   {facts.inference}",
            f"management  {facts.management}",
            f"metrics     {facts.metrics}/metrics",
            f"logs        {facts.logs}",
            "",
            f'  curl -X POST "{facts.management}/models?url=NAME.mar&initial_workers=1"',
            f"  curl {facts.inference}/predictions/NAME -T FILE",
        ]
    )


def client_for(api: Literal["inference", "management"], address: str | None = None) -> Client:
    """For this API of the server that runs here, or at `address`."""
    here = launcher.running()
    known = here or Client()
    client = Client(
        known.inference, known.management, known.metrics, _key(api, here.key_file if here and not address else "")
    )
    if address:
        return replace(client, inference=address) if api == "inference" else replace(client, management=address)
    return client


def _key(api: str, key_file: str) -> str | None:
    """FLAMBEAU_INFERENCE_KEY or FLAMBEAU_MANAGEMENT_KEY; that of the server here from its key file, if we may read it."""
    if given := os.environ.get(f"FLAMBEAU_{api.upper()}_KEY"):
        return given
    try:
        return str(json.loads(Path(key_file).read_text())[api]["key"]) if key_file else None
    except (OSError, ValueError, KeyError):
        return None


def _ask(question: Callable[[], T]) -> T:
    try:
        return question()
    except (ServerError, Unreachable) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    raise click.ClickException(message)


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
