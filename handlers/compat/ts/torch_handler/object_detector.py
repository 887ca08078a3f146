"""ts.torch_handler.object_detector"""

from flambeau.handlers.object_detection import ObjectDetector

__all__ = ["ObjectDetector"]
