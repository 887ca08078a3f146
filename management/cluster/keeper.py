"""Keeps a server of the cell on each machine of the cluster: `python -m flambeau.management.cluster.keeper`, a child of the
server that was started with `cluster=`.

A process of its own, since Ray ends the processes that lose it: serving must not be among them. It reads what it needs from
one line of JSON on standard input, ends with that input, and is started again when it failed. Not for: replicas.
"""

import hashlib
import logging
import os
import select
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..cell.errors import SaxError
from ..cell.root import CellRoot, Location
from .agent import Digests, Spec
from .backends import Backend, ClusterError, Node, Remote, backend

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
STOP = b"stop"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    cluster: str
    cell: str
    sax_root: str
    folder: str  # on each machine, below it one folder per node
    model_store: str
    settings: dict[str, str] = {}


@dataclass
class Machine:
    """A machine of the cluster, as the keeper knows it."""

    node: Node
    agent: Remote | None = None
    pid: int = 0  # of its server
    visit: threading.Thread | None = None


class Keeper:
    """A thread visits each machine: one that hangs keeps no other waiting."""

    def __init__(self, task: Task, cluster: Backend) -> None:
        self._task = task
        self._cluster = cluster
        self._root = CellRoot(task.sax_root, task.cell)
        self._machines: dict[str, Machine] = {}  # by the node's id
        self._digests = Digests()

    def look(self) -> None:
        """Has every machine visited, unless the visit before is still under way."""
        location, archives = self._root.location(), self._digests.archives(Path(self._task.model_store))
        nodes = {node.id: node for node in self._cluster.nodes()}
        for gone in self._machines.keys() - nodes.keys():
            logger.warning("machine %s has left the cluster", self._machines.pop(gone).node.name)
        for id, node in nodes.items():
            machine = self._machines.setdefault(id, Machine(node))
            if machine.visit is None or not machine.visit.is_alive():
                machine.visit = threading.Thread(target=self._visit, args=(machine, location, archives), daemon=True)
                machine.visit.start()

    def stop(self) -> None:
        with ThreadPoolExecutor(len(self._machines) or 1) as side_by_side:
            list(side_by_side.map(self._stop, self._machines.values()))

    def _visit(self, machine: Machine, location: Location, archives: dict[str, str]) -> None:
        name = machine.node.name
        try:
            agent = machine.agent or self._cluster.agent(machine.node, self._spec(machine.node))
            for archive in agent.missing(archives):
                agent.receive(archive, archives[archive], (Path(self._task.model_store) / archive).read_bytes())
            pid = agent.ensure(location.address, location.incarnation)
            if machine.pid != pid:
                logger.info("machine %s has a server: process %d", name, pid)
            machine.agent, machine.pid = agent, pid
        except (ClusterError, OSError, ValueError, subprocess.SubprocessError) as error:
            machine.agent = None
            logger.error("machine %s: %s", name, error)

    def _stop(self, machine: Machine) -> None:
        try:
            if machine.agent:
                machine.agent.stop()
        except (ClusterError, OSError) as error:
            logger.error("machine %s is not stopped: %s", machine.node.name, error)

    def _spec(self, node: Node) -> Spec:
        """Its folder goes by its name: a server that outlived Ray's head is found again by whoever comes after it."""
        name = hashlib.sha256(f"{self._task.cell} {node.name}".encode()).hexdigest()[:12]
        return Spec(
            cell=self._task.cell,
            key=self._root.key().decode(),
            folder=os.path.join(self._task.folder, name),
            host=node.host,
            port=0,
            chip=node.chip,
            topology=node.topology,
            tags=node.tags,
            settings=self._task.settings,
        )


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    try:
        keeper = Keeper(task, backend(task.cluster, Path(task.folder)))
        while (word := _word(LOOK_SECONDS)) is None:
            keeper.look()
    except (ClusterError, SaxError) as error:
        logger.error("the cluster: %s", error)
        return 1
    if word == STOP:
        keeper.stop()
    return 0


def _word(seconds: float) -> bytes | None:
    """STOP: the machines shall stop too; nothing more to read: whoever started us has gone, but will come back."""
    ready, _, _ = select.select([sys.stdin.buffer], [], [], seconds)
    return os.read(sys.stdin.fileno(), len(STOP)) if ready else None


if __name__ == "__main__":
    sys.exit(main())
