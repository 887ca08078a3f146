"""ts.metrics.metric_cache_abstract"""

from flambeau.handlers.metrics import Metrics as MetricCacheAbstract

__all__ = ["MetricCacheAbstract"]
