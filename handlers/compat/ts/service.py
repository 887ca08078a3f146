"""ts.service"""

import logging

from flambeau.handlers.base import PredictionException
from flambeau.handlers.context import Context, RequestProcessor

__all__ = ["Context", "PredictionException", "RequestProcessor", "emit_metrics"]

logger = logging.getLogger(__name__)


def emit_metrics(metrics):
    """Older handlers print their metrics; the log keeps them."""
    for metric in metrics or ():
        logger.info("[METRICS]%s", metric)
