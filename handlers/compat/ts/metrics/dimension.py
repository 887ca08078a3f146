"""ts.metrics.dimension"""

from flambeau.handlers.metrics import Dimension

__all__ = ["Dimension"]
