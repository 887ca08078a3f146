"""Embeddings from encoders such as MiniLM: what waits is run in padded batches of like length."""

import itertools
import logging
from collections.abc import Sequence as Tokens
from typing import Any

import torch

from ..generation import InvalidRequest, SamplingParams
from .interface import Event, RequestKind, Sink, Stats, check_ids
from .packed import pack_linears

log = logging.getLogger(__name__)
MAX_PADDED_TOKENS = 4096  # of one batch


class EncoderEngine:
    """Implements interface.EngineLike for requests of kind `embed`.

    Longer texts are cut to `max_model_len`; one that ends in `closing`, the tokenizer's last tokens, still does.
    """

    def __init__(
        self, model: Any, *, max_model_len: int, pooling: str = "mean", normalize: bool = True, closing: Tokens[int] = ()
    ) -> None:
        self._model, self._pooling, self._normalize, self._closing = model, pooling, normalize, list(closing)
        pack_linears(model)
        self.max_model_len, self.vocab_size = max_model_len, model.config.vocab_size
        self._device = model.get_input_embeddings().weight.device
        self._handles = itertools.count(1)
        self._waiting: dict[int, tuple[int, list[int], Sink]] = {}  # handle → (priority, tokens, sink)
        self._tokens = self._finished = self._aborted = self._steps = 0

    def add_request(
        self,
        ids: Tokens[int],
        params: SamplingParams,
        sink: Sink,
        *,
        kind: RequestKind = "generate",
        priority: int = 0,
        score_from: int = 1,
        salt: str = "",
    ) -> int:
        if kind != "embed":
            raise InvalidRequest(f"an encoder does not {kind}")
        check_ids(ids, self.vocab_size, "input")
        handle = next(self._handles)
        self._waiting[handle] = (priority, self._cut(list(ids)), sink)
        return handle

    def abort(self, handle: int, index: int | None = None) -> None:
        if self._waiting.pop(handle, None):
            self._aborted += 1

    def complete(self, handle: int, index: int) -> None:
        self.abort(handle)

    def step(self) -> bool:
        batch = self._take()
        if batch:
            self._steps += 1
            try:
                with torch.inference_mode():
                    vectors = self._run([ids for ids, _ in batch])
            except Exception as error:
                log.exception("a step of %d texts failed", len(batch))
                for _, sink in batch:
                    sink(Event(finish="error", error=type(error).__name__))
                return bool(self._waiting)
            for (ids, sink), vector in zip(batch, vectors, strict=True):
                self._tokens += len(ids)
                self._finished += 1
                sink(Event(embedding=vector, finish="stop"))
        return bool(self._waiting)

    def stats(self) -> Stats:
        return Stats(
            waiting=len(self._waiting),
            prompt_tokens=self._tokens,
            finished=self._finished,
            aborted=self._aborted,
            steps=self._steps,
        )

    def drain(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, _, sink in waiting.values():
            sink(Event(finish="abort"))

    def _cut(self, ids: list[int]) -> list[int]:
        limit, end = self.max_model_len, self._closing
        if len(ids) <= limit:
            return ids
        return ids[: limit - len(end)] + end if end and len(end) < limit and ids[-len(end) :] == end else ids[:limit]

    def _take(self) -> list[tuple[list[int], Sink]]:
        """The most urgent that waits the longest, then those of like length, as many as fit."""
        if not self._waiting:
            return []
        first = min(self._waiting, key=lambda handle: (self._waiting[handle][0], handle))
        length = len(self._waiting[first][1])

        def place(handle: int) -> tuple[bool, int, int]:
            priority, ids, _ = self._waiting[handle]
            return handle != first, priority, abs(len(ids) - length)

        order = sorted(self._waiting, key=place)
        batch: list[tuple[list[int], Sink]] = []
        longest = 0
        for handle in order:
            _, ids, sink = self._waiting[handle]
            longest = max(longest, len(ids))
            if batch and longest * (len(batch) + 1) > MAX_PADDED_TOKENS:
                break
            batch.append((ids, sink))
            del self._waiting[handle]
        return batch

    def _run(self, texts: list[list[int]]) -> list[list[float]]:
        longest = max(map(len, texts))
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts], device=self._device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts], device=self._device)
        states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state.float()
        if self._pooling == "cls":
            vectors = states[:, 0]
        elif self._pooling == "last":
            vectors = states[torch.arange(len(texts), device=self._device), mask.sum(1) - 1]
        else:
            vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        result: list[list[float]] = vectors.tolist()
        return result
