"""ts.torch_handler.request_envelope.kserve"""

from flambeau.handlers.envelopes import KServeEnvelope

__all__ = ["KServeEnvelope"]
