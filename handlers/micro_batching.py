"""Micro-batching: a batch is cut into small ones whose steps overlap, so that one is preprocessed while another is inferred.

A handler says in `initialize`: `self.handle = MicroBatching(self, micro_batch_size=4, parallelism={"preprocess": 2})`.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

STEPS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Takes the place of the handler's `handle`."""

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = max(1, micro_batch_size)
        self._parallelism: dict[str, int] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.parallelism = dict.fromkeys(STEPS, 1) | dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads for each step."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, threads: Mapping[str, int]) -> None:
        if unknown := set(threads) - set(STEPS):
            raise ValueError(f"parallelism: {', '.join(sorted(unknown))} is none of {', '.join(STEPS)}")
        for step, count in threads.items():
            if self._parallelism.get(step) != count:
                if step in self._pools:
                    self._pools[step].shutdown()
                self._pools[step] = ThreadPoolExecutor(max(1, count), thread_name_prefix=step)
                self._parallelism[step] = count

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        started = time.monotonic()
        self.handler.context = context
        if self.handler._is_describe():
            answers = [self.handler.describe_handle()]
        elif self.handler._is_explain():
            answers = self.handler.explain_handle(self.handler.preprocess(data), data)
        else:
            answers = self.handle(data)
        context.metrics.sample_time("HandlerTime", time.monotonic() - started)
        return answers

    def handle(self, data: list[Any]) -> list[Any]:
        """All micro-batches are under way at once; each step's threads take them in order."""
        size = self.micro_batch_size
        under_way: list[Future[Any]] = []
        for at in range(0, len(data), size):
            step: Future[Any] = self._pools["preprocess"].submit(self.handler.preprocess, data[at : at + size])
            for name in STEPS[1:]:
                step = self._pools[name].submit(self._next, name, step)
            under_way.append(step)
        return [answer for future in under_way for answer in future.result()]

    def _next(self, name: str, before: "Future[Any]") -> Any:
        return getattr(self.handler, name)(before.result())

    def shutdown(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
