"""ts.utils.util"""

import functools
import inspect
import warnings

from flambeau.handlers.base import PredictionException
from flambeau.handlers.labels import load_label_mapping, map_class_to_label

__all__ = [
    "PredictionException",
    "check_valid_pt2_backend",
    "deprecated",
    "get_yaml_config",
    "list_classes_from_module",
    "load_label_mapping",
    "map_class_to_label",
]


def list_classes_from_module(module, parent_class=None):
    """The classes that the module defines itself."""
    own = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    return own if parent_class is None else [kind for kind in own if issubclass(kind, parent_class)]


def get_yaml_config(yaml_file_path):
    import yaml

    with open(yaml_file_path, encoding="utf-8") as file:
        return yaml.safe_load(file) or {}


def check_valid_pt2_backend(backend):
    import torch

    return backend in torch._dynamo.list_backends(exclude_tags=())


def deprecated(version, replacement="", use_instead=""):
    def decorate(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            instead = replacement or use_instead
            warnings.warn(f"{function.__name__} is deprecated since {version}; use {instead}", DeprecationWarning, 2)
            return function(*args, **kwargs)

        return wrapped

    return decorate
