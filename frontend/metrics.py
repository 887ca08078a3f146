"""What the data plane counts: plain numbers per request, copied every few milliseconds to files the control plane reads.

The files are those of prometheus_client's multiprocess mode, so its MultiProcessCollector adds up the HTTP processes; but a
request only adds to Python numbers here, which costs a tenth of what the library's counters cost. Only registered
models become labels. Not for: the exposition on 8082.
"""

import os
import socket
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict, mmap_key

from .metrics_log import MetricsLog

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
FLUSH_SECONDS = 0.005

# TorchServe's counters, then ours; name → help
COUNTERS = {
    "ts_inference_requests_total": "Total number of inference requests.",
    "ts_inference_latency_microseconds": "Cumulative inference duration in microseconds.",
    "ts_queue_latency_microseconds": "Cumulative queue duration in microseconds.",
    "flambeau_requests_arrived_total": "Requests for this model, refused ones too.",
    "flambeau_requests_completed_total": "Requests that a worker has answered.",
    "flambeau_requests_failed_total": "Requests answered with a status 5XX by their worker, or lost when it died.",
    "flambeau_requests_rejected_total": "Requests refused because the queue was full or no worker was there.",
    "flambeau_requests_cancelled_total": "Requests whose client left before the answer.",
}
GAUGES = {
    "flambeau_requests_in_flight": "Requests that workers have.",
    "flambeau_requests_waiting": "Requests that wait in the queue of an HTTP process.",
}
LATEST = {  # TorchServe's gauges of the last request, in milliseconds
    "QueueTime": "Time the last request waited for a worker, in milliseconds.",
    "WorkerThreadTime": "Time the last request spent outside of queue and handler, in milliseconds.",
}
HISTOGRAM = "flambeau_request_seconds"
HISTOGRAM_HELP = "From the request's last byte to the answer's first, in seconds."
STATUSES = {2: "Requests2XX", 4: "Requests4XX", 5: "Requests5XX"}


class Latest:
    """Of the last request, whichever model's, in seconds."""

    __slots__ = ("queue", "worker_thread")

    def __init__(self) -> None:
        self.queue = self.worker_thread = 0.0


class ModelMetrics:
    """One model version's numbers, in this process."""

    __slots__ = (
        "_changed", "arrived", "buckets", "cancelled", "completed", "failed", "in_flight", "labels", "latest", "log",
        "queue_seconds", "rejected", "seconds", "waiting",
    )  # fmt: skip

    def __init__(
        self, name: str, version: str, changed: Callable[[], None], latest: Latest, log: MetricsLog | None = None
    ) -> None:
        self.labels = (name, version)
        self.latest = latest
        self.log = log
        self.arrived = self.completed = self.failed = self.rejected = self.cancelled = self.in_flight = self.waiting = 0
        self.seconds = self.queue_seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self._changed = changed

    def pending(self, outstanding: int, waiting: int) -> None:
        self.in_flight = outstanding - waiting
        self.waiting = waiting
        self._changed()

    def observe(self, status: int, seconds: float, queue_seconds: float, handler_seconds: float) -> None:
        self.latest.queue = queue_seconds
        self.latest.worker_thread = seconds - queue_seconds - handler_seconds
        self.completed += 1
        self.failed += status >= 500
        self.seconds += seconds
        self.queue_seconds += queue_seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        if self.log is not None:
            name, version = self.labels
            self.log.inferred(name.encode(), version.encode(), seconds, queue_seconds, self.latest.worker_thread)


class Metrics:
    """All of this process' numbers. `later(seconds, callback)` is the event loop's timer; `log` gets a line for each."""

    def __init__(
        self, folder: Path, later: Callable[[float, Callable[[], None]], object], log: MetricsLog | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        pid = os.getpid()
        self._counters = MmapedDict(str(folder / f"counter_{pid}.db"))
        self._histograms = MmapedDict(str(folder / f"histogram_{pid}.db"))
        self._gauges = MmapedDict(str(folder / f"gauge_livesum_{pid}.db"))
        self._recent = MmapedDict(str(folder / f"gauge_livemostrecent_{pid}.db"))  # of several processes the newest counts
        self.latest = Latest()
        self.log = log
        self._later = later
        self._scheduled = self._closed = False
        self._models: dict[tuple[str, str], _Exported] = {}
        self._hostname = socket.gethostname()
        self._status_keys = {
            digit: _key(name, name, ("Level", "Hostname"), ("Host", self._hostname), f"Responses with status {digit}XX.")
            for digit, name in STATUSES.items()
        }
        self._latest_keys = [
            _key(name, name, ("Level", "Hostname"), ("Host", self._hostname), help) for name, help in LATEST.items()
        ]
        self.statuses = [0] * 6  # answers by the status' first digit

    def model(self, name: str, version: str) -> ModelMetrics:
        """The same object each time, also when a model comes back after it was unregistered."""
        if (exported := self._models.get((name, version))) is None:
            exported = self._models[name, version] = _Exported(
                ModelMetrics(name, version, self.changed, self.latest, self.log), self._hostname
            )
        return exported.metrics

    def answered(self, status: int) -> None:
        """A request to any path."""
        self.statuses[min(status // 100, 5)] += 1
        if self.log is not None:
            self.log.answered(status)
        self.changed()

    def changed(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        for digit, key in self._status_keys.items():
            self._counters.write_value(key, float(self.statuses[digit]), 0.0)
        now = time.time()
        for key, seconds in zip(self._latest_keys, (self.latest.queue, self.latest.worker_thread), strict=True):
            self._recent.write_value(key, max(0.0, seconds) * 1000, now)
        for exported in self._models.values():
            exported.write(self._counters, self._gauges, self._histograms)

    def close(self) -> None:
        self.flush()
        self._closed = True
        for file in (self._counters, self._histograms, self._gauges, self._recent):
            file.close()


class _Exported:
    """A model's numbers and the keys under which they stand in the files."""

    def __init__(self, metrics: ModelMetrics, hostname: str) -> None:
        self.metrics = metrics
        names, values = ("model_name", "model_version", "hostname"), (*metrics.labels, hostname)
        self._counters = [_key(name, name, names, values, help) for name, help in COUNTERS.items()]
        self._gauges = [_key(name, name, names, values, help) for name, help in GAUGES.items()]
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        self._buckets = [
            _key(HISTOGRAM, f"{HISTOGRAM}_bucket", (*names, "le"), (*values, bound), HISTOGRAM_HELP) for bound in bounds
        ]
        self._sum = _key(HISTOGRAM, f"{HISTOGRAM}_sum", names, values, HISTOGRAM_HELP)

    def write(self, counters: MmapedDict, gauges: MmapedDict, histograms: MmapedDict) -> None:
        m = self.metrics
        old = (m.completed, m.seconds * 1e6, m.queue_seconds * 1e6)
        counts = (*old, m.arrived, m.completed, m.failed, m.rejected, m.cancelled)
        for key, count in zip(self._counters, counts, strict=True):
            counters.write_value(key, float(count), 0.0)
        for key, value in zip(self._gauges, (m.in_flight, m.waiting), strict=True):
            gauges.write_value(key, float(value), 0.0)
        for key, count in zip(self._buckets, m.buckets, strict=True):
            histograms.write_value(key, float(count), 0.0)
        histograms.write_value(self._sum, m.seconds, 0.0)


def _key(metric: str, name: str, labels: tuple[str, ...], values: tuple[str, ...], help: str) -> str:
    return str(mmap_key(metric, name, list(labels), list(values), help))
