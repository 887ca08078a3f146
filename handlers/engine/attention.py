"""Attention over the KV cache: decoding rows as products of matrices, block by block; prompts one by one.

What depends on the step and not on the layer (indexes, masks, which rows reach into which block) is made once per step, by
`prepare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from . import cpu
from .kv_cache import BLOCK, KvCache

SLOW = 3  # query heads of a key head: in 32 bits a CPU multiplies 4 rows by a matrix in 3/4 of the time that 3 take


@dataclass(frozen=True, slots=True)
class Reach:
    """The decoding rows that reach into a block: neighbours in neighbouring slots, or picked out."""

    block: int
    rows: slice | torch.Tensor
    slots: slice | torch.Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk of a prompt."""

    first: int
    last: int
    slot: int
    start: int
    end: int
    mask: torch.Tensor | None  # [chunk, positions]; None when it starts at 0


class Attention:
    """Implements attention for every layer of one runner."""

    def __init__(self, cache: KvCache) -> None:
        self.cache = cache
        self._decode = 0
        self._loop = cpu.attention(cache)
        self._looped = False
        self._at: tuple[torch.Tensor, ...] = ()
        self._mask = torch.empty(0)
        self._reaches: list[Reach] = []
        self._parts: list[Part] = []

    def prepare(self, slots: Sequence[int], positions: Sequence[int], parts: Sequence[tuple[int, int, int]]) -> None:
        """Decoding rows with their slots (ascending) and positions; then chunks as (slot, start, end)."""
        self.cache.reserve(max([*(position + 1 for position in positions), *(end for _, _, end in parts)]))
        device = self.cache.device
        self._decode = len(slots)
        self._looped = self._loop is not None
        if self._loop is not None:
            self._loop.prepare(slots, positions)
        elif slots:
            reaches = [self._reach(block, slots, positions) for block in range(max(positions) // BLOCK + 1)]
            self._prepare_rows(torch.tensor(slots, device=device), torch.tensor(positions, device=device), reaches)
        self._parts, row = [], len(slots)
        for slot, start, end in parts:
            mask = None
            if start:
                seen = torch.arange(end, device=device)[None] <= torch.arange(start, end, device=device)[:, None]
                mask = torch.zeros(seen.shape, dtype=self.cache.dtype, device=device).masked_fill_(~seen, float("-inf"))
            self._parts.append(Part(row, row + end - start, slot, start, end, mask))
            row += end - start

    def prepare_fixed(self, slots: torch.Tensor, positions: torch.Tensor, blocks: int) -> None:
        """Decoding rows alone, every one over the same number of blocks: nothing depends on what the tensors hold, so the
        step can be recorded once and played again."""
        self._decode, self._parts, self._looped = len(slots), [], False
        self._prepare_rows(slots, positions, [Reach(block, slice(0, len(slots)), slots) for block in range(blocks)])

    def _prepare_rows(self, slots: torch.Tensor, positions: torch.Tensor, reaches: list[Reach]) -> None:
        self._reaches = reaches
        self._at = (positions // BLOCK, slots, positions % BLOCK)
        hidden = torch.arange(len(reaches) * BLOCK, device=positions.device)[None] > positions[:, None]
        mask = torch.zeros(hidden.shape, device=positions.device).masked_fill_(hidden, float("-inf"))
        self._mask = mask[:, None, None]

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """q [rows, query heads, dim], k and v [rows, heads, dim] → [rows, query heads, dim]."""
        rows = self._decode
        if not self._parts:
            return self._attend_rows(layer, q, k, v, scale)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        if rows:
            out[:rows] = self._attend_rows(layer, q[:rows], k[:rows], v[:rows], scale)
        for part in self._parts:
            self._attend_part(layer, part, out, q, k, v, scale)
        return out

    def _attend_rows(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """One query a row, to the same shape."""
        if self._loop is not None and self._looped:
            return self._loop(layer, q, k, v, scale)
        self.cache.write_rows(layer, self._at, k, v)
        queries = (q * scale).unflatten(1, (k.shape[1], -1))
        shared = queries.shape[2]
        if shared == SLOW and queries.dtype == torch.float32:
            queries = pad(queries, (0, 0, 0, 1))
        return self._weigh_rows(layer, queries)[:, :, :shared].reshape(q.shape).to(q.dtype)

    def _weigh_rows(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """[rows, heads, queries of a head, dim], scaled, to the same shape in 32 bits."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        scores = queries.new_zeros((*queries.shape[:3], self._mask.shape[-1]), dtype=torch.float32)
        for reach in self._reaches:
            found = torch.matmul(_take(queries, reach.rows), _take(keys[reach.block], reach.slots))
            part = scores[..., reach.block * BLOCK : (reach.block + 1) * BLOCK]
            if isinstance(reach.rows, slice):
                part[reach.rows] = found
            else:
                part.index_copy_(0, reach.rows, found.float())
        weights = torch.softmax(scores.add_(self._mask), dim=-1).to(queries.dtype)
        out: torch.Tensor | None = None
        for reach in self._reaches:
            part = weights[..., reach.block * BLOCK : (reach.block + 1) * BLOCK]
            found = torch.matmul(_take(part, reach.rows).contiguous(), _take(values[reach.block], reach.slots))
            if out is None:  # every row reaches into the first block
                out = found.float()
            elif isinstance(reach.rows, slice):
                out[reach.rows] += found
            else:
                out.index_add_(0, reach.rows, found.float())
        assert out is not None
        return out

    def _attend_part(
        self,
        layer: int,
        part: Part,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float,
    ) -> None:
        rows = slice(part.first, part.last)
        self.cache.write_chunk(layer, part.slot, part.start, k[rows], v[rows])
        if part.mask is None:
            keys, values = k[rows].transpose(0, 1), v[rows].transpose(0, 1)
        else:
            keys, values = self.cache.read(layer, part.slot, part.end)
        attended = scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=part.mask,
            is_causal=part.mask is None,
            scale=scale,
            enable_gqa=q.shape[1] > k.shape[1],
        )
        out[rows] = attended[0].transpose(0, 1)

    def _reach(self, block: int, slots: Sequence[int], positions: Sequence[int]) -> Reach:
        rows = [row for row, position in enumerate(positions) if position >= block * BLOCK]
        first, last = rows[0], rows[-1] + 1
        if slots[last - 1] - slots[first] == len(rows) - 1:
            return Reach(block, slice(first, last), slice(slots[first], slots[last - 1] + 1))
        device = self.cache.device
        picked = torch.tensor([slots[row] for row in rows], device=device)
        return Reach(block, torch.tensor(rows, device=device), picked)


def _take(x: torch.Tensor, which: slice | torch.Tensor) -> torch.Tensor:
    """`x[which]`; on a CPU index_select is six times faster than indexing."""
    return x[which] if isinstance(which, slice) else x.index_select(0, which)
