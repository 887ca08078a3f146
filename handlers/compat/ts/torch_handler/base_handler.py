"""ts.torch_handler.base_handler"""

from flambeau.handlers.base_handler import BaseHandler

__all__ = ["BaseHandler"]
