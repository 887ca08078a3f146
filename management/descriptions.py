"""What GET /models/{name} says of a version: TorchServe's fields in its order.

`lastError` tells what is wrong now; `lastDeath` how a worker ended last, what it printed, and the command that shows it happen.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import psutil

from .control import ControlPlane
from .pool import Pool
from .registry import VersionRecord
from .serving import DEFAULT_RETRY_SECONDS
from .workers import State, Worker

TRACEBACK = "Traceback (most recent call last)"
FRAME = re.compile(r'\s+File "')
FOLDERS = re.compile(r"""(?<![\w/.:])/(?:[^/\s'":,]+/)+""")  # of absolute paths; an URL's "//" is none


async def describe(
    control: ControlPlane, name: str, version: str | None = None, *, customized: bool = False
) -> list[dict[str, Any]]:
    """`version` "all": every one. NoWorker when `customized` is wanted and nobody can answer."""
    if version == "all":
        records = [record for _, record in sorted(control.registry.versions(name).items())]
    else:
        records = [control.registry.find(name, version)]
    return [await _describe(control, record, customized=customized) for record in records]


async def _describe(control: ControlPlane, record: VersionRecord, *, customized: bool) -> dict[str, Any]:
    pool = control.pools.get((record.name, record.version))
    found = _registered(record) | (_served(pool, control.waiting(record.name, record.version)) if pool else {"workers": []})
    if error := control.broken.get((record.name, record.version)) or (pool.last_error if pool else ""):
        found["lastError"] = error
    if pool and (death := pool.last_death):
        found["lastDeath"] = {
            "at": death.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "cause": death.cause,
            "lastLines": told(death.lines),
            "tryIt": pool.try_command(record.url),
        }
    if customized and pool:
        found["customizedMetadata"] = _parsed(await pool.ask_describe())
    return found


def told(lines: Iterable[str]) -> list[str]:
    """What a handler printed, without a traceback's frames and the server's folders: those are in the log."""
    kept, inside = [], False
    for line in lines:
        inside = line.startswith(TRACEBACK) or FRAME.match(line) is not None or (inside and line.startswith(" "))
        if not inside:
            kept.append(FOLDERS.sub("", line))
    return kept


def _registered(record: VersionRecord) -> dict[str, Any]:
    return {
        "modelName": record.name,
        "modelVersion": record.version,
        "modelUrl": record.url,
        "runtime": record.runtime,
        "minWorkers": record.min_workers,
        "maxWorkers": record.max_workers,
        "batchSize": record.batch_size,
        "maxBatchDelay": record.max_batch_delay_ms,
        "responseTimeout": _plain(record.response_timeout),
        "startupTimeout": _plain(record.startup_timeout),
    }


def _served(pool: Pool, waiting: int) -> dict[str, Any]:
    config = pool.archive.config
    retry = config.maxRetryTimeoutInSec
    return {
        "maxRetryTimeoutInSec": DEFAULT_RETRY_SECONDS if retry is None else retry,
        "clientTimeoutInMills": config.clientTimeoutInMills or 0,
        "parallelType": config.parallelType or "",
        "parallelLevel": config.parallelLevel or 0,
        "deviceType": "gpu" if pool.on_gpu else config.deviceType or "cpu",
        "continuousBatching": bool(config.continuousBatching),
        "useJobTicket": bool(config.useJobTicket),
        "useVenv": bool(config.useVenv),
        "stateful": bool(config.sequenceBatching),
        "sequenceMaxIdleMSec": config.sequenceMaxIdleMSec or 0,
        "sequenceTimeoutMSec": config.sequenceTimeoutMSec or 0,
        "maxNumSequence": config.maxNumSequence or (1 if config.sequenceBatching else 0),
        "maxSequenceJobQueueSize": config.maxSequenceJobQueueSize or (1 if config.sequenceBatching else 0),
        "loadedAtStartup": pool.record.loaded_at_startup,
        "workers": [_worker(worker) for worker in pool.workers],
        "jobQueueStatus": {"remainingCapacity": max(0, pool.job_queue_size - waiting), "pendingRequests": waiting},
    }


def _state(worker: Worker) -> str:
    """TorchServe's word for it."""
    return {State.READY: "READY", State.FAILED: "FAILED", State.STOPPING: "UNLOADING"}.get(worker.state, "LOADING")


def describe_worker(worker: Worker) -> dict[str, Any]:
    """For the dashboard: a worker in plain words."""
    return {
        "id": worker.id,
        "status": _state(worker),
        "pid": worker.pid,
        "memory_bytes": _memory(worker.pid),
        "device": "CPU" if worker.gpu_id is None else f"GPU {worker.gpu_id}",
        "since": worker.started_at.isoformat(timespec="seconds"),
    }


def _worker(worker: Worker) -> dict[str, Any]:
    on_gpu = worker.gpu_id is not None
    return {
        "id": worker.id,
        "startTime": worker.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": _state(worker),
        "memoryUsage": _memory(worker.pid),
        "pid": worker.pid,  # null while there is no process: a number such as -1 would make `kill` mean everybody
        "gpu": on_gpu,
        "gpuUsage": f"gpuId::{worker.gpu_id}" if on_gpu else "N/A",
    }


def _memory(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0


def _plain(seconds: float) -> float:
    return int(seconds) if seconds == int(seconds) else seconds


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
