"""ts.torch_handler.request_envelope.__init__"""

__all__ = ["base", "body", "json", "kserve", "kservev2"]
