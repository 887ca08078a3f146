"""What GET /metrics answers: the HTTP processes' numbers, the workers' and the control plane's own, added up.

The exposition has the form of the old Java client, which users' scripts expect: a comma before the closing brace, names as
they are. Not for: collecting in the data plane, which is `frontend.metrics`.
"""

import logging
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from ..handlers.protocol import Metric

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, math.inf)  # a handler's own unit

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    name: str
    kind: str  # "counter", "gauge", "histogram"
    help: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)  # (sample name, labels) → value


class Metrics:
    """The control plane's own numbers. Written in its event loop, read in the threads that answer scrapes."""

    def __init__(self) -> None:
        self.hostname = socket.gethostname()
        self._families: dict[str, Family] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float, labels: Labels, help: str = "") -> None:
        with self._lock:
            samples = self._family(name, "counter", help).samples
            samples[name, labels] = samples.get((name, labels), 0.0) + amount

    def set(self, name: str, value: float, labels: Labels, help: str = "") -> None:
        with self._lock:
            self._family(name, "gauge", help).samples[name, labels] = value

    def observe(self, name: str, value: float, labels: Labels, help: str = "") -> None:
        with self._lock:
            samples = self._family(name, "histogram", help).samples
            for bound in BUCKETS:
                key = (f"{name}_bucket", (*labels, ("le", "+Inf" if bound == math.inf else f"{bound:g}")))
                samples[key] = samples.get(key, 0.0) + (value <= bound)
            for suffix, amount in (("_sum", value), ("_count", 1.0)):
                samples[name + suffix, labels] = samples.get((name + suffix, labels), 0.0) + amount

    def clear(self, *names: str) -> None:
        """What is about to be said anew."""
        with self._lock:
            for name in names:
                self._families.pop(name, None)

    def keep_workers(self, present: Collection[str]) -> None:
        """What the others were at when they ended is true of nobody now."""
        with self._lock:
            for family in self._families.values():
                gone = [
                    (n, labels) for n, labels in family.samples if dict(labels).get("WorkerId", "") not in ("", *present)
                ]
                for sample in gone:
                    del family.samples[sample]

    def families(self) -> list[Family]:
        with self._lock:
            return [Family(f.name, f.kind, f.help, dict(f.samples)) for f in self._families.values()]

    def take(self, metric: Metric) -> None:
        """A metric that a handler emitted."""
        labels = (*metric.dimensions, ("Hostname", self.hostname))
        {"counter": self.add, "gauge": self.set}.get(metric.kind, self.observe)(
            metric.name, metric.value, labels, f"Torchserve prometheus {metric.kind} metric with unit: {metric.unit}"
        )

    def _family(self, name: str, kind: str, help: str) -> Family:
        return self._families.setdefault(name, Family(name, kind, help or name))


def metric_line(metric: Metric, hostname: str) -> str:
    """`Name.Unit:value|#dimension:value|#hostname:…,requestID:…,timestamp:…`, as TorchServe logs them."""
    dimensions = ",".join(f"{key}:{value}" for key, value in metric.dimensions)
    request_id = f",requestID:{metric.request_id}" if metric.request_id else ""
    measured = f"{metric.name}.{metric.unit}:{float(metric.value)!r}"
    return f"{measured}|#{dimensions}|#hostname:{hostname}{request_id},timestamp:{int(time.time())}"


def exposition(families: list[Family], wanted: Iterable[str] = ()) -> str:
    """`wanted`: names of samples; none: all."""
    names = set(wanted)
    lines = []
    for family in families:
        samples = [
            (n, labels, v) for (n, labels), v in family.samples.items() if not names or n in names or family.name in names
        ]
        if samples:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
            lines += [f"{name}{_braces(labels)} {_number(value)}" for name, labels, value in samples]
    return "\n".join(lines) + "\n" if lines else ""


def waiting_requests(folder: Path, model: str, version: str) -> int:
    """In the queues of all HTTP processes."""
    wanted = {("model_name", model), ("model_version", version)}
    families = (family for family in _from_processes(folder) if family.name == "flambeau_requests_waiting")
    return int(sum(value for family in families for (_, labels), value in family.samples.items() if wanted <= set(labels)))


def requests_by_model(folder: Path) -> dict[str, tuple[int, int]]:
    """Of all HTTP processes since the server's start: how many arrived, how many of them were refused."""
    arrived, rejected = Counter[str](), Counter[str]()
    count = {"flambeau_requests_arrived_total": arrived, "flambeau_requests_rejected_total": rejected}
    for family in _from_processes(folder):
        for (name, labels), value in family.samples.items():
            if name in count:
                count[name][dict(labels).get("model_name", "")] += int(value)
    return {model: (arrived[model], rejected[model]) for model in arrived}


def all_families(metrics: Metrics, folder: Path) -> list[Family]:
    """The HTTP processes' and the control plane's own."""
    return [*_from_processes(folder), *metrics.families()]


def blueprint(scrape: Callable[[list[str]], str]) -> Blueprint:
    api = Blueprint("metrics", __name__)

    @api.get("/metrics")
    def metrics() -> Response:
        """GET /metrics[?name[]=…]"""
        return Response(scrape(request.args.getlist("name[]")), content_type=CONTENT_TYPE)

    return api


def _from_processes(folder: Path) -> list[Family]:
    if not folder.is_dir():
        return []
    found = []
    for metric in MultiProcessCollector(CollectorRegistry(), path=str(folder)).collect():
        family = Family(metric.name, metric.type, metric.documentation)
        for sample in metric.samples:
            family.samples[sample.name, tuple(sample.labels.items())] = sample.value
        if metric.type == "counter" and all(name != metric.name for name, _ in family.samples):
            family.name += "_total"  # the library takes it off the family, the samples keep it
        found.append(family)
    return found


def _braces(labels: Labels) -> str:
    return "{" + "".join(f'{key}="{_escaped(value)}",' for key, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
