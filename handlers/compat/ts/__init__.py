"""TorchServe's names for old handlers. Loaded as the top-level package `ts`, hence the absolute imports."""

__version__ = "0.12.0"  # the TorchServe whose behaviour this is
