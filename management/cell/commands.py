"""`flambeau admin-config`, `flambeau admin`, `flambeau model-server`: a cell's processes, each where it should run.

The flags are Sax's. Not for: a cell on one machine, which is `flambeau start --set cell=/sax/<cell>`.
"""

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

import click

from ..launcher import command
from .admin import serve_admin
from .errors import SaxError
from .names import check_acl, parse_cell
from .root import CellRoot, required_root

sax_root = click.option("--sax_root", "--sax-root", help="Where cells are found; the variable SAX_ROOT when not given.")
sax_cell = click.option("--sax_cell", "--sax-cell", required=True, help="/sax/<cell>")


@click.command("admin-config")
@sax_cell
@sax_root
@click.option("--fs_root", "--fs-root", required=True, help="Where the admin keeps what is published.")
@click.option("--admin_acl", "--admin-acl", default="", help="Who may publish: acl/all, acl/admin, acl/inference.")
def admin_config(sax_cell: str, sax_root: str | None, fs_root: str, admin_acl: str) -> None:
    """Make a cell, once; again to change its configuration."""
    try:
        check_acl(admin_acl)
        CellRoot(required_root(sax_root), sax_cell).create(fs_root, admin_acl)
    except SaxError as error:
        _fail(error)


@click.command()
@sax_cell
@sax_root
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for other machines.")
@click.option("--port", default=10000, show_default=True, help="Of the admin and its status page.")
@click.option("--prune_seconds", default=10.0, show_default=True, help="A server that is silent for so long is dead.")
def admin(sax_cell: str, sax_root: str | None, host: str, port: int, prune_seconds: float) -> None:
    """Run the admin of a cell; a second one stands by."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve_admin(CellRoot(required_root(sax_root), sax_cell), host, port, prune_seconds))
    except SaxError as error:
        _fail(error)
    except OSError as error:
        raise SystemExit(f"flambeau: {host}:{port}: {error.strerror}") from None


@click.command("model-server")
@sax_cell
@sax_root
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for other machines.")
@click.option("--port", default=10001, show_default=True, help="Of Sax's HTTP protocol: the server's address in the cell.")
@click.option("--platform_chip", default="cpu", show_default=True, help="Accelerator, as its memory is counted.")
@click.option("--platform_topology", default="1", show_default=True, help="How many of them.")
@click.option("--tags", default="", help="What models may ask for by `constraints`, comma-separated.")
@click.option("--model_filter_regex", default="", help="Only model paths that match it as a whole are served.")
@click.option("--admin_port", type=int, help="Also be the cell's admin (at --port).")
@click.option("--model_store", "--model-store", help="Folder of model archives, served as store.<name>.")
@click.option("--state", default=None, help="Folder for logs and state; model-server-<port> when not given.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any setting of config.properties.")
def model_server(
    sax_cell: str,
    sax_root: str | None,
    host: str,
    port: int,
    platform_chip: str,
    platform_topology: str,
    tags: str,
    model_filter_regex: str,
    admin_port: int | None,
    model_store: str | None,
    state: str | None,
    pairs: tuple[str, ...],
) -> None:
    """Run a server that joins a cell and serves what it is told to."""
    try:
        parse_cell(sax_cell)
        root = required_root(sax_root)
    except SaxError as error:
        _fail(error)
    folder = Path(state or f"model-server-{port}").absolute()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    settings = {
        "cell": sax_cell,
        "sax_root": root if "://" in root else str(Path(root).absolute()),
        "sax_address": f"http://{host}:{port}",
        "cell_admin": "true" if admin_port is not None else "false",
        "cell_chip": platform_chip,
        "cell_topology": platform_topology,
        "cell_tags": tags,
        "cell_model_filter": model_filter_regex,
        "model_store": str(Path(model_store or folder).absolute()),
    }
    ports = free_ports(3)
    for name, free in zip(("inference", "management", "metrics"), ports, strict=True):
        settings[f"{name}_address"] = f"http://127.0.0.1:{free}"
    said = [*(f"{key}={value}" for key, value in settings.items()), *pairs]  # of two that differ the last one wins
    argv = command(["--foreground", *(item for pair in said for item in ("--set", pair))])
    environment = os.environ | {"LOG_LOCATION": str(folder / "logs"), "TMPDIR": str(_short(folder / "tmp"))}
    os.chdir(folder)  # a config.properties of the present folder is another server's
    os.execve(sys.executable, argv, environment)


def free_ports(count: int) -> list[int]:
    """That nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _short(folder: Path) -> Path:
    """Unix sockets live there, whose names may be a hundred bytes long; the system's own folder else."""
    return folder if len(str(folder)) < 50 else Path(os.environ.get("TMPDIR", "/tmp"))


def _fail(error: SaxError) -> NoReturn:
    raise SystemExit(f"flambeau: {error.text}")


COMMANDS = (admin_config, admin, model_server)
