"""ts.metrics.metric_cache_yaml_impl"""

from flambeau.handlers.metrics import Metrics as MetricsCacheYamlImpl

__all__ = ["MetricsCacheYamlImpl"]
