"""Keys and values of every layer: a slot for each row, cut into blocks of positions.

On a CPU all of it stands ready at once, as pages of zeros that cost nothing until they are written: memory is used as far
as texts reach, and can be given back. On a GPU it grows by doubling when texts outgrow it.

A layer's keys are [block, slot, head, dim, position in the block], its values [block, slot, head, position, dim]: one
block of neighbouring slots lies in one piece, as a product of matrices wants it, and short rows need no products for the
blocks that only long ones have. Not for: who has which slot (`slots`).
"""

import ctypes
import math
import mmap
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BLOCK = 128  # positions
ALIGNMENT = mmap.PAGESIZE  # so that a slot's block is whole pages, for most models


@dataclass(frozen=True)
class KvShape:
    layers: int
    heads: int
    dim: int


class KvCache:
    def __init__(self, shape: KvShape, slots: int, max_length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.slots, self.max_length, self.dtype, self.device = shape, slots, max_length, dtype, device
        self.blocks = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._small_pages = False
        self.reserve(max_length if device.type == "cpu" else 1)

    def reserve(self, length: int) -> None:
        """Make every slot at least so long; what is kept stays."""
        wanted = -(-length // BLOCK)
        if wanted <= self.blocks:
            return
        old, self.blocks = self.blocks, min(max(wanted, 2 * self.blocks), -(-self.max_length // BLOCK))
        shape, before = self.shape, (self.blocks, self.slots, self.shape.heads)
        for layer in range(shape.layers):
            # Zeros: positions that nobody has written are multiplied too, by nothing, and no NaN may lie there.
            keys, values = self._zeros(*before, shape.dim, BLOCK), self._zeros(*before, BLOCK, shape.dim)
            if old:
                keys[:old], values[:old] = self.keys[layer], self.values[layer]
                self.keys[layer], self.values[layer] = keys, values
            else:
                self.keys.append(keys)
                self.values.append(values)

    def _zeros(self, *shape: int) -> torch.Tensor:
        if self.device.type != "cpu":
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        size = math.prod(shape) * int(self.dtype.itemsize)
        pages = np.zeros(size + ALIGNMENT, dtype=np.uint8)  # torch would write its zeros
        start = -pages.ctypes.data % ALIGNMENT
        return torch.from_numpy(pages[start : start + size]).view(self.dtype).view(shape)

    def write_rows(self, layer: int, at: tuple[torch.Tensor, ...], k: torch.Tensor, v: torch.Tensor) -> None:
        """One position for each of several rows, `at` their (block, slot, position in it); k and v are [rows, heads, dim]."""
        block, slot, place = at
        self.keys[layer][block, slot, :, :, place] = k
        self.values[layer][block, slot, :, place] = v

    def write_chunk(self, layer: int, slot: int, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Consecutive positions of one slot; k and v are [positions, heads, dim]."""
        done = 0
        while done < k.shape[0]:
            block, place = divmod(start + done, BLOCK)
            count = min(BLOCK - place, k.shape[0] - done)
            rows, places = slice(done, done + count), slice(place, place + count)
            self.keys[layer][block, slot, :, :, places] = k[rows].permute(1, 2, 0)
            self.values[layer][block, slot, :, places] = v[rows].transpose(0, 1)
            done += count

    def read(self, layer: int, slot: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a slot up to `end`, [heads, positions, dim]."""
        used = -(-end // BLOCK)
        keys = self.keys[layer][:used, slot].permute(1, 0, 3, 2).reshape(self.shape.heads, -1, self.shape.dim)
        values = self.values[layer][:used, slot].transpose(0, 1).reshape(self.shape.heads, -1, self.shape.dim)
        return keys[:, :end], values[:, :end]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        used = -(-length // BLOCK)
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[:used, target] = keys[:used, source]
            values[:used, target] = values[:used, source]

    def give_back(self, slot: int, start: int, end: int) -> None:
        """The memory of a slot's whole blocks between two positions, which are zeros again; on a CPU only.

        Whoever gives back counts bytes, so huge pages, each a block of many slots, end with the first call.
        """
        if self.device.type != "cpu" or sys.platform != "linux":
            return
        advise = ctypes.CDLL(None).madvise
        for tensor in (*self.keys, *self.values):
            first, size = tensor.data_ptr(), tensor[0, 0].nbytes
            if not self._small_pages:
                _whole_pages(advise, first, first + tensor.nbytes, mmap.MADV_NOHUGEPAGE)
            for block in range(-(-start // BLOCK), min(-(-end // BLOCK), self.blocks)):
                begin = first + (block * self.slots + slot) * size
                _whole_pages(advise, begin, begin + size, mmap.MADV_DONTNEED)
        self._small_pages = True


def _whole_pages(advise: Any, begin: int, end: int, advice: int) -> None:
    """Of the bytes between two addresses; the rest of their first and last page is somebody else's."""
    begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
