"""ts.metrics.metric"""

import socket
import time

from flambeau.handlers.metrics import UNITS


class Metric:
    """A metric as older handlers print it: `Name.Unit:value|#dimension:value,…|#hostname:…`."""

    def __init__(self, name, value, unit="", dimensions=None, request_id=None, metric_method=None):
        self.name = name
        self.value = value
        self.unit = UNITS.get(unit or "", unit)
        self.dimensions = dimensions or []
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value):
        self.value = self.value + value if self.metric_method == "counter" else value

    def __str__(self):
        dimensions = ",".join(str(dimension) for dimension in self.dimensions)
        tail = f",{self.request_id}" if self.request_id else ""
        return (
            f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:{socket.gethostname()},{int(time.time())}{tail}"
        )
