"""ts.metrics.metric_abstract"""

from flambeau.handlers.metrics import DeclaredMetric as MetricAbstract

__all__ = ["MetricAbstract"]
