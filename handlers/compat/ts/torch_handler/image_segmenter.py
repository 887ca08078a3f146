"""ts.torch_handler.image_segmenter"""

from flambeau.handlers.image_segmentation import ImageSegmenter

__all__ = ["ImageSegmenter"]
