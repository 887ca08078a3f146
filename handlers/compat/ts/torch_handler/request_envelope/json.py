"""ts.torch_handler.request_envelope.json"""

from flambeau.handlers.envelopes import JSONEnvelope

__all__ = ["JSONEnvelope"]
