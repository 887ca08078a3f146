"""ts.metrics.unit"""

from flambeau.handlers.metrics import UNITS


class Units:
    def __init__(self):
        self.units = {**UNITS, None: "unit"}
