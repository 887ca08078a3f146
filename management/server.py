"""`python -m flambeau.management.server org.pytorch.serve.ModelServer …`: the supervisor, from the first line to the last.

`Server.start` and `Server.stop` are straight lists of steps; between them events rule. Users come here through `flambeau
start` or `torchserve --start`. Not for: what the verbs do, which is `control`'s.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from . import addresses, guard, sockets
from .control import ControlPlane
from .data_plane import accepting, grpc_process, http_master, write_options
from .devices import GpuRoundRobin, gpus_to_use
from .environment import child_environment, worker_environment
from .errors import ManagementError
from .interfaces import Interfaces, open_sockets
from .kept import Kept
from .launcher import ARGV_MARK, Running, announce, withdraw
from .logs import open_logs
from .measuring import Measuring
from .metrics import all_families, exposition, waiting_requests
from .pool import Surroundings
from .processes import Children
from .registry import Registry
from .routing import RouteWriter
from .runtime import RuntimeFolder, own_state
from .settings import Loaded
from .snapshots import Snapshots
from .startup import Plan, arrange, first_models, greeting, parser
from .tls import certificate
from .tokens import Tokens
from .translate import frontend_options
from .workflows import Workflows

if TYPE_CHECKING:
    from .autoscaler.loop import Autoscaler
    from .cell.service import CellService
    from .cluster.service import ClusterService

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0
END_SECONDS = 5.0  # the kernel's time for what was killed


class Server:
    """One per process. `stopped` resolves when a signal or a caller wants the end."""

    def __init__(self, loaded: Loaded, plan: Plan) -> None:
        self._settings, self._loaded, self._plan = loaded.settings, loaded, plan
        self._wanted = asyncio.Event()
        self._signals = 0
        self._standing = False
        self._snapshots: Snapshots | None = None  # none with --ncs
        self._data_plane: list[Kept] = []
        self._cell: CellService | None = None
        self._cluster: ClusterService | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        try:
            await self.start()
            await self._wanted.wait()
        except ManagementError as error:
            if self._standing:  # else standard error has it; which is nowhere once a detached server is ready
                logger.error("%s", error)
            raise
        finally:
            await self.stop()

    async def start(self) -> None:
        """The order: what can refuse first, then sockets, then processes, then models."""
        settings, plan = self._settings, self._plan
        self._loop = asyncio.get_running_loop()
        inference = addresses.parse(settings.inference_address)
        sockets.require_free(inference)
        self._access = guard.decide(settings, os.environ)
        control_sockets = open_sockets(settings)
        self._state_lock = own_state(plan.state_file) if plan.state_file else None
        self._runtime = RuntimeFolder(Path(settings.runtime_dir) if settings.runtime_dir else None)
        self.logs = open_logs(plan.logs, plan.metrics_logs, debug=settings.debug, console=plan.console)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._asked_to_stop)
        self._certificate = certificate(settings, self._runtime.path)
        self._tokens = self._make_tokens() if self._access.any_tokens else None
        self._children = Children()
        self.measuring = Measuring(settings, self.logs)
        self.control = self._control_plane()
        self.control.starting = True
        self._enter_cell()
        store = Path(settings.workflow_store) if settings.workflow_store else plan.model_store
        self._workflows = Workflows(self.control, store)
        self._autoscaler = self._assemble_autoscaler()
        self.control.waiting = lambda name, version: waiting_requests(self._runtime.path / "metrics", name, version)
        self._standing = True
        self.control.publish()
        self._interfaces = Interfaces(
            settings=settings,
            access=self._access,
            tokens=self._tokens,
            certificate=self._certificate,
            control=self.control,
            workflows=self._workflows,
            autoscaler=self._autoscaler,
            measuring=self.measuring,
            runtime=self._runtime.path,
            loop=self._loop,
        )
        self._interfaces.serve(control_sockets)
        write_options(self._runtime.path, self._options())
        self._start_data_plane()
        await accepting(inference, READY_SECONDS)
        logger.info("%s", greeting(settings))
        announce(self._facts(), detached=plan.detached)
        await self.control.restore(anew=plan.decides_models)
        await self._serve_cell()
        self._spawn(self._first_models())
        self._spawn(self.measuring.watch_the_system())
        self._spawn(self.logs.keep_small())
        if self._autoscaler:
            self._spawn(self._autoscaler.run())

    async def _first_models(self) -> None:
        try:
            await first_models(self.control, self._settings, self._plan)
        finally:
            self.control.starting = False
            self.control.publish()
        if self._plan.state_file:
            stores = {key: value for key in ("model_store", "workflow_store") if (value := getattr(self._settings, key))}
            self._snapshots = Snapshots(self._plan.logs / "config", self._loaded.raw | stores)
            self._snapshots.write(self.control.registry.state, "startup")
            self.control.observers.append(lambda: self._snapshot("snapshot"))

    def _snapshot(self, kind: str) -> None:
        if self._snapshots:
            self._snapshots.write(self.control.registry.state, kind)

    def _enter_cell(self) -> None:
        """What can refuse; models and machines are the cell's from `_serve_cell` on."""
        settings = self._settings
        if settings.cell:
            from .cell.service import CellService
            from .cell.settings import cell_options

            options = cell_options(settings, os.environ, self._plan.state_folder)
            self._cell = CellService(
                options, self.control, self._runtime.path, self._plan.state_folder, self._plan.model_store
            )
            if settings.cluster:
                from .cluster.service import ClusterService
                from .cluster.settings import cluster_task

                self._cluster = ClusterService(cluster_task(settings, options, self._plan), child_environment(os.environ))
            self._cell.enter()

    async def _serve_cell(self) -> None:
        if self._cell:
            await self._cell.start()
        if self._cluster:
            self._cluster.start()

    def _start_data_plane(self) -> None:
        around = (self._children, self._runtime.path, child_environment(os.environ))
        grpc = grpc_process(self._settings, *around)
        self._data_plane = [http_master(*around), *([grpc] if grpc else [])]

    def _options(self) -> dict[str, Any]:
        options = frontend_options(self._settings, self.logs, self._certificate, __version__, self._access)
        if self._settings.cell:
            from .cell.settings import sax_root

            options["sax_root"] = sax_root(self._settings, os.environ, self._plan.state_folder)
        return options

    def _facts(self) -> Running:
        settings = self._settings
        urls = (settings.inference_address, settings.management_address, settings.metrics_address)
        inference, management, metrics = (addresses.parse(url).url for url in urls)
        key_file = str(self._key_file().absolute()) if self._access.any_tokens else ""
        return Running(os.getpid(), inference, management, metrics, str(self._plan.logs.absolute()), key_file)

    async def stop(self) -> None:
        """Unready first, then the data plane drains, then its workers, then what told them what to do."""
        if not self._standing:  # it refused before it had started anything
            if hasattr(self, "_runtime"):
                self._runtime.remove()
            return
        logger.info("Stopping")
        if self._cluster:
            await self._cluster.stop()
        if self._cell:
            await self._cell.stop()
        self.control.draining = True
        self.control.publish()
        drain = self._settings.drain_timeout
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(kept.stop(self._settings.drain_delay + drain + 5) for kept in self._data_plane))
        await asyncio.wait(
            {asyncio.create_task(self.control.stop(drain)), asyncio.create_task(self._interfaces.stop())}, timeout=drain
        )
        await self._children.end_all(END_SECONDS)
        self._snapshot("shutdown")
        self._runtime.remove()
        withdraw()
        logger.info("Stopped")

    def _asked_to_stop(self) -> None:
        """The second signal means now."""
        self._signals += 1
        self._wanted.set()
        if self._signals > 1:
            self._children.kill_all()

    def _make_tokens(self) -> Tokens:
        key_file, minutes = self._key_file(), self._settings.token_expiration_min
        tokens = Tokens(key_file, self._runtime.path / "inference_keys.json", minutes * 60)
        logger.info("Requests need tokens; they stand in %s", key_file)
        return tokens

    def _key_file(self) -> Path:
        return Path(self._settings.key_file or "key_file.json")

    def _control_plane(self) -> ControlPlane:
        settings, path = self._settings, self._runtime.path
        ids = iter(range(settings.initial_worker_port, sys.maxsize))
        around = Surroundings(
            settings=settings,
            children=self._children,
            sockets=str(path / "workers"),
            environment=worker_environment(os.environ, settings.blacklist_env_vars),
            next_worker_id=lambda: str(next(ids)),
            take_gpus=GpuRoundRobin(gpus_to_use(settings.number_of_gpu)).take,
            changed=lambda: self.control.publish(),
            log_line=self.logs.model_line,
            on_metric=self.measuring.from_handler,
            on_loaded=self.measuring.worker_loaded,
            server_version=__version__,
        )
        registry = Registry(self._plan.state_file)
        return ControlPlane(registry, around, RouteWriter(path), path / "models", self._plan.model_store)

    def _assemble_autoscaler(self) -> "Autoscaler | None":
        """Its arithmetic takes a second to import: only a server that is told to have one waits for it."""
        if self._settings.autoscaler_config is None:
            return None
        from .autoscaler.assembly import assemble

        folder = (self._plan.state_file or self._plan.logs / "state").parent
        numbers = self._runtime.path / "metrics"
        return assemble(
            Path(self._settings.autoscaler_config),
            folder,
            self.control,
            lambda: exposition(all_families(self.measuring.metrics, numbers)),
        )

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def main(arguments: list[str] | None = None) -> None:
    """Refusals are one sentence and status 1."""
    given = [a for a in (sys.argv[1:] if arguments is None else arguments) if a != ARGV_MARK]
    try:
        loaded, plan = arrange(parser("flambeau.management.server").parse_args(given))
        for warning in loaded.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        asyncio.run(_to_the_end(Server(loaded, plan)))
    except ManagementError as error:
        sys.exit(f"flambeau: {error}")


async def _to_the_end(server: Server) -> None:
    """Everything is written and nothing runs: a thread that still fetches an archive, or waits for a worker, holds nobody up."""
    await server.run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
