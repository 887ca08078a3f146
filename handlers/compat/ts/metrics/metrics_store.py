"""ts.metrics.metrics_store"""

from flambeau.handlers.metrics import Metrics as MetricsStore

__all__ = ["MetricsStore"]
