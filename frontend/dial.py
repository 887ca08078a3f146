"""Connections to workers on other machines of the cell, whose gates want to know us first (`handlers.handshake`).

Not for: workers of this machine, nor what is said on a connection; both are `link`'s.
"""

import asyncio
import socket
from pathlib import Path

from ..handlers import handshake
from ..handlers.handshake import HandshakeFailed, Opening

KEY_FILE = "cell.key"  # in the runtime folder, written by the control plane when this machine is in a cell


class Dialler:
    def __init__(self, runtime: Path) -> None:
        self._key_file = runtime / KEY_FILE

    async def dial(self, place: str) -> socket.socket:
        """OSError when there is nobody, or nobody we know. `place`: "host:port", or "host:port/worker" behind a gate."""
        host_and_port, gated, worker = place.partition("/")
        host, _, port = host_and_port.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (host.strip("[]"), int(port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if gated:
                await self._introduce(sock, worker)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _introduce(self, sock: socket.socket, worker: str) -> None:
        loop = asyncio.get_running_loop()
        opening = Opening.to(worker, self._key_file.read_bytes())
        await loop.sock_sendall(sock, opening.message)
        reply = b""
        while len(reply) < handshake.REPLY_BYTES:
            more = await loop.sock_recv(sock, handshake.REPLY_BYTES - len(reply))
            if not more:
                raise HandshakeFailed("the machine hung up")
            reply += more
        await loop.sock_sendall(sock, opening.answer(reply))
