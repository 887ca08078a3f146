"""`context.metrics`: what handlers count and measure, kept until the worker sends it over its control link.

The names of the methods are TorchServe's. A metric may be declared in metrics.yaml; one that is not is made when it is first
added. Not for: how metrics look in a log or to Prometheus, which is the server's.
"""

import time
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from .protocol import Metric

SAMPLE_SECONDS = 0.1
TIME_UNITS = {"ms": "Milliseconds", "s": "Seconds"}
SIZE_UNITS = {"B": "Bytes", "kB": "Kilobytes", "MB": "Megabytes", "GB": "Gigabytes"}
UNITS = TIME_UNITS | SIZE_UNITS | {"": "unit", "percent": "Percent", "count": "Count"}


class MetricTypes(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Dimension:
    """A name and a value by which a metric is told apart."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"


class DeclaredMetric:
    """One metric with the names of its dimensions; what `get_metric` answers."""

    def __init__(self, metrics: "Metrics", name: str, unit: str, kind: MetricTypes, dimensions: Sequence[str]) -> None:
        self.metric_name = name
        self.unit = UNITS.get(unit, unit)
        self.metric_type = kind
        self.dimension_names = list(dimensions)
        self._metrics = metrics

    def add_or_update(self, value: float, dimension_values: Sequence[Any] = (), request_id: str = "") -> None:
        """One value in the order of the declared dimensions."""
        if len(dimension_values) != len(self.dimension_names):
            raise ValueError(f"{self.metric_name}: {len(dimension_values)} values for {self.dimension_names}")
        labels = [(name, str(value)) for name, value in zip(self.dimension_names, dimension_values, strict=True)]
        self._metrics.pending.append(
            Metric(self.metric_name, self.metric_type.value, self.unit, float(value), labels, request_id)
        )

    def update(self, value: float, request_id: str = "", dimensions: Iterable[Dimension] = ()) -> None:
        """As older handlers say it, with named dimensions."""
        given = {dimension.name: dimension.value for dimension in dimensions}
        self.add_or_update(value, [given.get(name, "") for name in self.dimension_names], request_id)


class Metrics:
    """One per worker. `request_ids` are those of the running batch.

    `sample_seconds`: how far apart two values of the worker's own gauges are at least; 0 takes them all.
    """

    def __init__(self, model: str = "", sample_seconds: float = SAMPLE_SECONDS) -> None:
        self.model_name = model
        self._sample_seconds = sample_seconds
        self.request_ids: dict[int, str] = {}
        self.pending: list[Metric] = []
        self._sampled: dict[str, float] = {}  # when `sample_time` last took one
        self.cache: dict[MetricTypes, dict[str, DeclaredMetric]] = {kind: {} for kind in MetricTypes}

    def declare(self, section: dict[str, Any]) -> None:
        """The `model_metrics` of a metrics.yaml."""
        for kind in MetricTypes:
            for metric in section.get(kind.value) or ():
                self.add_metric_to_cache(metric["name"], metric.get("unit", ""), metric.get("dimensions") or (), kind)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> DeclaredMetric:
        metric = DeclaredMetric(self, metric_name, unit, metric_type, dimension_names)
        self.cache[metric_type][metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> DeclaredMetric:
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise KeyError(f"no {metric_type.value} {metric_name}: declare it in metrics.yaml or add it first") from None

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str = "",
        idx: int | None = None,
        dimensions: Iterable[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Without dimensions: the model's. `idx` names the request of the batch that it belongs to, None all of them."""
        request_id = self.request_ids.get(idx, "") if idx is not None else ",".join(self.request_ids.values())
        if dimensions is None:
            labels = [("ModelName", self.model_name), ("Level", "Model")]
        else:
            labels = [(dimension.name, str(dimension.value)) for dimension in dimensions]
        self.pending.append(Metric(name, metric_type.value, UNITS.get(unit, unit), float(value), labels, request_id))

    def add_counter(self, name: str, value: float, idx: int | None = None, dimensions: Iterable[Any] | None = None) -> None:
        self.add_metric(name, value, "Count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Iterable[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, _known(unit, TIME_UNITS), idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Iterable[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, _known(unit, SIZE_UNITS), idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Iterable[Any] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, "Percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Iterable[Any] | None = None) -> None:
        self.add_metric(name, value, "", None, dimensions, MetricTypes.COUNTER)

    def sample_time(self, name: str, seconds: float) -> None:
        """The worker's own gauges. On /metrics one value in a tenth of a second is plenty; a log shall have them all."""
        now = time.monotonic()
        if now - self._sampled.get(name, -SAMPLE_SECONDS) >= self._sample_seconds:
            self._sampled[name] = now
            self.add_time(name, round(seconds * 1000, 2))

    def drain(self) -> list[Metric]:
        drained, self.pending = self.pending, []
        return drained


def _known(unit: str, units: dict[str, str]) -> str:
    if unit not in units and unit not in units.values():
        raise ValueError(f"unit {unit!r} is none of {', '.join(units)}")
    return units.get(unit, unit)
