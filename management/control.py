"""The control plane's verbs: register, scale, set default, unregister, describe. Each is one line of thought, under one lock
per model, and is durable and routed when it returns.

Runs in one event loop; `api` and the command line call it, nothing else changes state. Not for: HTTP.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from ..archiver.errors import ArchiveError, InvalidModel
from ..archiver.fetch import Fetched, fetch, remove_download
from ..archiver.unpack import Limits, ModelArchive
from .dependencies import install
from .errors import BadRequest, ManagementError, StorageFailed, WorkersFailed
from .pool import Pool, Surroundings
from .registry import Configured, Registry, VersionRecord, WorkflowRecord
from .routing import ModelRoute, RouteWriter, Table, WorkflowNode, WorkflowRoute
from .serving import Registration, decide, require_startable
from .settings import ALLOWED_BY_TORCHSERVE
from .unpacked import Unpacked
from .workers import State, Worker

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # a model's name and version
RUNTIMES = ("python", "python2", "python3", "LSP")
MAX_DOWNLOADS = 16  # at a time, others wait
RETRY_SECONDS = 1.0  # between tries to write the routing table


@dataclass(frozen=True)
class Scaled:
    name: str
    version: str
    workers: int


class ControlPlane:
    def __init__(
        self, registry: Registry, around: Surroundings, routes: RouteWriter, models_folder: Path, model_store: Path
    ) -> None:
        self.registry = registry
        self.pools: dict[Key, Pool] = {}
        self.draining = False
        self.starting = False  # the server is about to register what is loaded at start
        self.broken: dict[Key, str] = {}  # registered, but its archive is gone or spoilt: why
        self.observers: list[Callable[[], None]] = []  # called after each change
        self.waiting: Callable[[str, str], int] = lambda name, version: 0  # requests in the data plane's queues
        self.woken_by_cell: Callable[[str], bool] = lambda name: False  # whether a model's cell sees to it
        self.elsewhere: dict[str, ModelRoute] = {}  # what the cell's other machines serve, under the names it has here
        self._around = around
        self._routes = routes
        self._model_store = model_store
        settings = around.settings
        limits = Limits(total_bytes=settings.max_archive_size, members=settings.max_archive_members)
        self.unpacked = Unpacked(models_folder, limits)
        self._downloads = ThreadPoolExecutor(MAX_DOWNLOADS, "download")
        self._leaving: set[asyncio.Task[None]] = set()  # of models that are unregistered: they end with their workers
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # while somebody has or wants them
        self._next_try: asyncio.TimerHandle | None = None  # a routing table that waits for room on the disk
        self._outdated: dict[Key, VersionRecord] = {}  # an earlier start's, until this one's configuration is read

    async def register(self, asked: Registration, *, wait: bool) -> Scaled:
        """`wait`: when it returns the workers are ready, and when one can't be the registration is undone."""
        if asked.runtime and asked.runtime not in RUNTIMES:
            raise BadRequest(f"Invalid RuntimeType value: {asked.runtime}")
        fetched = self._fetched_before(asked) or await self.fetch(asked.url, self._model_store, trusted=asked.trusted)
        try:
            async with self.unpacked.opened(fetched.path) as archive:
                python = await self._python(archive)
                record = self._record(asked, fetched, archive)
                require_startable(record.min_workers)
                async with self._change(record.name):
                    record = self._entered(record, asked)
                    pool = self._serve(record, archive, python)
                    self.publish()
                    started = pool.add(record.min_workers)
        except OSError as error:
            raise StorageFailed(f"The archive could not be unpacked: {error.strerror}") from error
        finally:
            if not self._in_use(fetched.path):
                remove_download(fetched)
        logger.info("Model %s version %s is registered from %s", record.name, record.version, asked.url)
        if wait and (cause := await first_failure(started)):
            await self._undo(pool)
            raise WorkersFailed(f"Failed to start workers for model {record.name} version: {record.version}", cause)
        return Scaled(record.name, record.version, record.min_workers)

    async def fetch(self, url: str, store: Path, *, trusted: bool = False) -> Fetched:
        """Downloads have threads of their own: they may take an hour, and what else takes a thread would wait for them."""
        call = partial(fetch, url, store, self.allowed_urls, trusted=trusted)
        return await asyncio.get_running_loop().run_in_executor(self._downloads if "://" in url else None, call)

    @property
    def healthy(self) -> bool:
        """No worker is given up. An archive that is gone is told in its description: it does not stop the other models."""
        return not any(pool.failed for pool in self.pools.values())

    async def scale(self, name: str, version: str | None, low: int, high: int | None, *, wait: bool) -> Scaled:
        """All or nothing when waited for: if a new worker can't load, the counts are as before. Workers that were given up
        are replaced, and an archive that could not be opened is tried again: whoever scales wants them to run."""
        high = low if high is None else high
        if low < 0 or high < low:
            raise BadRequest("max_worker cannot be less than min_worker." if high < low else f"min_worker={low}: negative.")
        require_startable(low)
        await self._mend(self.registry.find(name, version))
        async with self._change(name):
            before = self.registry.find(name, version)
            pool = self._pool(before)
            record = self._resize(pool, low, high)
            target = min(max(len(pool.workers), low), high)
            were, alive = len(pool.workers), sum(worker.state is not State.FAILED for worker in pool.workers)
            leaving = pool.take_away(were - min(target, alive)) if were > min(target, alive) else []
            started = pool.add(target - len(pool.workers))
        if wait and leaving:
            await asyncio.wait(leaving, timeout=self._around.settings.unregister_model_timeout)
        if wait and (cause := await first_failure(started)):
            async with self._change(name):
                if self.pools.get((name, before.version)) is pool:
                    self._resize(pool, before.min_workers, before.max_workers)
                    pool.take_away(max(0, min(len(pool.workers) - were, sum(w in started for w in pool.workers))))
            raise WorkersFailed(f"Failed to start workers for model {name} version: {version or 'null'}", cause)
        return Scaled(name, record.version, target)

    async def set_default(self, name: str, version: str) -> None:
        async with self._change(name):
            self.registry.set_default(name, version)

    async def unregister(self, name: str, version: str | None = None, only: Pool | None = None) -> None:
        """Routed no more when it returns; what its workers have, they finish. `only`: unless others serve it by now."""
        async with self._change(name):
            if only and self.pools.get((name, only.record.version)) is not only:
                return
            record = self.registry.remove(name, version)
            self.broken.pop((record.name, record.version), None)
            self._outdated.pop((record.name, record.version), None)
            pool = self.pools.pop((record.name, record.version), None)
            self.publish()
            if pool:
                self._leave(pool)
        self._remove_download(record)
        logger.info("Model %s version %s is unregistered", record.name, record.version)

    async def restore(self, *, anew: bool = False) -> None:
        """Starts what the registry holds; a model whose archive is gone stays registered, with its cause.

        `anew`: what an earlier start's configuration has loaded waits for what this one's says of it."""
        for versions in list(self.registry.state.models.values()):
            for record in versions.values():
                if anew and record.loaded_at_startup:
                    key = record.name, record.version
                    self._outdated[key] = record
                    self.broken[key] = "its configuration is still being read"
                else:
                    await self._restore(record)
        self.publish()

    def forget_outdated(self, causes: Mapping[str, str]) -> None:
        """The configuration is read: what it names no more goes; what can't be loaded (URL → why) stays, with its cause."""
        for key, record in self._outdated.items():
            self.broken[key] = causes.get(record.url, "the configuration no longer names it")
        gone = {key: record for key, record in self._outdated.items() if record.url not in causes}
        self._outdated = {}
        if gone:
            self.registry.forget(gone)
        for key, record in gone.items():
            del self.broken[key]
            self._remove_download(record)
            logger.warning("Model %s version %s is unregistered: the configuration no longer names it", *key)

    def stalled(self, worker_id: str) -> None:
        """An HTTP process waits in vain for this worker: replace it."""
        for pool in self.pools.values():
            for worker in pool.ready():
                if worker.id == worker_id:
                    logger.error("Worker %s of %s hangs and is replaced", worker_id, pool.label)
                    worker.kill()

    async def wake(self, name: str, version: str | None) -> None:
        """A request waits for a model that was scaled to nothing."""
        record = self.registry.find(name, version)
        if not self.woken_by_cell(name) and not self._pool(record).workers:
            await self.scale(name, record.version, 1, max(1, record.max_workers), wait=False)

    async def stop(self, drain_seconds: float) -> None:
        await asyncio.gather(*(pool.stop(drain_seconds) for pool in self.pools.values()))

    def publish(self) -> None:
        """A disk that is full costs neither the change nor who watches over the workers: HTTP processes hear of it later."""
        if self._next_try:
            self._next_try.cancel()
            self._next_try = None
        try:
            self._routes.publish(self._table())
        except OSError as error:
            logger.error("The routing table could not be written (%s); next try in %g s", error.strerror, RETRY_SECONDS)
            self._next_try = asyncio.get_running_loop().call_later(RETRY_SECONDS, self.publish)
        for observer in self.observers:
            observer()

    def _table(self) -> Table:
        models = {
            name: {v: self.pools[name, v].route() for v in versions if (name, v) in self.pools}
            for name, versions in self.registry.state.models.items()
        }
        defaults = dict(self.registry.state.defaults)
        for name, route in self.elsewhere.items():
            add_elsewhere(models.setdefault(name, {}), route)
            defaults.setdefault(name, route.version)
        return Table(
            models=models,
            defaults=defaults,
            workflows={name: workflow_route(record) for name, record in self.registry.state.workflows.items()},
            healthy=self.healthy,
            draining=self.draining,
            starting=self.starting,
        )

    @property
    def allowed_urls(self) -> tuple[str, ...]:
        settings = self._around.settings
        text = settings.allowed_urls or (ALLOWED_BY_TORCHSERVE if settings.compat else "")
        return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())

    async def _mend(self, record: VersionRecord) -> None:
        """Its archive may be back, or there may be room for it now."""
        key = record.name, record.version
        if key in self.broken and key not in self._outdated:
            del self.broken[key]
            await self._restore(record)

    async def _restore(self, record: VersionRecord) -> None:
        key = record.name, record.version
        try:
            async with self.unpacked.opened(Path(record.archive)) as archive:
                python = await self._python(archive)
                if (found := archive.manifest.model_version) != record.version:
                    logger.warning("Model %s version %s is served from an archive that says %s by now", *key, found)
                async with self._change(record.name):
                    if self._is_current(record):
                        self._serve(record, archive, python).add(record.min_workers)
        except (ArchiveError, OSError) as error:
            if self._is_current(record):
                self.broken[key] = f"its archive can't be opened: {error}"
                logger.error("Model %s version %s is not served: %s", *key, self.broken[key])

    def _is_current(self, record: VersionRecord) -> bool:
        """Not unregistered, and perhaps registered anew, since the registry was asked."""
        return self.registry.state.models.get(record.name, {}).get(record.version) is record

    def _serve(self, record: VersionRecord, archive: ModelArchive, python: tuple[str, ...]) -> Pool:
        self.unpacked.hold(archive)
        pool = self.pools[record.name, record.version] = Pool(record, archive, self._around, python)
        return pool

    def _leave(self, pool: Pool) -> None:
        """Takes its workers away; what they were started from goes when they have."""

        async def leave() -> None:
            await pool.emptied()
            self.unpacked.let_go(pool.archive)

        pool.take_away(len(pool.workers))
        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _python(self, archive: ModelArchive) -> tuple[str, ...]:
        """The interpreter with the model's own packages; empty: the server's own will do. One at a time makes it: models of the
        same content share it."""
        lock = self._locks.setdefault(archive.content_hash, asyncio.Lock())
        async with lock:
            return await asyncio.to_thread(self._installed, archive)

    def _installed(self, archive: ModelArchive) -> tuple[str, ...]:
        wanted = archive.manifest.requirements_file
        if not self._around.settings.install_py_dep_per_model or not wanted:
            return ()
        requirements = archive.model_dir / wanted
        if not requirements.is_file():
            raise InvalidModel(f"The archive lacks {wanted}.")
        name = f"pip-{archive.manifest.model_name}"
        folder, around = self.unpacked.environment(archive), self._around
        python = install(requirements, folder, around.environment, lambda stream, line: around.log_line(name, stream, line))
        return (str(python),)

    def _record(self, asked: Registration, fetched: Fetched, archive: ModelArchive) -> VersionRecord:
        settings = self._around.settings
        handler = asked.handler or (None if archive.manifest.handler else settings.default_service_handler)
        named = archive.manifest.named(asked.name, handler)
        for warning in archive.config.warnings:
            logger.warning("Model %s: its YAML: %s", named.model_name, warning)
        serving = decide(asked, archive.config, settings, 0)
        return VersionRecord(
            name=named.model_name or "",
            version=named.model_version,
            url=asked.url,
            archive=str(fetched.path.absolute()),
            downloaded=fetched.downloaded,
            handler=handler,
            runtime=asked.runtime or named.runtime,
            batch_size=serving.batch_size,
            max_batch_delay_ms=serving.max_batch_delay_ms,
            response_timeout=serving.response_timeout,
            startup_timeout=serving.startup_timeout,
            min_workers=serving.min_workers,
            max_workers=serving.max_workers,
            loaded_at_startup=asked.at_startup,
            configured=Configured(serving.min_workers, serving.max_workers, asked.make_default)
            if asked.at_startup
            else None,
        )

    def _entered(self, record: VersionRecord, asked: Registration) -> VersionRecord:
        """In the registry: decided anew where an earlier start's configuration had it."""
        before = self._outdated.pop((record.name, record.version), None) if asked.at_startup else None
        if before is None:
            self.registry.add(record, make_default=asked.make_default)
            return record
        record = self._anew(record, before)
        if asked.make_default and not (before.configured and before.configured.default):
            self.registry.set_default(record.name, record.version)
        return record

    def _anew(self, record: VersionRecord, before: VersionRecord) -> VersionRecord:
        """The configuration rules; but workers that the API has changed stay while the configuration says what it said."""
        said, says = before.configured, record.configured
        if said and says and (said.min_workers, said.max_workers) == (says.min_workers, says.max_workers):
            low, high = before.min_workers, before.max_workers
            if (low, high) != (record.min_workers, record.max_workers):
                logger.warning(
                    "Model %s version %s keeps the %d to %d workers that the API gave it; its configuration says %d to %d",
                    record.name,
                    record.version,
                    *(low, high, record.min_workers, record.max_workers),
                )
                record = msgspec.structs.replace(record, min_workers=low, max_workers=high)
        self.broken.pop((record.name, record.version), None)
        self.registry.replace(record)
        return record

    def _fetched_before(self, asked: Registration) -> Fetched | None:
        """What an earlier start has downloaded from there is not fetched again."""
        for record in self._outdated.values():
            if asked.at_startup and record.downloaded and record.url == asked.url and Path(record.archive).exists():
                return Fetched(Path(record.archive), downloaded=True)
        return None

    def _remove_download(self, record: VersionRecord) -> None:
        if record.downloaded and not self._in_use(Path(record.archive)):
            remove_download(Fetched(Path(record.archive), downloaded=True))

    def _resize(self, pool: Pool, low: int, high: int) -> VersionRecord:
        record = msgspec.structs.replace(pool.record, min_workers=low, max_workers=high)
        self.registry.replace(record)
        pool.record = record
        return record

    def _pool(self, record: VersionRecord) -> Pool:
        try:
            return self.pools[record.name, record.version]
        except KeyError:
            cause = self.broken.get((record.name, record.version), "")
            raise WorkersFailed(f"Model {record.name} version {record.version} can't be served", cause) from None

    async def _undo(self, pool: Pool) -> None:
        """Somebody may have unregistered the model meanwhile, and registered it anew."""
        record = pool.record
        try:
            await self.unregister(record.name, record.version, only=pool)
        except ManagementError as error:
            logger.warning("Model %s version %s stays registered: %s", record.name, record.version, error)

    def _in_use(self, path: Path) -> bool:
        return any(r.archive == str(path.absolute()) for v in self.registry.state.models.values() for r in v.values())

    @asynccontextmanager
    async def _change(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield
            self.publish()


def workflow_route(record: WorkflowRecord) -> WorkflowRoute:
    """A node is a model under the workflow's name and its own."""
    wanted = {source for node in record.nodes for source in node["inputs"]}
    return WorkflowRoute(
        nodes=[
            WorkflowNode(
                name=node["name"],
                model=f"{record.name}__{node['name']}",
                inputs=node["inputs"],
                feeds=node["name"] in wanted,
                timeout_seconds=node["timeout_seconds"],
                attempts=node["attempts"],
            )
            for node in record.nodes
        ]
    )


def add_elsewhere(versions: dict[str, ModelRoute], route: ModelRoute) -> None:
    """Another machine's replicas beside our own of the same version."""
    ours = versions.get(route.version)
    replicas = [*(ours.replicas if ours else []), *route.replicas]
    versions[route.version] = msgspec.structs.replace(ours or route, replicas=replicas)


async def first_failure(workers: list[Worker]) -> str:
    """Waits until all are ready or one has failed; its cause, or an empty string."""
    for outcome in asyncio.as_completed([worker.first_outcome() for worker in workers]):
        if cause := await outcome:
            return cause
    return ""
