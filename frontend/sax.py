"""Sax's HTTP server, on a listener of its own: its routes, and the verbs of the cell: publish, list, update, unpublish.

Those go to the cell's admin; what models are asked is `sax_methods`. Errors have one body, which suits Sax's clients and
TorchServe's alike. Not for: the cell, which is `management.cell`.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..management.cell import names, wire
from ..management.cell.errors import not_found
from . import sax_inputs
from .models import Models
from .options import FrontendOptions
from .sax_admin import Admin
from .sax_border import Border
from .sax_methods import Methods
from .sax_models import OtherCells, Published
from .web import Request, Route

VERB = re.compile(r"/cell/[a-z_]+")


class CellVerbs:
    def __init__(self, models: Models, admin: Admin, cell: str) -> None:
        self._models, self._admin, self._cell = models, admin, cell

    async def root(self, request: Request) -> None:
        """GET /"""
        await request.answer(200, {"message": "HTTP Server for SAX Client"})

    async def publish(self, request: Request) -> None:
        """POST /publish; with `wait` seconds, when the replicas are loaded."""
        given = sax_inputs.fields(request.body, request.query)
        spec, overrides = self._spec(request, given), given.get("overrides")
        await self._admin.ask("publish", spec | {"overrides": overrides})
        if given.get("wait"):
            seconds = float(sax_inputs.whole(given, "wait"))
            wanted = {"model": spec["model"], "replicas": spec["replicas"], "seconds": seconds}
            await self._admin.ask("wait", wanted, seconds + 5)
        answer = spec | {"path": spec["model_path"]}
        await request.answer(200, answer | ({"overrides": overrides} if overrides else {}))

    async def update(self, request: Request) -> None:
        """PUT or POST /update"""
        given = sax_inputs.fields(request.body, request.query)
        spec = self._spec(request, given)
        more = {"overrides": given["overrides"]} if given.get("overrides") is not None else {}
        await self._admin.ask("update", spec | more)
        await request.answer(200, spec | {"path": spec["model_path"]})

    async def unpublish(self, request: Request) -> None:
        """POST /unpublish"""
        model = self._model(request, sax_inputs.fields(request.body, request.query))
        await self._admin.ask("unpublish", {"model": model})
        await request.answer(200, {"model": model})

    async def list_all(self, request: Request) -> None:
        """GET /listall, the cell in a body or in the query string"""
        cell = sax_inputs.text(_asked(request), "sax_cell")
        await request.answer(200, (await self._admin.ask("list", {"cell": cell}))["models"])

    async def list_cell(self, request: Request) -> None:
        """GET /listcell, which despite its name describes a model"""
        status = await self._admin.status(self._model(request, _asked(request)))
        shown = ("model", "model_path", "checkpoint", "max_replicas", "active_replicas")
        await request.answer(200, {key: status[key] for key in shown})

    async def healthz(self, request: Request) -> None:
        """GET /healthz"""
        self._models.refresh()
        await request.answer(503 if self._models.table.draining else 200, {"status": "ok"})

    async def relay(self, request: Request) -> None:
        """POST /cell/<verb>: members and clients of the cell, whose signatures the control plane checks."""
        if not VERB.fullmatch(request.path):  # it has been decoded, and may hold anything
            raise not_found(f"there is no {request.path}")
        answer = await wire.relay(self._admin.socket, "POST", request.path, request.header(wire.HEADER), request.body)
        await request.answer(answer.status, answer.body, answer.content_type, answer.headers)

    async def page(self, request: Request) -> None:
        """GET /status, /model/…, /server/…: the cell's status pages"""
        path = "/" if request.path == "/status" else request.path
        answer = await wire.relay(self._admin.socket, "GET", quote(path), None, b"")
        await request.answer(answer.status, answer.body, answer.content_type, answer.headers)

    def _spec(self, request: Request, given: dict[str, Any]) -> dict[str, Any]:
        texts = {name: sax_inputs.text(given, name) for name in ("model_path", "checkpoint")}
        return {"model": self._model(request, given), **texts, "replicas": sax_inputs.whole(given, "replicas")}

    def _model(self, request: Request, given: dict[str, Any]) -> str:
        """Its full name; Forbidden when the asker's token is for others."""
        full = sax_inputs.text(given, "model")
        request.may_use(names.parse_model(full).registered(self._cell))
        return full


def _asked(request: Request) -> dict[str, Any]:
    """A listing's argument: a body that is there wins over the query string."""
    return sax_inputs.fields(request.body or b"{}", request.query)


def routes(models: Models, options: FrontendOptions, control: Path) -> list[Route]:
    admin, cell = Admin(control), names.parse_cell(options.sax_cell)
    verbs = CellVerbs(models, admin, cell)
    methods = Methods(models, Published(models, admin, cell), OtherCells(admin, cell, options))
    border = Border(control.parent, options)
    table = [
        ("GET", "/", verbs.root),
        ("POST", "/publish", verbs.publish),
        ("GET", "/listall", verbs.list_all),
        ("GET", "/listcell", verbs.list_cell),
        ("POST", "/generate", methods.generate),
        ("POST", "/unpublish", verbs.unpublish),
        ("PUT", "/update", verbs.update),
        ("POST", "/update", verbs.update),
        ("POST", "/score", methods.score),
        ("POST", "/embed", methods.embed),
        ("POST", "/run", methods.run),
        ("GET", "/healthz", verbs.healthz),
        ("GET", "/status", verbs.page),
        ("GET", "/model/", verbs.page),
        ("GET", "/server/", verbs.page),
        ("POST", "/cell/", verbs.relay),
    ]
    return [
        Route(method, path, border.guarded(handler), listener="sax", needs_key=False) for method, path, handler in table
    ]
