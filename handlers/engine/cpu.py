"""The loops of `loops` on torch's tensors: a layer's operations, and attention of decoding rows, for a CPU.

They take the place of a dozen torch operations each where numba is installed (the extra `llm` brings it). As many threads
as torch has share a loop that is long enough.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

from .kv_cache import BLOCK, KvCache
from .operations import Operations

log = logging.getLogger(__name__)

BITS = {torch.float32: 32, torch.bfloat16: 16}
WORTH_A_THREAD = 200_000  # numbers touched: some 50 µs


@cache
def find(dtype: torch.dtype) -> Any:
    """The compiled `loops.Loops` for such numbers; None where there are none."""
    if dtype not in BITS:
        return None
    try:
        from .loops import PLACES, compiled

        return compiled(BITS[dtype]) if PLACES == BLOCK else None
    except ImportError:
        log.info("numba is not installed: attention and norms run as torch operations, at about two thirds of the speed")
        return None


def array(x: torch.Tensor) -> np.ndarray:
    """The same memory; numbers of 16 bits as integers."""
    found: np.ndarray = x.numpy() if x.dtype == torch.float32 else x.view(torch.int16).numpy()
    return found


def run(loop: Callable[..., None], rows: int, touched: int, *given: object) -> None:
    """The loop over all rows, in parts of about the same number of rows."""
    parts = max(1, min(torch.get_num_threads(), rows, touched // WORTH_A_THREAD))
    bounds = [rows * part // parts for part in range(parts + 1)]
    others = [_threads().submit(loop, *given, *bounds[part : part + 2]) for part in range(1, parts)]
    loop(*given, *bounds[:2])
    for other in others:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), "loops")


class CpuOperations(Operations):
    """Rows as they come out of a product of matrices, in one piece."""

    def __init__(self, epsilon: float, loops: Any) -> None:
        super().__init__(epsilon)
        self._loops = loops

    def add_norm(self, h: torch.Tensor, more: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        normed = torch.empty_like(h)
        given = (array(h), array(more), array(weight), self._epsilon, array(normed))
        run(self._loops.add_norm, len(h), 4 * h.numel(), *given)
        return normed

    def rotate(self, heads: torch.Tensor, turned: int, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if cos.shape[1] != heads.shape[2]:  # a loop would read beyond its end
            return super().rotate(heads, turned, cos, sin)
        run(self._loops.rotate, len(heads), 4 * heads.numel(), array(heads), turned, array(cos), array(sin))
        return heads[:, :turned]

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        gated = x.new_empty((len(x), x.shape[1] // 2))
        run(self._loops.gate, len(x), 4 * x.numel(), array(x), array(gated))
        return gated


class CpuAttention:
    """One query a row over the cache."""

    def __init__(self, cache: KvCache, loops: Any) -> None:
        self._attend, self._cache, self._blocks = loops.attend, cache, 0
        self._layers: list[tuple[np.ndarray, np.ndarray]] = []
        self._slots = self._positions = np.empty(0, np.int64)
        self._seen = 0

    def prepare(self, slots: Sequence[int], positions: Sequence[int]) -> None:
        cache = self._cache
        if self._blocks != cache.blocks:  # it grew, and lies elsewhere now
            self._layers = [(array(keys), array(values)) for keys, values in zip(cache.keys, cache.values, strict=True)]
            self._blocks = cache.blocks
        self._slots, self._positions = np.array(slots, np.int64), np.array(positions, np.int64)
        self._seen = sum(positions) + len(positions)

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """q [rows, query heads, dim], k and v [rows, heads, dim] → [rows, query heads, dim]."""
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        touched = 2 * self._seen * q.shape[1] * q.shape[2]
        rows = (array(q), array(k), array(v), *self._layers[layer], self._slots, self._positions)
        run(self._attend, len(q), touched, *rows, scale, array(out))
        return out


def operations(device: torch.device, dtype: torch.dtype, epsilon: float) -> Operations:
    loops = find(dtype) if device.type == "cpu" else None
    return Operations(epsilon) if loops is None else CpuOperations(epsilon, loops)


def attention(cache: KvCache) -> CpuAttention | None:
    loops = find(cache.dtype) if cache.device.type == "cpu" else None
    return None if loops is None else CpuAttention(cache, loops)
