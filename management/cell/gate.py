"""The TCP port at which other machines of the cell reach this machine's workers.

After the handshake the connection's descriptor is handed to the worker over its unix socket: requests and answers never
pass through here. Not for: deciding who may be a member; who has the cell's key is one.
"""

import asyncio
import logging
import re
import socket
from pathlib import Path

from ...handlers import handshake
from ...handlers.handshake import Challenge, HandshakeFailed

logger = logging.getLogger(__name__)

WORKER = re.compile(rb"[0-9]+\.[0-9]+")  # a socket's name in the workers' folder
BUSY_SECONDS = 60.0  # a worker accepts between two batches
MOST_AT_ONCE = 64  # strangers that are being asked who they are


class Gate:
    def __init__(self, sock: socket.socket, workers: Path, key: bytes) -> None:
        self._socket = sock
        self._workers = workers
        self._key = key
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    def stop(self) -> None:
        for task in (self._accepting, *self._tasks):
            if task:
                task.cancel()
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, address = await loop.sock_accept(self._socket)
            except OSError as error:
                logger.warning("the gate can not accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._tasks) >= MOST_AT_ONCE:
                peer.close()
                continue
            task = asyncio.create_task(self._serve(peer, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: socket.socket, address: object) -> None:
        with peer:
            try:
                async with asyncio.timeout(handshake.SECONDS):
                    peer.setblocking(False)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    worker = await self._greet(peer)
                await asyncio.to_thread(hand_over, peer, self._workers / worker.decode())
            except OSError as error:  # TimeoutError and HandshakeFailed are among them
                logger.warning("a connection from %s came to nothing: %s", address, error or type(error).__name__)

    async def _greet(self, peer: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        opening = await _read(peer, handshake.OPENING_BYTES)
        worker = await _read(peer, opening[-1])
        challenge = Challenge.to(opening, worker, self._key)
        await loop.sock_sendall(peer, challenge.message)
        challenge.check(await _read(peer, handshake.MAC_BYTES))
        if not WORKER.fullmatch(worker):
            raise HandshakeFailed("the peer asks for what is no worker")
        return worker


def hand_over(peer: socket.socket, path: Path) -> None:
    """The worker at `path` takes the connection as if it had accepted it."""
    with socket.socket(socket.AF_UNIX) as carrier:
        carrier.settimeout(BUSY_SECONDS)
        carrier.connect(str(path))
        socket.send_fds(carrier, [b"\0"], [peer.fileno()])
        carrier.recv(1)  # its HELLO: it has accepted, and will find the descriptor


async def _read(peer: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        more = await loop.sock_recv(peer, size - len(data))
        if not more:
            raise HandshakeFailed("the peer hung up")
        data += more
    return data
