"""The addresses that serve a model, as a log that a client follows from any point."""

from typing import Literal

Change = tuple[Literal["+", "-"], str]


class AddressLog:
    """Kept to about twice the set: who is further behind gets the set itself."""

    def __init__(self) -> None:
        self._set: set[str] = set()
        self._changes: list[Change] = []
        self._first = 0  # the sequence number of the first change kept

    @property
    def seqno(self) -> int:
        return self._first + len(self._changes)

    @property
    def addresses(self) -> list[str]:
        return sorted(self._set)

    def become(self, addresses: set[str]) -> bool:
        """True when something changed."""
        changes: list[Change] = [("-", address) for address in sorted(self._set - addresses)]
        changes += [("+", address) for address in sorted(addresses - self._set)]
        self._set = set(addresses)
        self._changes += changes
        surplus = len(self._changes) - max(2 * len(self._set), 1)
        if surplus > 0:
            del self._changes[:surplus]
            self._first += surplus
        return bool(changes)

    def since(self, seqno: int) -> tuple[list[str] | None, list[Change]]:
        """The full set (None: not needed) and the changes after it."""
        if seqno < self._first or seqno > self.seqno:
            return self.addresses, []
        return None, self._changes[seqno - self._first :]
