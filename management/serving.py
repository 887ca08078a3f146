"""How one version of a model is served: what was registered, what its YAML says and the server's settings, put together.

The precedence is TorchServe's as observed: workers: the YAML, if it is sound, beats the request; batch size and delay: the
request beats the YAML; time-outs: the YAML beats the request, and a YAML that is silent resets them. A number that makes no
sense, such as a batch of -1, counts as not given.
"""

import os
from dataclasses import dataclass

from ..archiver.model_config import ModelConfig
from .errors import BadRequest
from .settings import Settings

WORKERS_PER_CPU = 64  # of one model: a slip of the finger must not start processes until the machine is full
DEFAULT_BATCH_DELAY_MS = 100
DEFAULT_RETRY_SECONDS = 300


@dataclass(frozen=True)
class Registration:
    """What POST /models, or a line of the configuration, asks for; None: not said."""

    url: str
    name: str | None = None
    handler: str | None = None
    runtime: str | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    initial_workers: int | None = None
    max_workers: int | None = None
    response_timeout: float | None = None
    startup_timeout: float | None = None
    make_default: bool = False
    at_startup: bool = False
    trusted: bool = False  # the operator wrote the URL


@dataclass(frozen=True)
class Serving:
    """Seconds inside; what the API writes in milliseconds says so in its name."""

    batch_size: int
    max_batch_delay_ms: int
    min_workers: int
    max_workers: int
    response_timeout: float
    startup_timeout: float


def decide(asked: Registration, config: ModelConfig, settings: Settings, default_workers: int) -> Serving:
    low, high = config.minWorkers or 0, config.maxWorkers or 0
    if not (low > 0 and high >= low):
        low = default_workers if asked.initial_workers is None else max(0, asked.initial_workers)
        high = max(low, asked.max_workers or 0)
    responding, starting = (
        (config.responseTimeout, config.startupTimeout) if config.given else (asked.response_timeout, asked.startup_timeout)
    )
    return Serving(
        batch_size=_first(asked.batch_size, config.batchSize, 1),
        max_batch_delay_ms=_first(asked.max_batch_delay_ms, config.maxBatchDelay, DEFAULT_BATCH_DELAY_MS, least=0),
        min_workers=low,
        max_workers=high,
        response_timeout=responding if responding and responding > 0 else settings.default_response_timeout,
        startup_timeout=starting if starting and starting > 0 else settings.default_startup_timeout,
    )


def _first(*candidates: int | None, least: int = 1) -> int:
    return next(value for value in candidates if value is not None and value >= least)


def require_startable(workers: int) -> None:
    """BadRequest for a number of workers that can't be meant."""
    most = WORKERS_PER_CPU * (os.cpu_count() or 1)
    if workers > most:
        raise BadRequest(f"{workers} workers are more than this machine may start for one model ({most}).")
