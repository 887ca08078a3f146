"""What admin, machines and clients of a cell say to each other: JSON bodies of its HTTP API (`api`), typed.

A machine *reports* what it holds; the admin answers with *orders*: everything it shall hold, and everything the cell
serves. Both are whole states, not changes, so a lost message is made good by the next one.
"""

from typing import Literal

import msgspec

from .machines import Machine

Status = Literal["LOADING", "LOADED", "FAILED"]


class Published(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as it was published; what a cell's state file holds."""

    path: str
    checkpoint: str
    replicas: int
    overrides: dict[str, str] = {}
    admin_acl: str = ""
    acls: dict[str, str] = {}  # method → ACL
    uuid: str = ""  # of this deployment; never shown
    revision: int = 1  # counts the changes that need a reload


class ReplicaReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    status: Status
    worker_id: str = ""
    address: str = ""  # where other machines reach the worker: "tcp:host:port/worker"


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model on one machine."""

    uuid: str = ""  # of the deployment: another one under the same name is another model
    revision: int = 1
    attempt: int = 0
    replicas: list[ReplicaReport] = []
    methods: list[str] = []
    reason: str = ""  # of a failure
    route: dict[str, object] = {}  # what a queue elsewhere must know: batch size, timeouts, capabilities

    @property
    def loaded(self) -> int:
        return sum(replica.status == "LOADED" for replica in self.replicas)

    @property
    def reachable(self) -> list[tuple[str, str]]:
        """Worker id and address of the loaded replicas that other machines can reach."""
        return [(one.worker_id, one.address) for one in self.replicas if one.status == "LOADED" and one.address]


class Traffic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a machine's clients have asked of a model since its server started."""

    arrived: int = 0
    rejected: int = 0  # for want of a replica that is awake, or of room in a queue


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST /cell/join, every few seconds."""

    address: str  # the machine's name in the cell, and its HTTP server's address
    instance: str  # one run of the machine's server
    machine: Machine
    models: dict[str, Held] = {}
    traffic: dict[str, Traffic] = {}  # of models that may sleep
    seen: str = ""  # a digest of the newest orders: the admin answers when they differ, or after a while


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    path: str
    checkpoint: str
    overrides: dict[str, str]
    replicas: int
    uuid: str = ""
    revision: int = 1
    attempt: int = 0  # counts the tries of a load that failed


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One machine's loaded replicas of a model, for the routing tables of the others."""

    machine: str
    replicas: list[tuple[str, str]]  # worker id, address
    route: dict[str, object] = {}


class Orders(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    incarnation: str
    digest: str
    models: dict[str, Order] = {}
    routes: dict[str, list[Route]] = {}


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing tells of a model."""

    model: str
    model_path: str
    checkpoint: str
    max_replicas: int
    active_replicas: int  # loaded
    assigned_replicas: int
    addresses: list[str]  # of machines with a loaded replica
    overrides: dict[str, str]
    methods: list[str]
    admin_acl: str
    acls: dict[str, str]
    failures: dict[str, str]  # machine → reason
    warning: str = ""


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    machine: Machine
    lag_seconds: float
    models: dict[str, str]  # model → "LOADED", "LOADING", "FAILED", "DORMANT"


class WatchAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    admin: str  # the incarnation that counts
    seqno: int
    full: list[str] | None = None  # the whole set, when changes are not enough
    changes: list[tuple[Literal["+", "-"], str]] = []
