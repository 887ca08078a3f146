"""A cell: what is published, which machines are here, who shall hold what. One owner, no I/O but its state file.

Every change is durable before the call returns and assigned at once; `changed` is rung so that waiting machines and
watchers look again. Machines send whole reports and get whole orders (`messages`), so the cell recovers from anything it
missed. After a restart it knows the models, and learns from reports who holds them. Not for: HTTP, timers, processes.
"""

import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable

import msgspec

from . import names
from .assigner import Assignment, Demand, Holding, assign
from .bell import Bell
from .catalogue import Catalogue, Change
from .dormancy import Dormancy
from .errors import SaxError, invalid
from .failures import Failures
from .members import Member, Members
from .messages import Held, ModelStatus, Order, Orders, Published, Report, Route, ServerStatus, WatchAnswer
from .names import ModelKey
from .overrides import dormant_after
from .root import Folder
from .watch import AddressLog

logger = logging.getLogger(__name__)


class Cell:
    """`settle_seconds`: after a restart, how long machines that still hold replicas get to report before others take over."""

    def __init__(
        self,
        name: str,
        state: Folder,
        clock: Callable[[], float],
        *,
        admin_acl: str = "",
        settle_seconds: float = 0.0,
        prune_seconds: float = 10.0,
    ) -> None:
        self.name = name
        self.incarnation = secrets.token_hex(8)
        self.changed = Bell()
        self.catalogue = Catalogue(name, state, admin_acl)
        self._clock = clock
        self._members = Members(clock, prune_seconds)
        self._failures = Failures(clock)
        self._dormancy = Dormancy(clock)
        self._logs = {key: AddressLog() for key in self.catalogue}
        self._assignment: Assignment = {}
        self._releasing: dict[ModelKey, set[str]] = {}  # unpublished names, and the machines that still hold them
        self._settled_at = clock() + settle_seconds if self._logs and settle_seconds else None

    # what publishers ask

    def publish(
        self, full: str, path: str, checkpoint: str, replicas: int, overrides: dict[str, str], role: str | None = None
    ) -> str:
        """A warning, or nothing."""
        key = self.catalogue.check_new(full, path, checkpoint, replicas, role)
        if key in self._releasing:
            raise SaxError("Unavailable", f"model {key} is being unpublished, please retry later")
        spec = self.catalogue.add(key, path, checkpoint, replicas, overrides)
        self._logs[key] = AddressLog()
        self.refresh()
        if warning := self._warning(spec):
            logger.warning("%s: %s", key, warning)
        return warning

    def update(self, full: str, change: Change, role: str | None = None) -> Published:
        """Replicas reload only when checkpoint or overrides have changed."""
        before = self.catalogue.find(full)[1].revision
        key, new = self.catalogue.change(full, change, role)
        if new.revision != before:
            self._failures.forget(key)
        if change.replicas:
            self._dormancy.forget(key)
        self.refresh()
        return new

    def unpublish(self, full: str, role: str | None = None) -> None:
        key = self.catalogue.remove(full, role)
        del self._logs[key]
        self._failures.forget(key)
        self._dormancy.forget(key)
        if holders := {member.address for member in self._holders(key)}:
            self._releasing[key] = holders
        self.refresh()

    # what readers ask

    def models(self) -> list[str]:
        return [str(key) for key in self.catalogue]

    def status(self, full: str) -> ModelStatus:
        key, spec = self.catalogue.find(full)
        held = self._deployed(key)
        return ModelStatus(
            model=str(key),
            model_path=spec.path,
            checkpoint=spec.checkpoint,
            max_replicas=spec.replicas,
            active_replicas=self.ready(key),
            assigned_replicas=len(self._assignment.get(key, [])),
            addresses=self._logs[key].addresses,
            overrides=spec.overrides,
            methods=sorted({method for _, held in held for method in held.methods}),
            admin_acl=spec.admin_acl,
            acls=spec.acls,
            failures={member.address: held.reason for member, held in held if held.reason},
            warning=self._warning(spec),
        )

    def servers(self) -> list[ServerStatus]:
        now = self._clock()
        return [member.status(now) for member in self._members]

    def stats(self) -> dict[str, object]:
        """Replicas per chip and topology, machines per model path."""
        chips = Counter(
            f"{member.machine.chip} {member.machine.topology}" for member in self._members for held in member.held.values()
            for _ in held.replicas
        )  # fmt: skip
        paths = Counter(path for member in self._members for path in member.machine.paths)
        return {"replicas_per_chip": dict(chips), "servers_per_path": dict(paths)}

    def ready(self, key: ModelKey) -> int:
        """Loaded replicas; more than are wanted, while surplus ones finish, do not count."""
        if key not in self.catalogue:
            return 0
        return min(sum(held.loaded for _, held in self._deployed(key)), self.catalogue[key].replicas)

    async def wait_ready(self, full: str, replicas: int, seconds: float) -> int:
        """How many are loaded once that many are."""
        key, spec = self.catalogue.find(full)
        self._dormancy.missed(key)
        end = self._clock() + seconds
        while (ready := self.ready(key)) < replicas:
            if key not in self.catalogue or self.catalogue[key].uuid != spec.uuid:
                raise SaxError("Canceled", f"model {key} was unpublished")
            if (left := end - self._clock()) <= 0:
                why = "".join(f" ({held.reason})" for _, held in self._deployed(key) if held.reason)
                raise SaxError(
                    "DeadlineExceeded", f"model {key} has {ready} of {replicas} replicas after {seconds:g} s{why}"
                )
            await self.changed.wait(left)
        return ready

    async def watch(self, full: str, admin: str, seqno: int, seconds: float) -> WatchAnswer:
        """Changes after `seqno`, at the latest after `seconds` (then there may be none)."""
        if seqno < 0:
            raise invalid(f"WatchLoc seqno {seqno} should be non-negative")
        key, _ = self.catalogue.find(full)
        log, start = self._logs[key], seqno if admin == self.incarnation else 0
        end = self._clock() + seconds
        while self._logs.get(key) is log and log.seqno <= start and self._clock() < end:
            await self.changed.wait(end - self._clock())
        if self._logs.get(key) is not log:
            return WatchAnswer(admin=self.incarnation, seqno=0, full=[])
        full_set, changes = log.since(start)
        return WatchAnswer(admin=self.incarnation, seqno=log.seqno, full=full_set, changes=changes)

    # what machines say

    def join(self, report: Report) -> None:
        """Takes a report in; `orders` then has what the machine shall do."""
        if not report.address:
            raise invalid("JoinRequest.modelet_address cannot be empty")
        new = self._members.heard(report)
        member = self._members[report.address]
        if new:
            logger.info("%s has joined: %s, %d models held", report.address, report.machine.chip, len(member.held))
            self._adopt(member)
        for key, held in self._current(member).items():
            self._failures.note(key, member.address, held)
        self._dormancy.note(report.address, {names.parse_model(full): told for full, told in report.traffic.items()})
        self._release(member)
        if new or member.changed:
            self.refresh()

    def knows(self, address: str, instance: str) -> bool:
        return address in self._members and self._members[address].instance == instance

    def left(self, address: str, instance: str) -> None:
        """Its connection broke: unless it is heard of soon, it counts as dead."""
        self._members.doubt(address, instance)

    def orders(self, address: str) -> Orders:
        models = {
            str(key): Order(
                path=self.catalogue[key].path,
                checkpoint=self.catalogue[key].checkpoint,
                overrides=self.catalogue[key].overrides,
                replicas=0 if (key, address) in self._dormancy.asleep else addresses.count(address),
                uuid=self.catalogue[key].uuid,
                revision=self.catalogue[key].revision,
                attempt=self._failures.attempt(key, address),
            )
            for key, addresses in sorted(self._assignment.items())
            if address in addresses
        }
        routes = {str(key): self._routes(key) for key in self.catalogue}
        digest = hashlib.sha256(msgspec.json.encode((self.incarnation, models, routes))).hexdigest()[:16]
        return Orders(incarnation=self.incarnation, digest=digest, models=models, routes=routes)

    # what time does

    def tick(self) -> None:
        """Some times a second: drop machines that are silent, try failed loads again."""
        for member in self._members.prune():
            logger.warning("%s is gone: its %d models are placed elsewhere", member.address, len(member.held))
            self._release(member)
        settled = self._settled_at is not None and self._clock() >= self._settled_at
        if settled:
            self._settled_at = None
        slept_or_woken = [self._look_for_sleepers(key) for key in self.catalogue]
        if settled or self._members.dirty or self._failures.due() or any(slept_or_woken):
            self.refresh()

    def _look_for_sleepers(self, key: ModelKey) -> bool:
        after, places = dormant_after(self.catalogue[key].overrides), set(self._assignment.get(key, []))
        return self._dormancy.look(key, after, places, self.ready(key))

    def refresh(self) -> None:
        """Assigns anew."""
        machines = {member.address: member.machine for member in self._members}
        shunned = self._failures.take_due()
        published = {key: self.catalogue[key] for key in self.catalogue}
        demands = {key: Demand(spec.path, spec.replicas, spec.overrides) for key, spec in published.items()}
        holdings = self._holdings(shunned)
        if self._settled_at is not None:
            held = Counter(holding.key for holding in holdings)
            demands = {
                key: Demand(demand.path, min(demand.replicas, held[key]), demand.overrides)
                for key, demand in demands.items()
            }
        self._assignment = assign(demands, machines, holdings, self._failures.shunned())
        for key, log in self._logs.items():
            log.become({member.address for member, held in self._deployed(key) if held.loaded})
        self._members.dirty = False
        self.changed.ring()

    def _holdings(self, failed: set[tuple[ModelKey, str]]) -> list[Holding]:
        """Who holds what; of what has `failed` only the replicas that are loaded: they serve, and stay."""
        holdings = []
        for key, addresses in self._assignment.items():
            for address, count in Counter(addresses).items():
                if address not in self._members or key not in self.catalogue:
                    continue
                loaded = self._members[address].deployment(key, self.catalogue[key].uuid).loaded
                kept = min(count, loaded) if (key, address) in failed else count
                holdings += [Holding(key, address, loaded=index < loaded) for index in range(kept)]
        return holdings

    def _adopt(self, member: Member) -> None:
        """What a machine brings along stays its own, as far as it is still wanted."""
        for key, held in self._current(member).items():
            if member.address not in self._assignment.get(key, []):
                self._assignment.setdefault(key, []).extend([member.address] * len(held.replicas))

    def _release(self, member: Member) -> None:
        for key, holders in list(self._releasing.items()):
            if member.address not in self._members or key not in member.held:
                holders.discard(member.address)
            if not holders:
                del self._releasing[key]

    def _holders(self, key: ModelKey) -> list[Member]:
        """Of whatever was published under this name."""
        return [member for member in self._members if key in member.held]

    def _deployed(self, key: ModelKey) -> list[tuple[Member, Held]]:
        """Who holds it as it is published now."""
        uuid = self.catalogue[key].uuid
        return [(member, held) for member in self._holders(key) if (held := member.held[key]).uuid == uuid]

    def _current(self, member: Member) -> dict[ModelKey, Held]:
        """What it holds of what is published now."""
        published = self.catalogue
        return {key: held for key, held in member.held.items() if key in published and published[key].uuid == held.uuid}

    def _routes(self, key: ModelKey) -> list[Route]:
        return [
            Route(machine=member.address, replicas=held.reachable, route=held.route)
            for member, held in self._deployed(key)
            if held.reachable
        ]

    def _warning(self, spec: Published) -> str:
        if any(spec.path in member.machine.paths for member in self._members):
            return ""
        return f"no server of this cell can serve {spec.path} yet"
