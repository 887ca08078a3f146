"""The registry: which models, versions, defaults and worker counts there should be. Durable, and owned by one process.

Each change is on the disk before the call returns: the next file is written and synced, the present one becomes the
last good copy, a rename puts the next in its place, the folder is synced. A kill at any moment leaves the state before
or after, never between. Not for: what is running, which is `pool`'s.
"""

import logging
import os
from collections.abc import Collection
from io import RawIOBase
from pathlib import Path
from typing import Any

import msgspec

from . import faults
from .errors import DefaultVersionInUse, ModelConflict, ModelNotFound, StateError, StorageFailed, VersionNotFound

logger = logging.getLogger(__name__)


class Configured(msgspec.Struct, frozen=True):
    """What the configuration said of a model it loaded: what differs from it now, the API has changed since."""

    min_workers: int
    max_workers: int
    default: bool = False


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of one model as it was registered; times as TorchServe's API writes them."""

    name: str
    version: str
    url: str  # as registered
    archive: str  # the file or folder it stands for on this machine
    downloaded: bool = False  # `archive` is a copy of ours: it goes with the model
    handler: str | None = None  # overrides the manifest's
    runtime: str = "python"
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout: float = 120
    startup_timeout: float = 120
    min_workers: int = 0
    max_workers: int = 0
    loaded_at_startup: bool = False
    configured: Configured | None = None  # of those loaded at start


class WorkflowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as it was registered; its nodes are models of their own."""

    name: str
    url: str
    archive: str
    downloaded: bool = False  # `archive` is a copy of ours: it goes with the workflow
    nodes: list[dict[str, Any]]  # each after those that feed it; made by `workflows.record_of`
    dag: dict[str, list[str]]


class State(msgspec.Struct, frozen=True, kw_only=True):
    sequence: int = 0  # counts the writes: of two states the larger is the newer
    models: dict[str, dict[str, VersionRecord]] = {}
    defaults: dict[str, str] = {}
    workflows: dict[str, WorkflowRecord] = {}


class Registry:
    """`path` None: nothing is kept over a restart (--ncs)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._state = _restore(path) if path else State()

    @property
    def state(self) -> State:
        return self._state

    def versions(self, name: str) -> dict[str, VersionRecord]:
        """ModelNotFound when there is no such model."""
        try:
            return self._state.models[name]
        except KeyError:
            raise ModelNotFound(f"Model not found: {name}") from None

    def find(self, name: str, version: str | None = None) -> VersionRecord:
        """`version` None: the default one."""
        versions = self.versions(name)
        wanted = self._state.defaults[name] if version is None else version
        try:
            return versions[wanted]
        except KeyError:
            raise VersionNotFound(f"Model version: {wanted} does not exist for model: {name}") from None

    def default(self, name: str) -> str:
        self.versions(name)
        return self._state.defaults[name]

    def add(self, record: VersionRecord, *, make_default: bool = False) -> None:
        """The first version of a model becomes its default in any case."""
        if record.version in self._state.models.get(record.name, {}):
            raise ModelConflict(f"Model version {record.version} is already registered for model {record.name}")
        default = {record.name: record.version}
        defaults = self._state.defaults | default if make_default else default | self._state.defaults
        self._write(self._with(record), defaults)

    def replace(self, record: VersionRecord) -> None:
        self.find(record.name, record.version)
        self._write(self._with(record), self._state.defaults)

    def set_default(self, name: str, version: str) -> None:
        if version not in self.versions(name):
            raise VersionNotFound(f"Model version {version} does not exist for model {name}")
        self._write(self._state.models, self._state.defaults | {name: version})

    def remove(self, name: str, version: str | None = None) -> VersionRecord:
        """The default version goes only as the last one."""
        record = self.find(name, version)
        rest = {v: r for v, r in self._state.models[name].items() if v != record.version}
        if rest and self._state.defaults[name] == record.version:
            raise DefaultVersionInUse(f"Cannot remove default version for model {name}")
        models = {n: versions for n, versions in self._state.models.items() if n != name} | ({name: rest} if rest else {})
        self._write(models, {n: v for n, v in self._state.defaults.items() if n in models})
        return record

    def forget(self, keys: Collection[tuple[str, str]]) -> None:
        """Versions go, default ones too: then what was registered last answers."""
        kept = {n: {v: r for v, r in versions.items() if (n, v) not in keys} for n, versions in self._state.models.items()}
        models = {name: versions for name, versions in kept.items() if versions}
        defaults = self._state.defaults
        self._write(models, {n: defaults[n] if defaults[n] in vs else next(reversed(vs)) for n, vs in models.items()})

    def add_workflow(self, record: WorkflowRecord) -> None:
        self._keep(msgspec.structs.replace(self._state, workflows=self._state.workflows | {record.name: record}))

    def remove_workflow(self, name: str) -> None:
        rest = {n: record for n, record in self._state.workflows.items() if n != name}
        self._keep(msgspec.structs.replace(self._state, workflows=rest))

    def _with(self, record: VersionRecord) -> dict[str, dict[str, VersionRecord]]:
        models = self._state.models
        return models | {record.name: models.get(record.name, {}) | {record.version: record}}

    def _write(self, models: dict[str, dict[str, VersionRecord]], defaults: dict[str, str]) -> None:
        self._keep(msgspec.structs.replace(self._state, models=models, defaults=defaults))

    def _keep(self, state: State) -> None:
        state = msgspec.structs.replace(state, sequence=self._state.sequence + 1)
        if self._path:
            try:
                replace_durably(self._path, msgspec.json.format(msgspec.json.encode(state)))
            except OSError as error:
                raise StorageFailed(f"The state could not be written: {error.strerror}") from error
        self._state = state


def replace_durably(path: Path, content: bytes) -> None:
    """When this returns, `content` survives a loss of power; until then the old content does."""
    next_, good = path.with_suffix(path.suffix + ".next"), path.with_suffix(path.suffix + ".good")
    faults.point("state")
    with open(os.open(next_, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
        half = len(content) // 2
        _write_all(file, content[:half])
        faults.point("state")
        _write_all(file, content[half:])
        faults.point("state")
        os.fsync(file.fileno())
    faults.point("state")
    if path.exists():
        good.unlink(missing_ok=True)
        faults.point("state")
        os.link(path, good)
    faults.point("state")
    os.replace(next_, path)
    faults.point("state")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    faults.point("state")


def _write_all(file: RawIOBase, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _restore(path: Path) -> State:
    """The state file, or the last good copy when the file is damaged; neither there: a fresh start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    complaints: list[Any] = []
    for candidate in (path, path.with_suffix(path.suffix + ".good")):
        try:
            return msgspec.json.decode(candidate.read_bytes(), type=State)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError) as error:
            complaints.append(f"{candidate}: {error}")
            logger.error("Unreadable state in %s: %s", candidate, error)
    if complaints:
        raise StateError("; ".join(complaints))
    return State()
