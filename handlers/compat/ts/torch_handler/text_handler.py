"""ts.torch_handler.text_handler"""

from flambeau.handlers.text_classification import TextHandler

__all__ = ["TextHandler"]
