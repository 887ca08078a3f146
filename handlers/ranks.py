"""One model in several processes that compute together, as torchrun starts them: `torchrun: {nproc-per-node: 4}` in its YAML.

The worker is rank 0 and starts the others as its children. Each loads the same handler and runs the same batches in the same
order, so that collective operations meet; only rank 0's answers are sent. Not for: what the ranks say to each other, which is
the handler's (torch.distributed finds RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment).
"""

import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from .context import Context
from .entry_point import Entry
from .exchange import Exchange
from .links import Links
from .protocol import Kind, LoadFailure, ProtocolError, Reader, RequestHead, WorkerConfig, pack
from .running import Runner

BATCH = RequestHead("batch", "", [])  # the operation by which rank 0 hands a batch on
Batch = list[tuple[RequestHead, bytes]]


def world_size(model_yaml: Mapping[str, Any]) -> int:
    """`parallelType: custom` means that the handler starts its processes itself."""
    if model_yaml.get("parallelType") == "custom":
        return 1
    torchrun = model_yaml.get("torchrun")
    return int(torchrun.get("nproc-per-node", 1)) if isinstance(torchrun, Mapping) else 1


def take_rank(rank: int, size: int, port: int, model_yaml: Mapping[str, Any]) -> dict[str, str]:
    """The environment that torchrun would give to `rank`."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    environment = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torchrun = model_yaml.get("torchrun")
    if isinstance(torchrun, Mapping) and (threads := torchrun.get("OMP_NUMBER_THREADS")):
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


class Followers:
    """Ranks 1 and up, as rank 0 sees them."""

    def __init__(self, config: WorkerConfig, size: int) -> None:
        port = _free_port()
        os.environ |= take_rank(0, size, port, config.model_yaml)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[socket.socket] = []
        for rank in range(1, size):
            ours, theirs = socket.socketpair()
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "flambeau.handlers.worker", "--control-fd", str(theirs.fileno())],
                    env=os.environ | {"PYTHONPATH": _import_path()} | take_rank(rank, size, port, config.model_yaml),
                    pass_fds=[theirs.fileno()],
                )
            )
            theirs.close()
            ours.sendall(pack(Kind.CONFIG, 0, msgspec.structs.replace(config, listen="")))
            self._links.append(ours)

    def wait(self) -> LoadFailure | None:
        """Until all have loaded; the first failure, if there is one. Whoever started this worker bounds the time."""
        for rank, link in enumerate(self._links, 1):
            if (failure := _loaded(link, rank)) is not None:
                return failure
        return None

    def hand_on(self, batch: list[Exchange]) -> None:
        """Blocks while a rank is busy with the batch before: they go in step anyway."""
        body = msgspec.msgpack.encode([(exchange.head, bytes(exchange.body)) for exchange in batch])
        frame = pack(Kind.REQUEST, 1, BATCH, body)
        for link in self._links:
            link.sendall(frame)

    def end(self) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            process.kill()
            process.wait()


class Follower:
    """The loop of rank 1 and up: batches come over the control link, answers go nowhere."""

    def __init__(self, entry: Entry, context: Context, config: WorkerConfig, control: socket.socket) -> None:
        self._batches: deque[Batch] = deque()
        self._links = Links(control, self._take, lambda _: None)
        self._runner = Runner(
            entry, context, config.decode_input_request, config.max_response_bytes, self._breathe, in_step=True
        )
        self._links.tell(Kind.READY)

    def serve(self) -> None:
        while True:
            self._breathe(None)
            while self._batches:
                batch = self._batches.popleft()
                now = time.monotonic()
                nowhere: Any = Nowhere()
                self._runner.run([Exchange(0, head, memoryview(body), now, nowhere, 0) for head, body in batch])

    def _breathe(self, seconds: float | None) -> None:
        self._links.flush()
        self._links.poll(seconds)
        if self._links.lost_control:
            os._exit(0)  # rank 0 is gone

    def _take(self, exchange: Exchange) -> None:
        self._batches.append(msgspec.msgpack.decode(exchange.body, type=Batch))
        exchange.link.exchanges.clear()


class Nowhere:
    """A link that nobody reads."""

    unsent = 0

    def __init__(self) -> None:
        self.exchanges: dict[int, Exchange] = {}

    def write(self, *_: bytes) -> None:
        pass


def _loaded(link: socket.socket, rank: int) -> LoadFailure | None:
    reader = Reader()
    while data := link.recv(1 << 16):
        for frame in reader.feed(data):
            if frame.kind == Kind.READY:
                return None
            if frame.kind == Kind.FAILED:
                return frame.head(LoadFailure)
            raise ProtocolError(f"rank {rank} sent a frame of kind {frame.kind}")
    return LoadFailure(phase="initialize", exception="ChildProcessError", message=f"rank {rank} died while it was loading")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _import_path() -> str:
    """Where this package is found, for children that start in another folder; the model's own comes with its worker."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    given = os.environ.get("PYTHONPATH", "")
    return given if home in given.split(os.pathsep) else os.pathsep.join(filter(None, (given, home)))
