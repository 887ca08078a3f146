"""ts.handler_utils.micro_batching"""

from flambeau.handlers.micro_batching import MicroBatching

__all__ = ["MicroBatching"]
