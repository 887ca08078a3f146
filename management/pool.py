"""The workers of one version of a model: as many as the registry says, each on its device.

Scaling up starts the missing ones, scaling down takes the newest from the routes first and lets them finish. Not for: which
versions there are, which is the registry's, nor for what callers are told, which is `control`'s.
"""

import asyncio
import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..archiver.model_config import ModelConfig
from ..archiver.unpack import ModelArchive
from ..handlers.protocol import Metric, RequestHead, WorkerConfig
from .autoscaler.config import sleeps
from .errors import NoWorker
from .processes import Children
from .registry import VersionRecord
from .routing import ModelRoute, Replica
from .serving import DEFAULT_RETRY_SECONDS
from .settings import Settings
from .worker_process import WorkerProcess, start_worker
from .workers import Death, State, Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What every pool shares."""

    settings: Settings
    children: Children
    sockets: str  # the folder of the workers' sockets
    environment: Mapping[str, str]
    next_worker_id: Callable[[], str]
    take_gpus: Callable[[list[int], int], list[int]]
    changed: Callable[[], None]
    log_line: Callable[[str, str, str], None]  # worker's thread name, stream, line
    on_metric: Callable[[Metric], None]
    on_loaded: Callable[[str, float], None]  # worker's thread name, seconds
    server_version: str


def gpus_of_a_worker(config: ModelConfig) -> int:
    """More than one for models whose processes, or whose handler, spread over several."""
    if not config.parallelType:
        return 1
    ranks = (config.torchrun or {}).get("nproc-per-node")
    return max(1, ranks if isinstance(ranks, int) else 1, config.parallelLevel or 1)


class Pool:
    def __init__(
        self, record: VersionRecord, archive: ModelArchive, around: Surroundings, python: tuple[str, ...] = ()
    ) -> None:
        self.record = record
        self.archive = archive
        self.workers: list[Worker] = []
        self._around = around
        self._python = python
        self._last_error = ""
        self._stopping: set[asyncio.Task[None]] = set()
        self._capabilities: list[str] = []  # as the last loaded worker told them; they outlive it

    @property
    def label(self) -> str:
        return f"{self.record.name}_{self.record.version}"

    @property
    def failed(self) -> bool:
        return any(worker.state is State.FAILED for worker in self.workers)

    @property
    def last_error(self) -> str:
        return next((w.last_error for w in self.workers if w.last_error), self._last_error)

    @property
    def last_death(self) -> Death | None:
        return max((w.last_death for w in self.workers if w.last_death), key=lambda death: death.at, default=None)

    def try_command(self, archive: str) -> str:
        """The command that shows in the foreground what its workers do."""
        handler = ["--handler", self.record.handler] if self.record.handler else []
        return shlex.join(["flambeau", "try", archive, *handler])

    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state is State.READY]

    def add(self, count: int) -> list[Worker]:
        """Starts `count` more workers, without waiting for them."""
        started = [self._start() for _ in range(count)]
        self.workers += started
        return started

    def take_away(self, count: int) -> "list[asyncio.Task[None]]":
        """Takes `count` workers out of the routes at once; the tasks end when they have finished what they had."""
        useless_first = sorted(
            self.workers, key=lambda w: (w.state is State.READY, w.state is not State.FAILED, -int(w.id))
        )
        leaving = useless_first[:count]
        for worker in leaving:
            self._last_error = worker.last_error or self._last_error
        self.workers = [worker for worker in self.workers if worker not in leaving]
        tasks = [asyncio.create_task(w.stop(self._around.settings.unregister_model_timeout)) for w in leaving]
        for task in tasks:
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        self._around.changed()  # before the tasks begin
        return tasks

    async def emptied(self) -> None:
        """Waits until those that were taken away have gone."""
        while self._stopping:
            await asyncio.wait(self._stopping)

    async def stop(self, drain_seconds: float) -> None:
        """All of them, those that were leaving included."""
        workers, self.workers = self.workers, []
        self._around.changed()
        await asyncio.gather(*(worker.stop(drain_seconds) for worker in workers))
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=drain_seconds)

    async def ask_describe(self) -> bytes:
        """What the handler says of itself (`describe_handle`)."""
        for worker in self.ready():
            if worker.process:
                try:
                    head = RequestHead("describe", "describe", [(b"describe", b"True")])
                    _, body = await worker.process.ask(head, b"", self.record.response_timeout)
                    return body
                except TimeoutError:
                    continue
        raise NoWorker(
            f'Model "{self.record.name}" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        )

    def route(self) -> ModelRoute:
        record, config = self.record, self.archive.config
        return ModelRoute(
            name=record.name,
            version=record.version,
            replicas=[Replica(worker.id, worker.address) for worker in self.ready()],
            ends=dict(worker.ended for worker in self.workers if worker.ended),
            wanted_workers=sum(worker.state in (State.LOADING, State.WAITING) for worker in self.workers),
            batch_size=record.batch_size,
            response_timeout_seconds=record.response_timeout,
            job_queue_size=self.job_queue_size,
            client_timeout_seconds=(config.clientTimeoutInMills or 0) / 1000,
            use_job_ticket=bool(config.useJobTicket),
            manifest_name=self.archive.manifest.model_name or record.name,
            capabilities=self.capabilities,
            model_yaml=config.raw,
            loaded_at_startup=record.loaded_at_startup,
            wake_on_request=self._may_sleep,
        )

    @property
    def _may_sleep(self) -> bool:
        """By the autoscaler's will, or its cell's."""
        config, section = self.archive.config.raw, self.archive.config.raw.get("sax")
        autoscaled = self._around.settings.autoscaler_config is not None and sleeps(config)
        return autoscaled or (isinstance(section, dict) and bool(section.get("dormant_after")))

    @property
    def capabilities(self) -> list[str]:
        told = [worker.process.operations for worker in self.ready() if worker.process]
        self._capabilities = sorted({operation for one in told for operation in one}) or self._capabilities
        return self._capabilities

    @property
    def job_queue_size(self) -> int:
        configured = self.archive.config.jobQueueSize
        return self._around.settings.job_queue_size if configured is None else configured

    @property
    def on_gpu(self) -> bool:
        return any(worker.gpu_id is not None for worker in self.workers)

    def _start(self) -> Worker:
        config = self.archive.config
        gpus = (
            [] if config.deviceType == "cpu" else self._around.take_gpus(config.deviceIds or [], gpus_of_a_worker(config))
        )
        if config.deviceType == "gpu" and not gpus:
            logger.warning(
                "Model %s wants a GPU and gets none: none is seen; number_of_gpu tells how many there are", self.label
            )
        retry = config.maxRetryTimeoutInSec
        return Worker(
            self._around.next_worker_id(),
            self._launch,
            self._around.changed,
            label=self.label,
            try_command=self.try_command(self.record.archive),
            on_loaded=self._around.on_loaded,
            startup_timeout=self.record.startup_timeout,
            retry_seconds=DEFAULT_RETRY_SECONDS if retry is None else retry,
            gpus=gpus,
        )

    async def _launch(self, worker: Worker) -> WorkerProcess:
        around = self._around
        worker.address = f"unix:{around.sockets}/{worker.id}.{worker.generation}"
        thread = f"W-{worker.id}-{self.label}"

        def on_line(stream: str, line: str) -> None:
            worker.tail.append(line)
            around.log_line(thread, stream, line)

        return await start_worker(
            around.children, self._configuration(worker), around.environment, on_line, around.on_metric, self._python
        )

    def _configuration(self, worker: Worker) -> WorkerConfig:
        record, archive, settings = self.record, self.archive, self._around.settings
        named = archive.manifest.named(record.name, record.handler or archive.manifest.handler)
        manifest: dict[str, Any] = archive.manifest.as_json()
        manifest["model"] |= {"modelName": archive.manifest.model_name or record.name, "handler": named.handler}
        return WorkerConfig(
            worker_id=worker.id,
            model=record.name,
            version=record.version,
            model_dir=str(archive.model_dir),
            handler=named.handler or "",
            listen=worker.address,
            manifest=manifest,
            model_yaml=archive.config.raw,
            batch_size=record.batch_size,
            max_batch_delay_seconds=record.max_batch_delay_ms / 1000,
            gpu_id=(0 if archive.config.parallelType else worker.gpus[0]) if worker.gpus else None,
            device_ids=worker.gpus,
            service_envelope=settings.service_envelope,
            limit_max_image_pixels=settings.limit_max_image_pixels,
            decode_input_request=settings.decode_input_request,
            sequence_id_header=settings.ts_header_key_sequence_id,
            sequence_start_header=settings.ts_header_key_sequence_start,
            sequence_end_header=settings.ts_header_key_sequence_end,
            max_response_bytes=settings.max_response_size,
            response_timeout_seconds=record.response_timeout,
            busy_poll_us=settings.busy_poll_us,
            metrics_config=settings.metrics_config,
            metrics_mode=settings.metrics_mode,
            server_version=self._around.server_version,
        )
