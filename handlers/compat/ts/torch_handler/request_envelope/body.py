"""ts.torch_handler.request_envelope.body"""

from flambeau.handlers.envelopes import BodyEnvelope

__all__ = ["BodyEnvelope"]
