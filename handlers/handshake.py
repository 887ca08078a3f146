"""How two machines of a cell make sure of each other before frames pass between them over TCP.

    client → gate    MAGIC, nonce, the worker that is wanted
    gate → client    nonce, HMAC over both nonces and the worker: the gate has the key
    client → gate    HMAC likewise: the client has it too

Then the gate hands the connection itself to the worker (its descriptor travels over the worker's unix socket) and is no
longer on the way. Nothing is encrypted: where the network is not trusted, a VPN or TLS belongs below. Not for: frames.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

MAGIC = b"flambeau-cell-1\n"
NONCE_BYTES = 32
MAC_BYTES = 32
MAX_WORKER_BYTES = 255
OPENING_BYTES = len(MAGIC) + NONCE_BYTES + 1  # then comes the worker, as long as the last byte says
REPLY_BYTES = NONCE_BYTES + MAC_BYTES
SECONDS = 5.0  # the whole handshake


class HandshakeFailed(OSError):
    """The other side does not have this cell's key, or is something else altogether."""


def _mac(key: bytes, who: bytes, client: bytes, gate: bytes, worker: bytes) -> bytes:
    return hmac.new(key, b"\0".join((who, client, gate, worker)), hashlib.sha256).digest()


@dataclass(frozen=True)
class Opening:
    """The client's side."""

    key: bytes
    worker: bytes
    nonce: bytes

    @classmethod
    def to(cls, worker: str, key: bytes) -> "Opening":
        return cls(key, worker.encode(), secrets.token_bytes(NONCE_BYTES))

    @property
    def message(self) -> bytes:
        return MAGIC + self.nonce + bytes([len(self.worker)]) + self.worker

    def answer(self, reply: bytes) -> bytes:
        """The last message; HandshakeFailed when the gate does not have the key."""
        gate, mac = reply[:NONCE_BYTES], reply[NONCE_BYTES:]
        if not hmac.compare_digest(mac, _mac(self.key, b"gate", self.nonce, gate, self.worker)):
            raise HandshakeFailed("the machine does not have this cell's key")
        return _mac(self.key, b"client", self.nonce, gate, self.worker)


@dataclass(frozen=True)
class Challenge:
    """The gate's side."""

    key: bytes
    client: bytes
    worker: bytes
    nonce: bytes

    @classmethod
    def to(cls, opening: bytes, worker: bytes, key: bytes) -> "Challenge":
        if not opening.startswith(MAGIC):
            raise HandshakeFailed("the peer is no member of a cell")
        return cls(key, opening[len(MAGIC) : len(MAGIC) + NONCE_BYTES], worker, secrets.token_bytes(NONCE_BYTES))

    @property
    def message(self) -> bytes:
        return self.nonce + _mac(self.key, b"gate", self.client, self.nonce, self.worker)

    def check(self, answer: bytes) -> None:
        if not hmac.compare_digest(answer, _mac(self.key, b"client", self.client, self.nonce, self.worker)):
            raise HandshakeFailed("the peer does not have this cell's key")
