"""ts.metrics.metric_cache_errors"""


class MetricsCacheTypeError(TypeError):
    pass


class MetricsCacheKeyError(KeyError):
    pass


class MetricsCachePyYamlError(ValueError):
    pass
