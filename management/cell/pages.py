"""The cell's status pages, as plain HTML: the cell, one model, one server."""

from html import escape

from .cell import Cell
from .errors import SaxError, not_found
from .messages import ModelStatus, ServerStatus

LOOKS = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{color-scheme:light dark}body{font-family:sans-serif;margin:1.5em;overflow-wrap:anywhere}
td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #888}</style>"""


def page(cell: Cell, path: str) -> str:
    """The page at `path`; NotFound for a model or server that is not there."""
    if path.startswith("/model/"):
        return _model_page(cell, path.removeprefix("/model"))
    if path.startswith("/server/"):
        return _server_page(cell, path.removeprefix("/server/"))
    models = [cell.status(model) for model in cell.models()]
    return _page(cell.name, f"{cell.name} Cell Status", _models(models) + _servers(cell.servers()))


def _model_page(cell: Cell, model: str) -> str:
    try:
        status = cell.status(model)
    except SaxError as error:
        raise not_found(f"Failed to list model {model}: {error.text}") from None
    servers = [server for server in cell.servers() if model in server.models]
    failures = _table("Failures", ["Server", "Reason"], [list(item) for item in sorted(status.failures.items())])
    return _page(model, f"{cell.name} Model Status", _models([status], f"Model {model}") + _servers(servers) + failures)


def _server_page(cell: Cell, address: str) -> str:
    server = next((server for server in cell.servers() if server.address == address), None)
    if server is None:
        raise not_found(f"Failed to locate server {address}")
    models = [cell.status(model) for model in server.models if model in cell.models()]
    return _page(address, f"{cell.name} Server Status", _servers([server], f"Server {address}") + _models(models))


def _models(models: list[ModelStatus], title: str = "Models") -> str:
    rows = [[m.model, str(m.max_replicas), str(m.active_replicas), m.model_path, m.checkpoint] for m in models]
    return _table(title, ["Name", "Max", "Active", "Path", "Checkpoint"], rows, link="/model")


def _servers(servers: list[ServerStatus], title: str = "Servers") -> str:
    rows = []
    for server in servers:
        models = ", ".join(f"{model}: {status}" for model, status in server.models.items()) or "Idle"
        machine = server.machine
        state = "Dormant" if set(server.models.values()) == {"DORMANT"} else "Active"
        rows.append([server.address, machine.chip, machine.topology, f"{server.lag_seconds:.3f}", models, state])
    return _table(title, ["Addr", "Chip", "Topo", "Lag (s)", "ModelStatus", "ServerStatus"], rows, link="/server/")


def _table(title: str, heads: list[str], rows: list[list[str]], link: str = "") -> str:
    lines = [f"<h2>{escape(title)}</h2>", "<table><tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    for first, *rest in rows:
        name = f'<a href="{escape(link + first)}">{escape(first)}</a>' if link else escape(first)
        lines.append(f"<tr><td>{name}</td>" + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _page(title: str, headline: str, content: str) -> str:
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{LOOKS}<title>{escape(title)}</title></head>'
    return f"{head}<body><h1>{escape(headline)}</h1>\n{content}</body></html>\n"
