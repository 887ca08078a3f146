"""ts.torch_handler.text_classifier"""

from flambeau.handlers.text_classification import TextClassifier

__all__ = ["TextClassifier"]
