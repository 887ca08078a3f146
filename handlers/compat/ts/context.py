"""ts.context"""

from flambeau.handlers.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
