"""ts.torch_handler.vision_handler"""

from flambeau.handlers.vision import VisionHandler

__all__ = ["VisionHandler"]
