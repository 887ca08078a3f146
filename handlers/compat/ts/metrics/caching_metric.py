"""ts.metrics.caching_metric"""

from flambeau.handlers.metrics import DeclaredMetric as CachingMetric

__all__ = ["CachingMetric"]
