"""Inside a worker process: the handler contract, the ready-made handlers, the worker itself. Knows nothing of HTTP."""

from .base import ContinuousHandler, Handler, PredictionException, Reply, Request
from .base_handler import BaseHandler
from .context import Context

__all__ = ["BaseHandler", "Context", "ContinuousHandler", "Handler", "PredictionException", "Reply", "Request"]
