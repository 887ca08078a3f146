"""The requests that wait in a worker, and when a batch of them should begin.

A batch begins when it is full, or when its oldest request has waited `max_delay_seconds`, or when nobody else is to be
expected: the last batch and what waited behind it tell how many clients there are. A client alone therefore pays the delay
once and never again, and eight clients who wait for each other's answers are found together in one batch.
"""

from collections import deque

from .exchange import Exchange


class Queue:
    def __init__(self, batch_size: int, max_delay_seconds: float, sequence_header: str = "") -> None:
        self.batch_size = max(1, batch_size)
        self._delay = max(0.0, max_delay_seconds)
        self._sequence_header = sequence_header.lower().encode()  # a batch holds at most one request with each value of it
        self._waiting: deque[Exchange] = deque()
        self._expected = self.batch_size

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)

    def remove(self, exchange: Exchange) -> bool:
        """False when it does not wait here (any more)."""
        try:
            self._waiting.remove(exchange)
        except ValueError:
            return False
        return True

    def patience(self, now: float) -> float:
        """Seconds which the next batch should still wait for company; only asked while somebody waits."""
        if len(self._waiting) >= self._expected:
            return 0.0
        return max(0.0, self._waiting[0].arrived + self._delay - now)

    def take(self) -> list[Exchange]:
        """The next batch: the oldest requests of one operation, in the order in which they came."""
        waiting = self._waiting
        if self.batch_size == 1:
            return [waiting.popleft()]
        batch: list[Exchange] = []
        left: list[Exchange] = []
        sequences: set[bytes] = set()
        operation = waiting[0].head.operation
        while waiting and len(batch) < self.batch_size and waiting[0].head.operation == operation:
            exchange = waiting.popleft()
            sequence = self._sequence(exchange) if self._sequence_header else b""
            (left if sequence in sequences else batch).append(exchange)
            if sequence:
                sequences.add(sequence)
        waiting.extendleft(reversed(left))
        return batch

    def finished(self, batch: int) -> None:
        """A batch of so many has been answered."""
        self._expected = min(self.batch_size, batch + len(self._waiting))

    def take_back(self, unfinished: list[Exchange]) -> None:
        """Continuous batching: these go on in the next batch, which waits for nobody."""
        self._waiting.extendleft(reversed(unfinished))
        self._expected = 0

    def _sequence(self, exchange: Exchange) -> bytes:
        return next((value for name, value in exchange.head.headers if name.lower() == self._sequence_header), b"")
