"""The routing table: what the control plane tells the HTTP processes, and all it tells them.

One file, replaced atomically, and a generation counter in a page of shared memory. The writer bumps the counter after the
file stands; a reader compares it on each request (one memory read) and reads the file again when it moved. So when a
management call has returned, every later request sees its effect. Not for: durable state, which is the registry's.
"""

import logging
import mmap
import os
import struct
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

COUNTER = struct.Struct("<Q")


class Replica(msgspec.Struct, frozen=True):
    """A worker that is loaded and may be sent requests."""

    worker_id: str
    address: str  # "unix:/path" or "tcp:host:port"


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one model, as far as requests are concerned."""

    name: str
    version: str
    replicas: list[Replica] = []
    ends: dict[str, str] = {}  # addresses of processes that have died → how, for those whose requests they had
    wanted_workers: int = 0  # with no replica up but some on their way (starting, restarting), requests wait for one
    batch_size: int = 1
    response_timeout_seconds: float = 120.0  # a worker may be silent for so long while it owes an answer
    job_queue_size: int = 100  # requests waiting per HTTP process beyond those that workers run; one more is answered 503
    client_timeout_seconds: float = 0.0  # 0: none
    use_job_ticket: bool = False
    manifest_name: str = ""
    capabilities: list[str] = []  # operations beyond predict and explain: "generate", "chat", "score", "embed", …
    wake_on_request: bool = False  # scaled to zero by the autoscaler: ask the control plane for a worker and wait
    model_yaml: dict[str, object] = {}  # for the options of the text APIs and of sequence batching
    loaded_at_startup: bool = False


class WorkflowNode(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model: str  # whose default version runs it
    inputs: list[str] = []  # the nodes whose answers it gets; none: the request itself
    feeds: bool = False  # whether another node wants its answer
    timeout_seconds: float = 10.0
    attempts: int = 1


class WorkflowRoute(msgspec.Struct, frozen=True, kw_only=True):
    nodes: list[WorkflowNode]  # each after those that feed it


class Table(msgspec.Struct, frozen=True, kw_only=True):
    models: dict[str, dict[str, ModelRoute]] = {}  # name → version → route
    defaults: dict[str, str] = {}  # name → the version that answers when none is asked for
    workflows: dict[str, WorkflowRoute] = {}
    healthy: bool = True  # every model that should have workers has enough
    draining: bool = False  # going down: readiness is over, requests are still served
    starting: bool = False  # what is loaded at start is not all registered yet: an unknown model may be on its way

    @property
    def ready(self) -> bool:
        """Whether load balancers may send requests."""
        return self.healthy and not self.draining and not self.starting


class RouteWriter:
    """The control plane's end. `folder` is the runtime folder (0700)."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "routes"
        self._next = folder / "routes.next"
        counter = folder / "generation"
        if not counter.exists():
            counter.write_bytes(bytes(COUNTER.size))
        with counter.open("r+b") as file:
            self._counter = mmap.mmap(file.fileno(), COUNTER.size)

    def publish(self, table: Table) -> None:
        """When this returns, requests that arrive from now on are routed by `table`."""
        self._next.write_bytes(msgspec.msgpack.encode(table))
        os.replace(self._next, self._file)
        (generation,) = COUNTER.unpack_from(self._counter)
        COUNTER.pack_into(self._counter, 0, generation + 1)


class RouteReader:
    """An HTTP process' end."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "routes"
        with (folder / "generation").open("rb") as file:
            self._counter = mmap.mmap(file.fileno(), COUNTER.size, prot=mmap.PROT_READ)
        self._seen = self._told = -1
        self._table = Table()

    def table(self) -> Table:
        """The newest table; the same object as long as nothing changed."""
        (generation,) = COUNTER.unpack_from(self._counter)
        if generation != self._seen:
            try:
                if self._file.exists():
                    self._table = msgspec.msgpack.decode(self._file.read_bytes(), type=Table)
                self._seen = generation
            except (OSError, msgspec.MsgspecError) as error:  # too many open files, say: the next request tries again
                if generation != self._told:
                    self._told = generation
                    logger.error("the routing table can not be read, the one before serves on: %s", error)
        return self._table
