"""Each request's metrics as lines of ts_metrics.log, with TorchServe's names and form, when `metrics_mode` is log or legacy.

`QueueTime.Milliseconds:0.2|#Level:Host|#hostname:h,timestamp:1716286225`. Not for: /metrics, which is `metrics`.
"""

import socket
import time
from pathlib import Path

from .line_log import LineLog

STATUSES = {2: b"Requests2XX", 4: b"Requests4XX", 5: b"Requests5XX"}


class MetricsLog(LineLog):
    def __init__(self, path: Path | None) -> None:
        super().__init__(path)
        self._host = socket.gethostname().encode()

    def answered(self, status: int) -> None:
        """A request to any path."""
        if name := STATUSES.get(status // 100):
            self._add(time.time(), b"%b.Count:1.0" % name, b"Level:Host")

    def inferred(self, model: bytes, version: bytes, seconds: float, queue_seconds: float, worker_seconds: float) -> None:
        """`seconds`: in all; in the queue; and outside of both queue and handler."""
        now, labels = time.time(), b"model_name:%b,model_version:%b" % (model, version)
        self._add(now, b"ts_inference_requests_total.Count:1.0", labels)
        self._add(now, b"ts_inference_latency_microseconds.Microseconds:%.3f" % (seconds * 1e6), labels)
        self._add(now, b"ts_queue_latency_microseconds.Microseconds:%.3f" % (queue_seconds * 1e6), labels)
        self._add(now, b"QueueTime.Milliseconds:%.3f" % (queue_seconds * 1e3), b"Level:Host")
        self._add(now, b"WorkerThreadTime.Milliseconds:%.3f" % (max(0.0, worker_seconds) * 1e3), b"Level:Host")

    def _add(self, now: float, measured: bytes, labels: bytes) -> None:
        self.write(b"%b|#%b|#hostname:%b,timestamp:%d" % (measured, labels, self._host, now), now)
