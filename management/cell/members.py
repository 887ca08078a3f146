"""The machines of a cell, as their latest reports describe them, and how long they have been silent."""

from collections.abc import Callable, Iterator

from . import names
from .machines import Machine
from .messages import Held, Report, ServerStatus
from .names import ModelKey

DOUBT_SECONDS = 1.5  # a machine whose connection broke may come back within


class Member:
    def __init__(self, report: Report, now: float) -> None:
        self.address = report.address
        self.instance = report.instance
        self.machine: Machine = report.machine
        self.held: dict[ModelKey, Held] = {}
        self.changed = True
        self.expires_at = 0.0
        self.heard_at = now
        self.take(report, now)

    def take(self, report: Report, now: float) -> None:
        held = {names.parse_model(full): held for full, held in report.models.items()}
        self.changed = held != self.held or report.machine != self.machine
        self.held, self.machine, self.heard_at = held, report.machine, now

    def deployment(self, key: ModelKey, uuid: str) -> Held:
        """What it holds of that deployment: nothing when what it holds was published earlier under the same name."""
        held = self.held.get(key)
        return held if held and held.uuid == uuid else Held()

    def model_status(self, key: ModelKey) -> str:
        held = self.held[key]
        if held.loaded:
            return "LOADED"
        if held.reason:
            return "FAILED"
        return "LOADING" if held.replicas else "DORMANT"

    def status(self, now: float) -> ServerStatus:
        models = {str(key): self.model_status(key) for key in sorted(self.held)}
        return ServerStatus(address=self.address, machine=self.machine, lag_seconds=now - self.heard_at, models=models)


class Members:
    def __init__(self, clock: Callable[[], float], prune_seconds: float) -> None:
        self._clock = clock
        self._prune_seconds = prune_seconds
        self._by_address: dict[str, Member] = {}
        self.dirty = False  # somebody has gone since the last assignment

    def __iter__(self) -> Iterator[Member]:
        return iter(sorted(self._by_address.values(), key=lambda member: member.address))

    def __getitem__(self, address: str) -> Member:
        return self._by_address[address]

    def __contains__(self, address: str) -> bool:
        return address in self._by_address

    def heard(self, report: Report) -> bool:
        """True for a machine that is new, or whose server is another process than before."""
        now = self._clock()
        member = self._by_address.get(report.address)
        new = member is None or member.instance != report.instance
        if member is None or new:
            member = self._by_address[report.address] = Member(report, now)
        else:
            member.take(report, now)
        member.expires_at = now + self._prune_seconds
        return new

    def doubt(self, address: str, instance: str) -> None:
        member = self._by_address.get(address)
        if member and member.instance == instance:
            member.expires_at = min(member.expires_at, self._clock() + DOUBT_SECONDS)

    def prune(self) -> list[Member]:
        now = self._clock()
        gone = [member for member in self._by_address.values() if member.expires_at <= now]
        for member in gone:
            del self._by_address[member.address]
            self.dirty = True
        return gone
