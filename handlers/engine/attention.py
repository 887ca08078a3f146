"""Attention over the KV cache: decoding rows as products of matrices over neighbouring slots, prompts one by one.

What depends on the step and not on the layer (indexes, masks, groups of rows) is made once per step, by `prepare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from .kv_cache import KvCache

# A group costs as much as this many products of a row with a position, measured on a CPU: it decides how rows are grouped.
GROUP_OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class Group:
    """Decoding rows in neighbouring slots."""

    first: int  # row of the batch
    last: int
    low: int  # slot
    high: int
    length: int  # positions, of the longest
    slots: torch.Tensor | None  # each row's slot, counted from `low`; None when all slots between are taken
    mask: torch.Tensor  # [slots, 1, 1, length], added to the scores


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
        self._slots = self._positions = torch.empty(0, dtype=torch.long)
        self._groups: list[Group] = []
        self._parts: list[Part] = []
        self._division: tuple[tuple[int, ...], list[tuple[int, int]]] = ((), [])

    def prepare(self, slots: Sequence[int], positions: Sequence[int], parts: Sequence[tuple[int, int, int]]) -> None:
        """Decoding rows with their slots (ascending) and positions; then chunks as (slot, start, end)."""
        self.cache.reserve(1 + max([*positions, *(end for _, _, end in parts)], default=0))
        device = self.cache.device
        self._decode = len(slots)
        self._slots = torch.tensor(slots, dtype=torch.long, device=device)
        self._positions = torch.tensor(positions, dtype=torch.long, device=device)
        self._groups = [self._group(slots, positions, first, last) for first, last in self._divide(slots, positions)]
        self._parts, row = [], len(slots)
        for slot, start, end in parts:
            mask = None
            if start:
                seen = torch.arange(end, device=device)[None] <= torch.arange(start, end, device=device)[:, None]
                mask = torch.zeros(seen.shape, dtype=self.cache.dtype, device=device).masked_fill_(~seen, float("-inf"))
            self._parts.append(Part(row, row + end - start, slot, start, end, mask))
            row += end - start

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """q [rows, query heads, dim], k and v [rows, heads, dim] → [rows, query heads, dim of values]."""
        cache, decode = self.cache, self._decode
        heads, shared = k.shape[1], q.shape[1] // k.shape[1]
        out = q.new_empty((q.shape[0], q.shape[1], v.shape[2]))
        if decode:
            cache.write_rows(layer, self._slots, self._positions, k[:decode], v[:decode])
            queries = (q[:decode] * scale).reshape(decode, heads, shared, -1)
            result = out[:decode].view(decode, heads, shared, -1)
            for group in self._groups:
                result[group.first : group.last] = self._attend(layer, group, queries[group.first : group.last])
        for part in self._parts:
            rows = slice(part.first, part.last)
            cache.write_chunk(layer, part.slot, part.start, k[rows], v[rows])
            if part.mask is None:
                keys, values = k[rows].transpose(0, 1), v[rows].transpose(0, 1)
            else:
                keys, values = cache.read(layer, part.slot, part.end)
            attended = scaled_dot_product_attention(
                q[rows].transpose(0, 1)[None],
                keys[None],
                values[None],
                attn_mask=part.mask,
                is_causal=part.mask is None,
                scale=scale,
                enable_gqa=shared > 1,
            )
            out[rows] = attended[0].transpose(0, 1)
        return out

    def _attend(self, layer: int, group: Group, queries: torch.Tensor) -> torch.Tensor:
        if group.slots is not None:
            spread = queries.new_zeros((group.high - group.low, *queries.shape[1:]))
            spread[group.slots] = queries
            queries = spread
        keys = self.cache.keys_by_position_last(layer, group.low, group.high, group.length)
        scores = torch.matmul(queries, keys).float().add_(group.mask)
        weights = torch.softmax(scores, dim=-1).to(queries.dtype)
        out = torch.matmul(weights, self.cache.values[layer][group.low : group.high, :, : group.length])
        return out if group.slots is None else out[group.slots]

    def _group(self, slots: Sequence[int], positions: Sequence[int], first: int, last: int) -> Group:
        device = self.cache.device
        low, high = slots[first], slots[last - 1] + 1
        length = max(positions[first:last]) + 1
        compact = high - low == last - first
        relative = torch.tensor([slot - low for slot in slots[first:last]], device=device)
        ends = torch.zeros(high - low, dtype=torch.long, device=device)  # nobody's rows see one position
        ends[relative] = self._positions[first:last]
        hidden = torch.arange(length, device=device)[None] > ends[:, None]
        mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))[:, None, None]
        return Group(first, last, low, high, length, None if compact else relative, mask)

    def _divide(self, slots: Sequence[int], positions: Sequence[int]) -> list[tuple[int, int]]:
        """Rows into groups so that the products cost least; the answer holds while the same rows go on for a while."""
        key = (*slots, *(position // 32 for position in positions))
        if self._division[0] == key:
            return self._division[1]
        best: list[tuple[float, int]] = [(0.0, 0)]  # for each number of rows: the cost, and where its last group begins
        for last in range(1, len(slots) + 1):
            longest, options = 0, []
            for first in range(last - 1, -1, -1):
                longest = max(longest, positions[first])
                cost = best[first][0] + GROUP_OVERHEAD + (slots[last - 1] + 1 - slots[first]) * longest
                options.append((cost, first))
            best.append(min(options))
        groups, last = [], len(slots)
        while last:
            groups.append((best[last][1], last))
            last = best[last][1]
        self._division = (key, groups[::-1])
        return self._division[1]
