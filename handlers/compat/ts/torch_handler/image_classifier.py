"""ts.torch_handler.image_classifier"""

from flambeau.handlers.image_classification import ImageClassifier

__all__ = ["ImageClassifier"]
