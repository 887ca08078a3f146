"""The fallback runner: one sequence after the other, each with the cache its model makes itself.

Right for every decoder that Hugging Face can run (windows, state spaces, attention of its own), and no faster than its own
`generate()`. Requests still join and leave between steps.
"""

from typing import Any

import torch

from .runner import Output, Unsupported
from .scheduler import Plan
from .sequence import Sequence


class SequentialRunner:
    """Implements Runner."""

    reuses_prefixes = False

    def __init__(self, model: Any, max_model_len: int) -> None:
        config = model.config.get_text_config()
        if getattr(config, "is_encoder_decoder", False):
            raise Unsupported("encoder-decoder models are not served as language models")
        self.model, self.max_model_len, self.vocab_size = model, max_model_len, config.vocab_size
        self.device, self.dtype = model.get_input_embeddings().weight.device, model.dtype
        self._caches: dict[int, tuple[Sequence, Any]] = {}  # by slot

    def run(self, plan: Plan, rows: list[int], hidden: bool) -> Output:
        logits: list[torch.Tensor] = []
        states: list[torch.Tensor] = []
        for row in plan.decode:
            self._one(row, row.computed, row.computed + 1, hidden, logits, states)
        for chunk in plan.chunks:
            self._one(chunk.sequence, chunk.start, chunk.end, hidden, logits, states)
        return Output(torch.cat(logits)[rows], torch.cat(states) if hidden else None)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        raise AssertionError("prefixes are not reused here")

    def give_back(self, slot: int, start: int, end: int) -> None:
        if start == 0:
            self._caches.pop(slot, None)

    def _one(
        self, row: Sequence, start: int, end: int, hidden: bool, logits: list[torch.Tensor], states: list[torch.Tensor]
    ) -> None:
        assert row.slot is not None
        owner, cache = self._caches.get(row.slot, (None, None))
        if owner is not row or start == 0:
            cache, read_from = None, 0  # also when the model keeps no cache: all is read again
        else:
            read_from = start if cache is not None else 0
        out = self.model(
            input_ids=torch.tensor([row.ids[read_from:end]], device=self.device),
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=hidden,
        )
        self._caches[row.slot] = (row, getattr(out, "past_key_values", None))
        logits.append(out.logits[0, start - read_from :])
        if hidden:
            states.append(out.hidden_states[-1][0, start - read_from :])
