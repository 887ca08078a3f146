"""`python -m flambeau.management.server org.pytorch.serve.ModelServer …`: the supervisor, from the first line to the last.

`Server.start` and `Server.stop` are straight lists of steps; between them events rule. Users come here through `flambeau
start` or `torchserve --start`. Not for: what the verbs do, which is `control`'s.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint

from .. import __version__
from . import addresses, api, guard, sockets, workflows_api
from .adapter import Listener
from .control import ControlPlane
from .dashboard import blueprint as dashboard
from .dashboard import recent_decisions
from .data_plane import accepting, grpc_process, http_master, write_options
from .devices import GpuRoundRobin, visible_gpus
from .errors import ManagementError
from .jwt_auth import Verifier
from .kept import Kept
from .launcher import ARGV_MARK, READY, Running, facts_file, pid_file
from .logs import open_logs
from .measuring import Measuring
from .metrics import all_families, blueprint, exposition, waiting_requests
from .pool import Surroundings
from .processes import Children, child_environment
from .registry import Registry
from .routing import RouteWriter
from .runtime import RuntimeFolder
from .settings import Loaded
from .snapshots import Snapshots
from .startup import Plan, arrange, first_models, greeting, parser
from .tls import certificate
from .tokens import Tokens
from .translate import cors_headers, frontend_options
from .vllm_metrics import as_vllm
from .workflows import Workflows

if TYPE_CHECKING:
    from .autoscaler.loop import Autoscaler
    from .cell.service import CellService
    from .cluster.service import ClusterService

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0


class Server:
    """One per process. `stopped` resolves when a signal or a caller wants the end."""

    def __init__(self, loaded: Loaded, plan: Plan) -> None:
        self._settings, self._loaded, self._plan = loaded.settings, loaded, plan
        self._wanted = asyncio.Event()
        self._signals = 0
        self._standing = False
        self._snapshots: Snapshots | None = None  # none with --ncs
        self._data_plane: list[Kept] = []
        self._listeners: list[Listener] = []
        self._cell: CellService | None = None
        self._cluster: ClusterService | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        try:
            await self.start()
            await self._wanted.wait()
        finally:
            await self.stop()

    async def start(self) -> None:
        """The order: what can refuse first, then sockets, then processes, then models."""
        settings, plan = self._settings, self._plan
        self._loop = asyncio.get_running_loop()
        inference = addresses.parse(settings.inference_address)
        sockets.require_free(inference)
        self._access = guard.decide(settings, os.environ)
        control_sockets = self._open_sockets()
        self._runtime = RuntimeFolder(Path(settings.runtime_dir) if settings.runtime_dir else None)
        self.logs = open_logs(plan.logs, plan.metrics_logs, debug=settings.debug, console=plan.console)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._asked_to_stop)
        self._certificate = certificate(settings, self._runtime.path)
        self._tokens = self._make_tokens() if self._access.any_tokens else None
        self._children = Children()
        self.measuring = Measuring(settings, self.logs)
        self.control = self._control_plane()
        store = Path(settings.workflow_store) if settings.workflow_store else plan.model_store
        self._workflows = Workflows(self.control, store)
        self._autoscaler = self._assemble_autoscaler()
        self.control.waiting = lambda name, version: waiting_requests(self._runtime.path / "metrics", name, version)
        self._standing = True
        self.control.publish()
        self._serve(control_sockets)
        write_options(self._runtime.path, self._options())
        self._start_data_plane()
        await accepting(inference, READY_SECONDS)
        logger.info("%s", greeting(settings))
        self._announce()
        await self.control.restore()
        await self._enter_cell()
        self._spawn(self._first_models())
        self._spawn(self.measuring.watch_the_system())
        if self._autoscaler:
            self._spawn(self._autoscaler.run())

    async def _first_models(self) -> None:
        await first_models(self.control, self._settings, self._plan)
        if self._plan.state_file:
            self._snapshots = Snapshots(self._plan.logs / "config", self._loaded.raw)
            self._snapshots.write(self.control.registry.state, "startup")
            self.control.observers.append(lambda: self._snapshot("snapshot"))

    def _snapshot(self, kind: str) -> None:
        if self._snapshots:
            self._snapshots.write(self.control.registry.state, kind)

    async def _enter_cell(self) -> None:
        settings = self._settings
        if settings.cell:
            from .cell.service import CellService
            from .cell.settings import cell_options

            options = cell_options(settings, os.environ, self._plan.state_folder)
            self._cell = CellService(
                options, self.control, self._runtime.path, self._plan.state_folder, self._plan.model_store
            )
            await self._cell.start()
            if settings.cluster:
                from .cluster.service import ClusterService
                from .cluster.settings import cluster_task

                self._cluster = ClusterService(cluster_task(settings, options, self._plan), self._environment())
                self._cluster.start()

    def _start_data_plane(self) -> None:
        around = (self._children, self._runtime.path, self._environment())
        grpc = grpc_process(self._settings, *around)
        self._data_plane = [http_master(*around), *([grpc] if grpc else [])]

    def _options(self) -> dict[str, Any]:
        return frontend_options(self._settings, self.logs, self._certificate, __version__, self._access)

    def _announce(self) -> None:
        """To the commands on this machine, and to whoever started us."""
        settings = self._settings
        urls = (settings.inference_address, settings.management_address, settings.metrics_address)
        inference, management, metrics = (addresses.parse(url).url for url in urls)
        facts = Running(os.getpid(), inference, management, metrics, str(self._plan.logs.absolute()))
        facts_file().write_text(json.dumps(vars(facts)))
        pid_file().write_text(str(os.getpid()))
        if self._plan.detached:
            print(READY, flush=True)
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            os.close(nothing)

    def _unannounce(self) -> None:
        """Unless another server has taken our place."""
        if facts_file().exists() and json.loads(facts_file().read_text()).get("pid") == os.getpid():
            facts_file().unlink(missing_ok=True)
            pid_file().unlink(missing_ok=True)

    async def stop(self) -> None:
        """Unready first, then the data plane drains, then its workers, then what told them what to do."""
        if not self._standing:
            return  # it refused before it had started anything
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
        await asyncio.gather(*(kept.stop(drain + 5) for kept in self._data_plane))
        await asyncio.wait({asyncio.create_task(self.control.stop(drain))}, timeout=drain)
        await asyncio.gather(*(listener.stop() for listener in self._listeners))
        self._children.kill_all()
        self._snapshot("shutdown")
        self._runtime.remove()
        self._unannounce()
        logger.info("Stopped")

    def _asked_to_stop(self) -> None:
        """The second signal means now."""
        self._signals += 1
        self._wanted.set()
        if self._signals > 1:
            self._children.kill_all()

    def _make_tokens(self) -> Tokens:
        settings = self._settings
        key_file = Path(settings.key_file or "key_file.json")
        tokens = Tokens(key_file, self._runtime.path / "inference_keys.json", settings.token_expiration_min * 60)
        logger.info("Requests need tokens; they stand in %s", key_file)
        return tokens

    def _open_sockets(self) -> dict[str, Any]:
        settings = self._settings
        management, metrics = addresses.parse(settings.management_address), addresses.parse(settings.metrics_address)
        inference = addresses.parse(settings.inference_address)
        opened = {} if management == inference else {"management": sockets.listen(management)}
        if metrics not in (inference, management):
            opened["metrics"] = sockets.listen(metrics)
        return opened

    def _control_plane(self) -> ControlPlane:
        settings, path = self._settings, self._runtime.path
        ids = iter(range(settings.initial_worker_port, sys.maxsize))
        gpus = visible_gpus() if settings.number_of_gpu is None else min(visible_gpus(), settings.number_of_gpu)
        around = Surroundings(
            settings=settings,
            children=self._children,
            sockets=str(path / "workers"),
            environment=self._environment(settings.blacklist_env_vars),
            next_worker_id=lambda: str(next(ids)),
            take_gpus=GpuRoundRobin(gpus).take,
            changed=lambda: self.control.publish(),
            log_line=self.logs.model_line,
            on_metric=self.measuring.from_handler,
            server_version=__version__,
        )
        registry = Registry(self._plan.state_file)
        return ControlPlane(registry, around, RouteWriter(path), path / "models", self._plan.model_store)

    def _serve(self, opened: dict[str, Any]) -> None:
        settings = self._settings
        scrape = blueprint(self._scrape)
        same = addresses.parse(settings.metrics_address) == addresses.parse(settings.management_address)
        everything = [
            self._verbs(),
            self._workflow_routes(),
            *self._scaling(),
            self._page(),
            scrape,
            api.internal(self.control, self._call),
        ]
        self._listen(everything, sockets.listen_unix(self._runtime.path / "control.sock"))
        if "management" in opened:
            verbs = [self._verbs(), self._workflow_routes(), *self._scaling(), self._page(), *([scrape] if same else [])]
            self._listen(verbs, opened["management"], settings.management_address)
        if "metrics" in opened:
            self._listen([scrape], opened["metrics"], settings.metrics_address)

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

    def _scaling(self) -> list[Blueprint]:
        if self._autoscaler is None:
            return []
        from .autoscaler.api import blueprint as autoscaler_routes

        routes = autoscaler_routes(self._autoscaler, self._call)
        routes.before_request(self._token_check())
        return [routes]

    def _workflow_routes(self) -> Blueprint:
        routes = workflows_api.blueprint(self._workflows, self._call, model_api=self._access.model_api)
        routes.before_request(self._token_check())
        return routes

    def _page(self) -> Blueprint:
        numbers = self._runtime.path / "metrics"

        def decisions() -> dict[str, Any] | None:
            return recent_decisions(self._autoscaler) if self._autoscaler else None

        return dashboard(
            self.control, lambda: all_families(self.measuring.metrics, numbers), decisions, self._token_check()
        )

    def _token_check(self) -> Callable[[], None]:
        if self._access.jwt:
            return guard.jwt_check(Verifier(self._access.jwt))
        if self._tokens and self._access.management_tokens:
            return guard.token_check(self._tokens)
        return lambda: None

    def _verbs(self) -> Blueprint:
        tokens = self._tokens if self._access.management_tokens else None
        return api.management(
            self.control, self._call, model_api=self._access.model_api, tokens=tokens, check=self._token_check()
        )

    def _listen(self, blueprints: list[Any], socket: Any, address: str = "") -> None:
        settings = self._settings
        tls: dict[str, Any] = {}
        if address.startswith("https:"):
            assert self._certificate is not None  # or it would have refused to start
            tls = {"ssl_certfile": self._certificate.certificate_file, "ssl_keyfile": self._certificate.private_key_file}
        check = guard.browser_check(settings, address) if address else None  # HTTP processes have checked what they pass on
        status = 400 if settings.compat else settings.token_auth_status
        app = api.create_app(blueprints, cors_headers(settings), check=check, token_status=status)
        listener = Listener(app, [socket], max_body_bytes=settings.max_request_size, **tls)
        listener.start()
        self._listeners.append(listener)

    def _scrape(self, wanted: list[str]) -> str:
        """Empty when metrics go to the logs alone, as in the original."""
        if not self.measuring.exposed:
            return ""
        self.measuring.look(self.control.pools.values())
        families = all_families(self.measuring.metrics, self._runtime.path / "metrics")
        return exposition(families + (as_vllm(families) if self._settings.vllm_metrics else []), wanted)

    def _environment(self, hidden: str | None = None) -> dict[str, str]:
        return child_environment(os.environ, hidden)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """From a view's thread into the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

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
        asyncio.run(Server(loaded, plan).run())
    except ManagementError as error:
        sys.exit(f"flambeau: {error}")


if __name__ == "__main__":
    main()
