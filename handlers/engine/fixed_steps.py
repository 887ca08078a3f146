"""Decoding steps of a fixed shape, recorded once as CUDA graphs and played again: a small model leaves a GPU idle otherwise.

Rows are padded to a power of two, and so are the blocks of positions that they look at; the padding writes to a slot that
nobody reads. What records is an argument, so that tests on a CPU meet all of this but CUDA's own calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .attention import Attention
from .kv_cache import BLOCK
from .scheduler import Plan

WARM_UP = 2  # runs before recording, in which kernels choose their workspaces

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Recorder(Protocol):
    """From a step and the tensors it is given to what plays it again, whatever these hold by then."""

    def __call__(
        self, step: Callable[..., torch.Tensor], given: tuple[torch.Tensor, ...]
    ) -> Callable[[], torch.Tensor]: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """One shape's inputs and outputs, which keep their places in memory."""

    ids: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor
    play: Callable[[], torch.Tensor]


class FixedSteps:
    def __init__(self, step: Step, attention: Attention, spare_slot: int, recorder: Recorder) -> None:
        self._step, self._attention, self._spare, self._recorder = step, attention, spare_slot, recorder
        self._recorded: dict[tuple[int, int], Recorded] = {}
        self._blocks = 0

    def run(self, plan: Plan) -> torch.Tensor:
        """Logits of the plan's decoding rows."""
        rows = plan.decode
        cache = self._attention.cache
        longest = max(row.computed for row in rows) + 1
        cache.reserve(longest)
        if cache.blocks != self._blocks:  # it grew, and lies elsewhere now
            self._recorded, self._blocks = {}, cache.blocks
        padded, blocks = _power(len(rows)), min(_power(-(-longest // BLOCK)), cache.blocks)
        if (padded, blocks) not in self._recorded:
            self._recorded[padded, blocks] = self._record(padded, blocks)
        recorded = self._recorded[padded, blocks]
        rest = padded - len(rows)
        values = [
            [row.ids[-1] for row in rows] + [0] * rest,
            [row.slot or 0 for row in rows] + [self._spare] * rest,
            [row.computed for row in rows] + [0] * rest,
        ]
        given = torch.tensor(values, device=cache.device)
        for place, value in zip((recorded.ids, recorded.slots, recorded.positions), given, strict=True):
            place.copy_(value)
        return recorded.play()[: len(rows)]

    def _record(self, rows: int, blocks: int) -> Recorded:
        device = self._attention.cache.device
        ids, slots, positions = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(3))
        slots.fill_(self._spare)

        def step(ids: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            self._attention.prepare_fixed(slots, positions, blocks)
            return self._step(ids, positions[None])

        return Recorded(ids, slots, positions, self._recorder(step, (ids, slots, positions)))


def cuda_graph(step: Callable[..., torch.Tensor], given: tuple[torch.Tensor, ...]) -> Callable[[], torch.Tensor]:
    device = given[0].device
    stream: Any = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(*given)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(*given)

    def play() -> torch.Tensor:
        graph.replay()
        return out

    return play


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
