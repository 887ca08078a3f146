"""Which GPUs a model's worker uses, and how a large model is spread over them.

The rule: of G GPUs with k for each model, worker g uses group `g mod floor(G / k)`: GPUs `group·k` to `group·k + k - 1`.
"""

from collections.abc import Callable

from .config import ConfigError


def group(gpus: int, per_model: int, worker_gpu: int) -> list[int]:
    """The GPUs of a worker; ConfigError when a model asks for more than there are."""
    if per_model > gpus:
        raise ConfigError(f"handler.num_gpu_per_model: {per_model} are asked for, this machine has {gpus}")
    first = worker_gpu % (gpus // per_model) * per_model
    return list(range(first, first + per_model))


def max_memory(gpus: int, used: list[int], bytes_on: Callable[[int], int]) -> dict[int | str, int]:
    """For accelerate: what it may take on each of its GPUs, and nothing on those of others."""
    return {gpu: bytes_on(gpu) if gpu in used else 0 for gpu in range(gpus)}
