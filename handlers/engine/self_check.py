"""Does a runner give what the model itself gives? Asked once, while loading: a wrong answer must not reach a client.

A model's own forward pass over two short texts is compared with the runner's, which reads them in chunks and mixed with
each other, as it will later.
"""

from typing import Any

import torch

from ..generation import SamplingParams
from .interface import Event
from .runner import Runner, Unsupported
from .scheduler import Chunk, Plan
from .sequence import Sequence

TEXTS = ([7, 3, 11, 2, 9, 14, 5, 8, 1, 13, 4, 6], [10, 2, 15, 7, 1])
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


def expected(model: Any) -> list[torch.Tensor]:
    """The model's own logits; taken before a runner changes the model."""
    device, size = model.get_input_embeddings().weight.device, model.config.get_text_config().vocab_size
    return [model(input_ids=torch.tensor([_ids(size, text)], device=device)).logits[0].float() for text in TEXTS]


def check(runner: Runner, wanted: list[torch.Tensor]) -> None:
    """Unsupported when the runner's logits are others."""
    first, second = (_sequence(_ids(runner.vocab_size, text), slot) for slot, text in enumerate(TEXTS))
    got: dict[tuple[int, int], torch.Tensor] = {}
    # The first text in two chunks, then token by token beside the second, which is read at once.
    _run(runner, got, [], [Chunk(first, 0, 5)])
    _run(runner, got, [], [Chunk(first, 5, 9)])
    _run(runner, got, [(first, 9)], [Chunk(second, 0, 4)])
    _run(runner, got, [(first, 10), (second, 4)], [])
    for (slot, position), logits in got.items():
        right = wanted[slot][position]
        error = float((logits - right).norm() / right.norm().clamp_min(1e-9))
        if not error < TOLERANCE.get(runner.dtype, 6e-2):
            raise Unsupported(
                f"its logits differ from the model's own by {error:.1e} at position {position}", untouched=False
            )


def _run(
    runner: Runner, got: dict[tuple[int, int], torch.Tensor], decode: list[tuple[Sequence, int]], chunks: list[Chunk]
) -> None:
    whole = {id(row): list(row.ids) for row, _ in decode}
    for row, position in decode:
        row.computed, row.ids = position, row.ids[: position + 1]
    try:
        places = [(row.slot or 0, position) for row, position in decode]
        places += [(chunk.sequence.slot or 0, position) for chunk in chunks for position in range(chunk.start, chunk.end)]
        output = runner.run(Plan([row for row, _ in decode], chunks), list(range(len(places))), False)
        for place, logits in zip(places, output.logits.float(), strict=True):
            got[place] = logits
    finally:
        for row, _ in decode:
            row.ids = whole[id(row)]


def _sequence(ids: list[int], slot: int) -> Sequence:
    row = Sequence(0, 0, ids, SamplingParams(), _deaf, "generate", (0, 0), 0)
    row.slot = slot
    return row


def _ids(size: int, text: list[int]) -> list[int]:
    return [token % size for token in text]


def _deaf(event: Event) -> None:
    """Nobody listens to a check."""
