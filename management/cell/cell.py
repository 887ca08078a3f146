"""A cell: what is published, which machines are here, who shall hold what. One owner, no I/O but its state file.

Every change is durable before the call returns and assigned at once; `changed` is rung so that waiting machines and
watchers look again. Machines send whole reports and get whole orders (`messages`), so the cell recovers from anything it
missed. After a restart it knows the models, and learns from reports who holds them. Not for: HTTP, timers, processes.
"""

import asyncio
import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable

import msgspec

from . import acl, names
from .assigner import Assignment, Demand, Holding, assign
from .errors import SaxError, invalid, not_found
from .failures import Failures
from .members import Member, Members
from .messages import ModelStatus, Order, Orders, Published, Report, Route, ServerStatus, WatchAnswer
from .names import ModelKey
from .root import Folder
from .watch import AddressLog

logger = logging.getLogger(__name__)

STATE = "state.json"


class State(msgspec.Struct, frozen=True, kw_only=True):
    models: dict[str, Published] = {}


class Bell:
    """Lets any number of tasks wait for the next change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    def listen(self) -> asyncio.Event:
        """Set by the next ring, even if nobody waits for it yet."""
        return self._event

    async def wait(self, seconds: float) -> None:
        """For the next ring, or so long."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            pass


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
        self.admin_acl = admin_acl
        self.incarnation = secrets.token_hex(8)
        self.changed = Bell()
        self._state = state
        self._clock = clock
        self._members = Members(clock, prune_seconds)
        self._failures = Failures(clock)
        content = state.read(STATE)
        restored = msgspec.json.decode(content, type=State).models if content else {}
        self._models: dict[ModelKey, Published] = {names.parse_model(full): spec for full, spec in restored.items()}
        self._logs = {key: AddressLog() for key in self._models}
        self._assignment: Assignment = {}
        self._releasing: dict[ModelKey, set[str]] = {}  # unpublished names, and the machines that still hold them
        self._settled_at = clock() + settle_seconds if restored and settle_seconds else None

    # what publishers ask

    def publish(
        self, full: str, path: str, checkpoint: str, replicas: int, overrides: dict[str, str], role: str | None = None
    ) -> str:
        """A warning, or nothing."""
        acl.check_admin(self.admin_acl, role)
        key = self.key(full)
        names.check_path(path)
        names.check_checkpoint(checkpoint)
        names.check_replicas(replicas)
        if key in self._models:
            raise SaxError("AlreadyExists", f"model {key} already exists")
        if key in self._releasing:
            raise SaxError("Unavailable", f"model {key} is being unpublished, please retry later")
        spec = Published(
            path=path, checkpoint=checkpoint, replicas=replicas, overrides=overrides, uuid=secrets.token_hex(16)
        )
        self._store(self._models | {key: spec})
        self._logs[key] = AddressLog()
        logger.info("%s is published: %s from %s, %d replicas", key, path, checkpoint, replicas)
        self.refresh()
        return self._warning(spec)

    def update(
        self,
        full: str,
        *,
        path: str | None = None,
        checkpoint: str | None = None,
        replicas: int | None = None,
        overrides: dict[str, str] | None = None,
        admin_acl: str | None = None,
        acls: dict[str, str] | None = None,
        role: str | None = None,
    ) -> Published:
        """What is not given stays. Replicas reload only when checkpoint or overrides have changed."""
        key, old = self._find(full)
        acl.check_admin(old.admin_acl or self.admin_acl, role)
        if path is not None:
            names.check_path(path)
            if path != old.path:
                raise invalid("invalid model update: model path can't be changed")
        if checkpoint is not None:
            names.check_checkpoint(checkpoint)
        if replicas is not None:
            names.check_replicas(replicas)
        acl.check_names(admin_acl, acls)
        given = {
            "checkpoint": checkpoint, "replicas": replicas, "overrides": overrides, "admin_acl": admin_acl, "acls": acls,
        }  # fmt: skip
        new: Published = msgspec.structs.replace(old, **{name: value for name, value in given.items() if value is not None})
        if (new.checkpoint, new.overrides) != (old.checkpoint, old.overrides):
            new = msgspec.structs.replace(new, revision=old.revision + 1)
            self._failures.forget(key)
        self._store(self._models | {key: new})
        logger.info("%s is updated: %s, %d replicas", key, new.checkpoint, new.replicas)
        self.refresh()
        return new

    def unpublish(self, full: str, role: str | None = None) -> None:
        key, old = self._find(full)
        acl.check_admin(old.admin_acl or self.admin_acl, role)
        self._store({other: spec for other, spec in self._models.items() if other != key})
        del self._logs[key]
        self._failures.forget(key)
        if holders := {member.address for member in self._members if key in member.held}:
            self._releasing[key] = holders
        logger.info("%s is unpublished", key)
        self.refresh()

    # what readers ask

    def key(self, full: str) -> ModelKey:
        key = names.parse_model(full)
        if key.cell_name != self.name:
            raise invalid(f"model {key} must be within SAX cell {names.quoted(self.name)}")
        return key

    def models(self) -> list[str]:
        return sorted(str(key) for key in self._models)

    def spec(self, full: str) -> Published:
        return self._find(full)[1]

    def status(self, full: str) -> ModelStatus:
        key, spec = self._find(full)
        held = [(member, member.held[key]) for member in self._members if key in member.held]
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
        loaded = sum(member.loaded(key) for member in self._members)
        return min(loaded, self._models[key].replicas) if key in self._models else 0

    async def wait_ready(self, full: str, replicas: int, seconds: float) -> int:
        """How many are loaded once that many are."""
        key, spec = self._find(full)
        end = self._clock() + seconds
        while (ready := self.ready(key)) < replicas:
            if self._models.get(key, Published(path="", checkpoint="", replicas=0)).uuid != spec.uuid:
                raise SaxError("Canceled", f"model {key} was unpublished")
            if (left := end - self._clock()) <= 0:
                raise SaxError("DeadlineExceeded", f"model {key} has {ready} of {replicas} replicas after {seconds:g} s")
            await self.changed.wait(left)
        return ready

    async def watch(self, full: str, admin: str, seqno: int, seconds: float) -> WatchAnswer:
        """Changes after `seqno`, at the latest after `seconds` (then there may be none)."""
        if seqno < 0:
            raise invalid(f"WatchLoc seqno {seqno} should be non-negative")
        key, _ = self._find(full)
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
        for key, held in member.held.items():
            self._failures.note(key, member.address, held)
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
                path=self._models[key].path,
                checkpoint=self._models[key].checkpoint,
                overrides=self._models[key].overrides,
                replicas=addresses.count(address),
                revision=self._models[key].revision,
                attempt=self._failures.attempt(key, address),
            )
            for key, addresses in sorted(self._assignment.items())
            if address in addresses
        }
        routes = {str(key): self._routes(key) for key in sorted(self._models)}
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
        if settled or self._members.dirty or self._failures.due():
            self.refresh()

    def refresh(self) -> None:
        """Assigns anew."""
        machines = {member.address: member.machine for member in self._members}
        shunned = self._failures.take_due()
        demands = {key: Demand(spec.path, spec.replicas, spec.overrides) for key, spec in self._models.items()}
        holdings = self._holdings(shunned)
        if self._settled_at is not None:
            held = Counter(holding.key for holding in holdings)
            demands = {
                key: Demand(demand.path, min(demand.replicas, held[key]), demand.overrides)
                for key, demand in demands.items()
            }
        self._assignment = assign(demands, machines, holdings, self._failures.shunned())
        for key, log in self._logs.items():
            log.become({member.address for member in self._members if member.loaded(key)})
        self._members.dirty = False
        self.changed.ring()

    def _holdings(self, dropped: set[tuple[ModelKey, str]]) -> list[Holding]:
        holdings = []
        for key, addresses in self._assignment.items():
            for address, count in Counter(addresses).items():
                if (key, address) in dropped or address not in self._members:
                    continue
                loaded = self._members[address].loaded(key)
                holdings += [Holding(key, address, loaded=index < loaded) for index in range(count)]
        return holdings

    def _adopt(self, member: Member) -> None:
        """What a machine brings along stays its own, as far as it is still wanted."""
        for key, held in member.held.items():
            if key in self._models and member.address not in self._assignment.get(key, []):
                self._assignment.setdefault(key, []).extend([member.address] * len(held.replicas))

    def _release(self, member: Member) -> None:
        for key, holders in list(self._releasing.items()):
            if member.address not in self._members or key not in member.held:
                holders.discard(member.address)
            if not holders:
                del self._releasing[key]

    def _routes(self, key: ModelKey) -> list[Route]:
        return [
            Route(machine=member.address, replicas=member.reachable(key), route=member.held[key].route)
            for member in self._members
            if member.reachable(key)
        ]

    def _warning(self, spec: Published) -> str:
        if any(spec.path in member.machine.paths for member in self._members):
            return ""
        return f"no server of this cell can serve {spec.path}"

    def _find(self, full: str) -> tuple[ModelKey, Published]:
        key = self.key(full)
        if key not in self._models:
            raise not_found(f"model {key} not found")
        return key, self._models[key]

    def _store(self, models: dict[ModelKey, Published]) -> None:
        state = State(models={str(key): spec for key, spec in sorted(models.items())})
        self._state.write(STATE, msgspec.json.format(msgspec.json.encode(state)))
        self._models = models
