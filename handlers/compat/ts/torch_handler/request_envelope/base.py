"""ts.torch_handler.request_envelope.base"""

from flambeau.handlers.envelopes import BaseEnvelope

__all__ = ["BaseEnvelope"]
