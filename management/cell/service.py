"""The cell's part in a server: admin or member, agent, gate, and the socket by which the HTTP processes ask.

`start` and `stop` are lists of steps. Not for: the admin that is a process of its own, which is `admin`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..control import ControlPlane
from ..errors import StartError
from ..metrics import requests_by_model
from ..routing import ModelRoute
from .admin import SETTLE_SECONDS, TICK_SECONDS, follow_acl
from .agent import Agent, exchange_with
from .api import Api
from .cell import Cell
from .directory import Directory, ask_admin
from .errors import SaxError
from .faces import TwoFaces, mirror
from .gate import Gate
from .host import ControlHost
from .machines import GIB, Machine
from .names import parse_cell
from .root import CellRoot, Location, Lock, own_address
from .servables import Servables
from .server import CellListener, CellServer

logger = logging.getLogger(__name__)

UNHINTED_GIB = 1.0  # what a model counts as that says no `ram`
MOST_REPLICAS = 64  # of one model on one machine
EXCHANGE_SECONDS = 15.0


@dataclass(frozen=True)
class CellOptions:
    cell: str  # /sax/<cell>
    sax_root: str
    admin: bool  # is this server its cell's admin?
    host: str  # where the Sax protocol and the gate listen
    port: int  # of the Sax protocol
    chip: str = "cpu"
    topology: str = "1"
    tags: tuple[str, ...] = ()
    model_filter: str = ".*"  # of the model paths that it can serve
    prune_seconds: float = 10.0
    model_api: bool = True  # may models be published over HTTP?

    @property
    def advertised(self) -> str:
        """The host that others reach us by."""
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(self.host).is_unspecified:
                return own_address()
        return self.host


class CellService:
    def __init__(self, options: CellOptions, control: ControlPlane, runtime: Path, state: Path, model_store: Path) -> None:
        self._options, self._control, self._runtime = options, control, runtime
        self._folder = state / "cell"
        self._servables = Servables(model_store)
        self._root = CellRoot(options.sax_root, options.cell)
        self._key = b""
        self._lock: Lock | None = None
        self._gate: Gate | None = None
        self._listener: CellListener | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def enter(self) -> None:
        """Before anything is served: StartError when the cell can't be had."""
        try:
            self._enter()
        except SaxError as error:
            raise StartError(error.text) from None
        except OSError as error:
            raise StartError(f"{self._options.cell} below {self._options.sax_root}: {error.strerror or error}") from None

    async def start(self) -> None:
        """The key first: nobody may be asked or answered without it."""
        key, cell = self._key, self._cell() if self._options.admin else None
        _write_secret(self._runtime / "cell.key", key)
        sock = socket.create_server((self._options.host, 0))
        self._gate = Gate(sock, self._runtime / "workers", key)
        self._gate.start()
        own = TwoFaces(cell, self._control, model_api=self._options.model_api) if cell else None
        host, agent = self._member(own, f"{self._options.advertised}:{sock.getsockname()[1]}")
        directory = Directory(self._options.sax_root, self._options.cell, own)
        self._listener = CellListener(CellServer(cell, directory, key, trusted=True), _listen(self._runtime / "cell.sock"))
        self._listener.start()
        self._tasks = [asyncio.create_task(agent.run())]
        if cell:
            self._tasks.append(asyncio.create_task(_keep_time(cell, agent, host)))
            self._tasks.append(asyncio.create_task(follow_acl(self._root, cell)))
            self._root.announce(Location(address=self._address, incarnation=cell.incarnation))

    async def stop(self) -> None:
        """Our replicas still answer what they have; that they go, the admin hears from the broken connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._gate:
            self._gate.stop()
        if self._listener:
            await self._listener.stop()
        if self._lock:
            self._lock.release()

    @property
    def _address(self) -> str:
        return f"{self._options.advertised}:{self._options.port}"

    def _enter(self) -> None:
        """The cell's key; and its lock when we are its admin."""
        if self._options.admin:
            try:
                self._root.config()
            except SaxError:
                self._root.create(self._options.sax_root)  # no ceremony on one machine
            self._lock = self._root.lock()
            if self._lock is None:
                raise SaxError("Unavailable", f"{self._root.name} has an admin already: join it with cell_admin=false")
            self._root.state()
        self._key = self._root.key()

    def _cell(self) -> Cell:
        return Cell(
            self._options.cell, self._root.state(), time.monotonic, admin_acl=self._root.config().admin_acl,
            settle_seconds=SETTLE_SECONDS, prune_seconds=self._options.prune_seconds,
        )  # fmt: skip

    def _member(self, own: Api | None, gate: str) -> tuple[ControlHost, Agent]:
        async def ask(payload: object) -> Any:
            return await (own.call("join", payload) if own else ask_admin(self._root, "join", payload, EXCHANGE_SECONDS))

        bare = parse_cell(self._options.cell)
        host = ControlHost(
            self._control, self._servables, self._folder, bare, gate, self._take_routes,
            lambda: requests_by_model(self._runtime / "metrics"),
        )  # fmt: skip
        agent = Agent(self._address, self._machine, host, exchange_with(ask))
        agent.adopt(host.held())
        self._control.observers.append(agent.changed.ring)
        self._control.woken_by_cell = agent.woken
        return host, agent

    def _machine(self) -> Machine:
        options = self._options
        return Machine(
            chip=options.chip,
            topology=options.topology,
            tags=list(options.tags),
            paths=[path for path in self._servables.paths() if re.fullmatch(options.model_filter, path)],
            memory_gib=round(psutil.virtual_memory().total / GIB, 1),
            unhinted_gib=UNHINTED_GIB,
            max_per_model=MOST_REPLICAS,
        )

    def _take_routes(self, routes: dict[str, ModelRoute]) -> None:
        if routes != self._control.elsewhere:
            self._control.elsewhere = routes
            self._control.publish()


async def _keep_time(cell: Cell, agent: Agent, host: ControlHost) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        try:
            cell.tick()
            mirror(cell, agent, host)
        except Exception:
            logger.exception("%s could not be assigned anew", cell.name)


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))  # the folder is ours alone
    sock.listen(128)
    return sock


def _write_secret(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
