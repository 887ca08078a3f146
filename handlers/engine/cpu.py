"""The loops of `loops` on torch's tensors, for a CPU: a layer's operations, attention of decoding rows, products with packed
matrices.

They take the place of a dozen torch operations each where numba is installed (the extra `llm` brings it). As many threads
as torch has share a loop that is long enough.
"""

import ctypes
import logging
import os
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
COLUMNS, DEPTH = 64, 32  # oneDNN's blocks of a packed matrix
TOGETHER = 8  # rows that take as long to multiply as the matrix takes to read
NEAR = 0.02  # what was read from a wrong place would be far off
THREADS = 2 if os.environ.get("OMP_WAIT_POLICY") == "PASSIVE" else 1  # torch's would keep the cores busy that ours need
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
        log.info("numba is not installed: attention, norms and products are torch's, at about half the speed")
        return None


def array(x: torch.Tensor) -> np.ndarray:
    """The same memory; numbers of 16 bits as integers."""
    found: np.ndarray = x.numpy() if x.dtype == torch.float32 else x.view(torch.int16).numpy()
    return found


def pairs(x: torch.Tensor) -> np.ndarray:
    """The same memory; numbers of 16 bits two by two as an integer."""
    found: np.ndarray = x.numpy() if x.dtype == torch.float32 else x.view(torch.int32).numpy()
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


class Product:
    """A matrix as oneDNN has packed it, read where it lies: [panel, depth, 64 columns], the last panel filled up with zeros;
    numbers of 16 bits in pairs, neighbours in depth."""

    def __init__(
        self, packed: torch.Tensor, shape: torch.Size, bias: torch.Tensor | None, multiply: Callable[..., None]
    ) -> None:
        self._packed, self._columns, self._multiply = packed, shape[0], multiply
        kind = np.float32 if packed.dtype == torch.float32 else np.int32
        memory = (ctypes.c_char * torch.ops.mkldnn._nbytes(packed)).from_address(torch.ops.mkldnn.data_ptr(packed))
        self._panels = np.frombuffer(memory, kind).reshape(-(-shape[0] // COLUMNS), -1, COLUMNS)
        self._bias = array(torch.zeros(shape[0], dtype=packed.dtype) if bias is None else bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, depth] in one piece to [rows, columns]."""
        y = x.new_empty((len(x), self._columns))
        given = (pairs(x), self._panels, self._bias, array(y))
        run(self._multiply, len(self._panels), self._panels.size * -(-len(x) // TOGETHER), *given)
        return y


def product(packed: torch.Tensor, shape: torch.Size, bias: torch.Tensor | None) -> Product | None:
    """For a matrix [columns, depth]; None where it does not lie that way, and for more threads than this was measured with."""
    loops, (columns, depth) = find(packed.dtype), shape
    if loops is None or loops.multiply is None or depth % DEPTH or torch.get_num_threads() > THREADS:
        return None
    size = -(-columns // COLUMNS) * COLUMNS * depth * packed.dtype.itemsize
    if not hasattr(torch.ops.mkldnn, "data_ptr") or torch.ops.mkldnn._nbytes(packed) != size:
        return None
    found, x = Product(packed, shape, bias, loops.multiply), torch.linspace(-1, 1, depth).to(packed.dtype)[None]
    wanted = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found if torch.allclose(found(x), wanted, rtol=NEAR, atol=NEAR * float(wanted.abs().max())) else None


def operations(device: torch.device, dtype: torch.dtype, epsilon: float) -> Operations:
    loops = find(dtype) if device.type == "cpu" else None
    return Operations(epsilon) if loops is None else CpuOperations(epsilon, loops)


def attention(cache: KvCache) -> CpuAttention | None:
    loops = find(cache.dtype) if cache.device.type == "cpu" else None
    return None if loops is None else CpuAttention(cache, loops)
