"""Keeps a server of the cell on each machine of the cluster: `python -m flambeau.management.cluster.keeper`, a child of the
server that was started with `cluster=`.

A process of its own, since Ray ends the processes that lose it: serving must not be among them. It reads what it needs from
one line of JSON on standard input, ends with that input, and is started again when it failed. Not for: replicas.
"""

import hashlib
import logging
import os
import select
import sys
from pathlib import Path

import msgspec

from ..cell.errors import SaxError
from ..cell.root import CellRoot
from .agent import Spec, digests
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


class Keeper:
    def __init__(self, task: Task, machines: Backend) -> None:
        self._task = task
        self._backend = machines
        self._root = CellRoot(task.sax_root, task.cell)
        self._agents: dict[str, Remote] = {}
        self._pids: dict[str, int] = {}

    def look(self) -> None:
        """Every machine once; what goes wrong with one does not concern the others."""
        location, archives = self._root.location(), digests(Path(self._task.model_store))
        nodes = {node.id: node for node in self._backend.nodes()}
        for gone in self._agents.keys() - nodes.keys():
            logger.warning("machine %s has left the cluster", gone[:12])
            del self._agents[gone]
        for node in nodes.values():
            try:
                agent = self._agents.get(node.id) or self._backend.agent(node, self._spec(node))
                self._agents[node.id] = agent
                for name in agent.missing(archives):
                    agent.receive(name, archives[name], (Path(self._task.model_store) / name).read_bytes())
                pid = agent.ensure(location.address, location.incarnation)
                if self._pids.get(node.id) != pid:
                    logger.info("machine %s has a server: process %d", node.id[:12], pid)
                self._pids[node.id] = pid
            except (ClusterError, OSError, ValueError) as error:
                self._agents.pop(node.id, None)
                logger.error("machine %s: %s", node.id[:12], error)

    def stop(self) -> None:
        for id, agent in self._agents.items():
            try:
                agent.stop()
            except (ClusterError, OSError) as error:
                logger.error("machine %s is not stopped: %s", id[:12], error)

    def _spec(self, node: Node) -> Spec:
        name = hashlib.sha256(f"{self._task.cell} {node.id}".encode()).hexdigest()[:12]
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
