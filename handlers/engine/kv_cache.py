"""Keys and values of every layer: a slot for each row, cut into blocks of positions, grown by doubling when texts outgrow them.

A layer's keys are [block, slot, head, dim, position in the block], its values [block, slot, head, position, dim]: one block of
neighbouring slots lies in one piece, as a product of matrices wants it, and short rows need no products for the blocks that
only long ones have. Not for: who has which slot (`slots`).
"""

from dataclasses import dataclass

import torch

BLOCK = 128  # positions


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
        self.reserve(1)

    def reserve(self, length: int) -> None:
        """Make every slot at least so long; what is kept stays."""
        wanted = -(-length // BLOCK)
        if wanted <= self.blocks:
            return
        old, self.blocks = self.blocks, min(max(wanted, 2 * self.blocks), -(-self.max_length // BLOCK))
        shape, before = self.shape, (self.blocks, self.slots, self.shape.heads)
        for layer in range(shape.layers):
            # Zeros: positions that nobody has written are multiplied too, by nothing, and no NaN may lie there.
            keys = torch.zeros((*before, shape.dim, BLOCK), dtype=self.dtype, device=self.device)
            values = torch.zeros((*before, BLOCK, shape.dim), dtype=self.dtype, device=self.device)
            if old:
                keys[:old], values[:old] = self.keys[layer], self.values[layer]
                self.keys[layer], self.values[layer] = keys, values
            else:
                self.keys.append(keys)
                self.values.append(values)

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
