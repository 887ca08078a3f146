"""What is measured: echo, a small network, streams; batched or not; one or two workers."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    app: str  # "echo", "mlp" or "stream"
    batch: int = 1
    delay_ms: int = 0
    workers: int = 1
    connections: tuple[int, ...] = (1, 8, 32, 64)

    @property
    def body(self) -> bytes:
        if self.app == "mlp":
            return json.dumps({"x": [round(i / 784, 4) for i in range(784)]}).encode()
        return b'{"text": "hello", "n": 3}'


CASES = (
    Case("echo", "echo"),
    Case("echo-b8", "echo", batch=8, delay_ms=100),
    Case("echo-w2", "echo", workers=2),
    Case("mlp", "mlp"),
    Case("mlp-b8", "mlp", batch=8, delay_ms=5),
    Case("stream", "stream", connections=(32,)),
)
CHUNKS = 64  # of a stream
