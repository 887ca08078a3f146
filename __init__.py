"""Flambeau: a model server for PyTorch. The repository's root is this package; docs/architecture.md is the map."""

__version__ = "0.1.0"
