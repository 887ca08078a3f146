"""Where metrics go: by metrics_mode into the logs, to /metrics, or both; handlers' ones only if metrics.yaml lets them.

Not for: the exposition (`metrics`), nor the data plane's numbers, which the HTTP processes write themselves.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ..handlers.protocol import Metric
from .errors import SettingsError
from .logs import Logs
from .metrics import Metrics, metric_line
from .pool import Pool
from .settings import Settings
from .system_metrics import of_the_gpus, of_the_host

logger = logging.getLogger(__name__)

WORKERS, RESTARTS, LOAD_TIME = "flambeau_workers", "flambeau_worker_restarts", "WorkerLoadTime"
KINDS = ("counter", "gauge", "histogram")


class Measuring:
    def __init__(self, settings: Settings, logs: Logs) -> None:
        self.metrics = Metrics()
        self.exposed = settings.enable_metrics_api and settings.metrics_mode != "log"
        self._settings, self._logs = settings, logs
        self._logged = settings.metrics_mode != "prometheus"
        detect = settings.model_metrics_auto_detect or settings.metrics_config is None
        self._listed = None if detect else listed_model_metrics(Path(settings.metrics_config or ""))

    def from_handler(self, metric: Metric) -> None:
        if self._listed is None or metric.name in self._listed:
            self._take(metric, self._logs.model_metrics)

    def worker_loaded(self, worker: str, seconds: float) -> None:
        """For the log; scrapes find it by `look`."""
        if self._logged:
            labels = [("WorkerName", worker), ("Level", "Host")]
            metric = Metric(LOAD_TIME, "gauge", "Milliseconds", round(1000 * seconds), labels)
            self._logs.server_metrics.info("%s", metric_line(metric, self.metrics.hostname))

    def look(self, pools: Iterable[Pool]) -> None:
        """Before a scrape: how many workers there are, how often they were started anew, how long they took to load."""
        metrics = self.metrics
        metrics.clear(WORKERS, RESTARTS, LOAD_TIME)
        pools = list(pools)
        metrics.keep_workers({worker.id for pool in pools for worker in pool.workers})
        for pool in pools:
            labels = (("model_name", pool.record.name), ("model_version", pool.record.version))
            counts = Counter(worker.state.value for worker in pool.workers) | Counter(READY=0)
            for state, count in counts.items():
                metrics.set(WORKERS, count, (*labels, ("state", state)), "Workers of the model by state.")
            restarts = sum(worker.restarts for worker in pool.workers)
            metrics.set(RESTARTS, restarts, labels, "How often the present workers were started anew.")
            for worker in pool.workers:
                name = (("WorkerName", f"W-{worker.id}-{pool.label}"), ("Level", "Host"), ("Hostname", metrics.hostname))
                metrics.set(LOAD_TIME, 1000 * worker.load_seconds, name, "Time a worker took to load, in milliseconds.")

    async def watch_the_system(self) -> None:
        """Ends only with the server."""
        if self._settings.disable_system_metrics:
            return
        while True:
            try:
                for metric in [*of_the_host(), *await of_the_gpus()]:
                    self._take(metric, self._logs.server_metrics)
            except Exception:
                logger.exception("System metrics could not be read")
            await asyncio.sleep(self._settings.metric_time_interval)

    def _take(self, metric: Metric, log: logging.Logger) -> None:
        self.metrics.take(metric)
        if self._logged:
            log.info("%s", metric_line(metric, self.metrics.hostname))


def listed_model_metrics(path: Path) -> set[str]:
    """The names below `model_metrics`; SettingsError when the file is no metrics.yaml."""
    try:
        document: Any = yaml.safe_load(path.read_text())
        kinds = document.get("model_metrics") or {}
        return {entry["name"] for kind in KINDS for entry in kinds.get(kind) or []}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise SettingsError(f"metrics_config={path}: {error}") from None
