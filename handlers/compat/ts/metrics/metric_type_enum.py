"""ts.metrics.metric_type_enum"""

from flambeau.handlers.metrics import MetricTypes

__all__ = ["MetricTypes"]
