"""Keys and values of every layer, in slots that stand ready: one slot per row, grown by doubling when a text outgrows them.

In 16 bits keys lie transposed, [slot, head, dim, position]: decoding is a product of matrices then, twice as fast on a CPU
as the other way; in 32 bits it is the other way round. Not for: who has which slot (`slots`).
"""

from dataclasses import dataclass

import torch

FIRST_LENGTH = 256
PADDING = 16  # positions more than a power of two: rows that are powers of two apart fall on the same cache lines


@dataclass(frozen=True)
class KvShape:
    layers: int
    heads: int
    key_dim: int
    value_dim: int


class KvCache:
    def __init__(
        self, shape: KvShape, slots: int, max_length: int, dtype: torch.dtype, device: torch.device, fixed: bool = False
    ) -> None:
        self.shape, self.slots, self.max_length, self.dtype, self.device = shape, slots, max_length, dtype, device
        self.transposed = dtype != torch.float32
        self.length = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.reserve(max_length if fixed else min(FIRST_LENGTH, max_length))

    def reserve(self, length: int) -> None:
        """Make every slot at least so long; what is kept stays."""
        if length <= self.length:
            return
        grown = self.length or FIRST_LENGTH
        while grown < length:
            grown *= 2
        old = self.length
        self.length = min(grown, self.max_length)
        shape, padded = self.shape, self.length + PADDING
        key_shape = (shape.key_dim, padded) if self.transposed else (padded, shape.key_dim)
        for layer in range(shape.layers):
            keys = torch.empty((self.slots, shape.heads, *key_shape), dtype=self.dtype, device=self.device)
            values = torch.empty((self.slots, shape.heads, padded, shape.value_dim), dtype=self.dtype, device=self.device)
            if old:
                self._positions(keys, old).copy_(self._positions(self.keys[layer], old))
                values[:, :, :old] = self.values[layer][:, :, :old]
                self.keys[layer], self.values[layer] = keys, values
            else:
                self.keys.append(keys.zero_())  # rows that nobody uses are multiplied too: no NaN may lie there
                self.values.append(values.zero_())
            if old:
                self._tail(keys, old).zero_()
                values[:, :, old:] = 0

    def write_rows(
        self, layer: int, slots: torch.Tensor, positions: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """One position for each of several slots; k and v are [rows, heads, dim]."""
        keys, values = self.keys[layer], self.values[layer]
        if self.transposed:
            keys[slots, :, :, positions] = k
        else:
            keys[slots, :, positions] = k
        values[slots, :, positions] = v

    def write_chunk(self, layer: int, slot: int, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Consecutive positions of one slot; k and v are [positions, heads, dim]."""
        end = start + k.shape[0]
        if self.transposed:
            self.keys[layer][slot, :, :, start:end] = k.permute(1, 2, 0)
        else:
            self.keys[layer][slot, :, start:end] = k.transpose(0, 1)
        self.values[layer][slot, :, start:end] = v.transpose(0, 1)

    def read(self, layer: int, slot: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a slot up to `end`, [heads, positions, dim]."""
        keys = self.keys[layer][slot]
        keys = keys[:, :, :end].transpose(1, 2).contiguous() if self.transposed else keys[:, :end]
        return keys, self.values[layer][slot, :, :end]

    def keys_by_position_last(self, layer: int, low: int, high: int, length: int) -> torch.Tensor:
        """Keys of neighbouring slots as [slots, heads, dim, positions]: what queries are multiplied with."""
        keys = self.keys[layer][low:high]
        return keys[..., :length] if self.transposed else keys[:, :, :length].transpose(2, 3)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        for keys, values in zip(self.keys, self.values, strict=True):
            self._positions(keys[target : target + 1], length).copy_(self._positions(keys[source : source + 1], length))
            values[target, :, :length] = values[source, :, :length]

    def _positions(self, keys: torch.Tensor, length: int) -> torch.Tensor:
        return keys[..., :length] if self.transposed else keys[:, :, :length]

    def _tail(self, keys: torch.Tensor, start: int) -> torch.Tensor:
        return keys[..., start:] if self.transposed else keys[:, :, start:]
